"""How a raw row of each public form becomes a row of ours: one function per form; `formats.py` is their table."""
