"""Evaluation beyond one table: files of other tools, ROVER, noise, silence, and streaming against offline."""
