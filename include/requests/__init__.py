"""Requests: the form of each DAG, the catalogue of followed models, and the presets."""
