"""Stage 03: completions become pairs, by scores or by tournaments of comparisons."""
