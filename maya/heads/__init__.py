"""Heads: what is computed from encoder frames."""
