"""The Docker engine of this host."""
