"""BEATs: a Transformer over patches of a filter bank."""
