"""Optimizers and their schedules: AdamW, ScaledAdam, Eden."""
