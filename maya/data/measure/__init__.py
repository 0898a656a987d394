"""What the audio of each row is: its length, channels and sound, measured once."""
