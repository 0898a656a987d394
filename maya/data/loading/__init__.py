"""From planned utterances to batches: decoding, augmentation, workers."""
