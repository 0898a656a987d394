"""Maya: speech recognition training, evaluation and serving in pure PyTorch.

Letters used for shapes, the same everywhere: B batch, N samples, T feature frames, S subsampled
frames, F mel bins, D channels, U tokens, V vocabulary with blank, H heads, K head size.
A tensor with a time axis always travels with its lengths.
"""

__version__ = "0.1.0"
