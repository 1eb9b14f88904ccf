"""Stage 05: the pairs that the reference model shows to be clear."""
