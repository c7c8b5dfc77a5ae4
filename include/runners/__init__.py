"""Runners, which start stage programs. A program cannot tell which runner started it."""
