"""Which whole blocks to leave out: one score per file."""
