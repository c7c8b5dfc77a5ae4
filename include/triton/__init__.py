"""The server: its repository, its processes, its client."""
