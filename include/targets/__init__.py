"""Targets: they make an engine of a checkpoint and serve it; one package each, behind `include.targets.base`."""
