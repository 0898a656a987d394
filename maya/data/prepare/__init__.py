"""From rows to the tables of train, dev and test: checks, splits, and what was dropped."""
