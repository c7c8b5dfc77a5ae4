"""Where the records of servers stand below a store's root: ``servers/release-<model>-<n>.json``."""

from __future__ import annotations

from pathlib import Path


def release_record(artifacts: Path, release: str) -> Path:
    """Where the record of a release's server stands; ``release`` is its name, ``<model>/<n>``."""
    return artifacts / "servers" / f"release-{release.replace('/', '-')}.json"


def live_record(artifacts: Path) -> Path:
    """Where the record of a store's live server stands: that of the release that the live link names."""
    link = artifacts / "releases" / "live"
    return release_record(artifacts, str(link.readlink()) if link.is_symlink() else "none")
