"""What is kept: the artifact store and its pins."""
