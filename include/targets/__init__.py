"""Targets: where a checkpoint becomes an engine and is served; one package each, behind `include.targets.base`."""
