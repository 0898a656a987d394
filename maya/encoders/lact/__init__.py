"""LaCT: layers with fast weights that learn while they read."""
