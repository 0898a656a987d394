"""emotion2vec: data2vec 2.0 of speech."""
