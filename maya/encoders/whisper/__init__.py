"""Whisper's encoder and the Transformer blocks that its decoder shares (Radford et al. 2022, 2212.04356)."""
