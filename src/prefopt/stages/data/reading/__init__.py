"""Input files -> rows: sources, file kinds, the known formats, checks of every row, ids and the held-out split.

readers -> files -> strict_json read; opening -> recognise -> formats -> forms -> dialogue give one form; checks, naming, completions finish.
"""
