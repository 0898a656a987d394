"""Decoding of Whisper models."""
