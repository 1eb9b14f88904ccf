"""Stage 02: single completions are judged."""
