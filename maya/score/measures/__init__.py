"""Measures beside WER and CER: grapheme clusters, accepted spellings, groups, rare words, loops."""
