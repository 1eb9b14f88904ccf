"""Log-probs of answers: packing, masks, segments, head, shared prefixes, the store."""
