"""Zipformer and its parts."""
