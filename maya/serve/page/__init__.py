"""The web page of the server: microphone or file in, live text out."""
