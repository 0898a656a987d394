"""Checkpoints: files, the state in them, averages of weights, the lock of a run folder, resuming."""
