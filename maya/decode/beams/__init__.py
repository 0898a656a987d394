"""The parts of beam searches: hypotheses of a batch in tensors, their hashes, scores of texts, alignments."""
