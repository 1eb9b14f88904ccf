"""Reference and expert: PPO, the choice among checkpoints, and the lineages that are shipped."""
