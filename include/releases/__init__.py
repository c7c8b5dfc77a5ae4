"""Releases: their records, the records of their runs, and pruning."""
