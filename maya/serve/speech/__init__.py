"""Speech out of the server: engines in processes of their own, `/v1/audio/speech`, and live answers."""
