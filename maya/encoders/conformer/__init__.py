"""FastConformer and the parts that it shares with LaCT."""
