"""Measuring of the audio of each row, once: length, channels and sound."""
