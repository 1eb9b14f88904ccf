"""Stage 07: preference training."""
