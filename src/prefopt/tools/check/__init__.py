"""`prefopt check`: what is wrong with a data file."""
