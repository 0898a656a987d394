"""Scores of recordings with several speakers: words by speaker (through meeteval) and who spoke when."""
