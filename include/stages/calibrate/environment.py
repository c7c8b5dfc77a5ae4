"""The environment of the calibration's programs, before they import torch and transformers."""

from __future__ import annotations

import os
import sys


def prepare() -> None:
    """Puts the target's folder of packages first, and keeps everything local and out of caches."""
    # A target whose environment has other versions carries these in a folder of their own.
    if site := os.environ.get("HF2TRITON_SITE"):
        sys.path.insert(0, site)
    # Everything is local by now: a missing file must not turn into a network time-out.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # tiktoken keeps copies of what it has read by the path, which another model may have later.
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", "")
