"""Triton Inference Server: its model repository, its processes and its client."""
