"""Measures beside WER and CER: grapheme clusters, accepted spellings, groups of utterances, rare words, loops."""
