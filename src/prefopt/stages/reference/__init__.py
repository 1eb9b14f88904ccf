"""Stage 04: log-probs of the reference model."""
