"""Label looping (Bataev et al. 2024, arXiv:2406.06220): the loops of greedy transducer decoding.

The outer loop goes over labels, so that the predictor runs once per label for all rows that have one. Between
two labels it skips blanks.
"""
