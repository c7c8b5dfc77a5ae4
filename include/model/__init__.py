"""Models, by their own files."""
