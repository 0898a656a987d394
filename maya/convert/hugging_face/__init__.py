"""Folders of Hugging Face's Parakeet (transformers), in and out."""
