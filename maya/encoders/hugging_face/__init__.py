"""Encoders of Hugging Face's transformers, from the folders that hold their weights."""
