"""Preparation: checks and splits, from rows to the tables of train, dev and test."""
