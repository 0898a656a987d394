"""Checkpoints of icefall's Zipformer recipe."""
