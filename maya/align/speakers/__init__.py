"""Who speaks when: embeddings of voices, their clusters, and words with speakers."""
