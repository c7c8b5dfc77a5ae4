"""What is asked: the form of each DAG, the catalogue, the presets."""
