"""Translation behind recognition: NLLB, MADLAD and OPUS-MT through transformers, in a queue of its own."""
