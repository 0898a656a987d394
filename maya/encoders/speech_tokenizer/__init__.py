"""SpeechTokenizer's encoder and codes, and a small Transformer over the codes."""
