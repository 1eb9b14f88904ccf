"""Stage 00: data files of any known form become one table."""
