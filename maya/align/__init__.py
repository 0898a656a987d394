"""Forced alignment of texts with audio: where each word of a given text is spoken."""
