"""Decoding with attention heads and language model heads: beam search and rescoring."""
