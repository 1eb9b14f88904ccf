"""Stage 06: a weight for every pair."""
