"""Runners: how a stage program is started. A program cannot tell which one started it."""
