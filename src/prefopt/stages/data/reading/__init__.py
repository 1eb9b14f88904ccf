"""Input files -> rows: sources, file kinds, the known formats, checks of every row, ids and the held-out split.

readers -> files -> strict_json read; formats -> converters -> dialogue give one form; checks, naming, completions finish.
"""
