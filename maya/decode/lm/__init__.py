"""Language models and hot words for decoding. Each file with a `Scorer` says what it scores;
`fusion_config.py` has the options, `make_fusion.py` builds the scorers of a recogniser."""
