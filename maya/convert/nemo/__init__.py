"""NVIDIA NeMo's `.nemo` archives."""
