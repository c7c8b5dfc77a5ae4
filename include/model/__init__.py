"""What a model is, by its own files."""
