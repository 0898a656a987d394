"""Decoding with transducer heads: greedy, and the beam searches ALSD, MAES and modified."""
