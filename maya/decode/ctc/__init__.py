"""Decoding with CTC heads: greedy, prefix beam, forced alignment, and k2's search where k2 is."""
