"""Artifacts: the store, their kinds, and the pins of runs."""
