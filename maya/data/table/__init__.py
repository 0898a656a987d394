"""The table of a prepared part (Parquet) and the one record of an utterance."""
