"""Parts of `prefopt check`: rows as they stand in the file, what can be wrong with them, near-duplicates, the table."""
