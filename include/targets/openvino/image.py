"""The image of target ``openvino``: its name is a digest of its recipe, so a stale image is never used.

Standard library only; ``python3 include/targets/openvino/image.py`` prints the name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = "hf2triton/openvino"
BUILD_COMMAND = "docker build -t $(python3 include/targets/openvino/image.py) include/targets/openvino"


def image(repository: str = REPOSITORY) -> str:
    """``<repository>:<tag>``; the tag is a digest of the Dockerfile and the locked requirements."""
    recipe = b"\0".join(path.read_bytes() for path in (HERE / "Dockerfile", *sorted(HERE.glob("requirements*"))))
    return f"{repository}:{hashlib.sha256(recipe).hexdigest()[:12]}"


if __name__ == "__main__":
    print(image())
