"""Stage 08: what the model is worth."""
