"""Readers of the corpora that people have: each turns files into rows (maya.data.corpus.manifest.Row)."""
