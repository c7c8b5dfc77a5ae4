"""This machine: processes, GPUs, Docker."""
