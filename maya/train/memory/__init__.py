"""Measured memory of a training step, in a process of its own."""
