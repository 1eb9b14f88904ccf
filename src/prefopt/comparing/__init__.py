"""Asking a pairwise judge: tournaments of all prompts in rounds, kept verdicts, and figures of what the judge is worth."""
