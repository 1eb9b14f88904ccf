"""Stage 01: completions of the prompts."""
