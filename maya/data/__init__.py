"""From a corpus folder to batches: reading and checking, splits, lhotse cuts, batch plans, loading."""
