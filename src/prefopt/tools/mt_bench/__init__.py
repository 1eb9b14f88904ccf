"""MT-Bench's protocol: two turns, graded by a judge alone or in pairs, and recorded votes (2306.05685)."""
