"""Recordings of any length: pieces, their joints, and streams of models that do not stream."""
