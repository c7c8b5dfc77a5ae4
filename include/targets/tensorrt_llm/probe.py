"""Runs inside the image, by itself, as ``python3 -c <this text> <candidates as JSON>``: finds its tools.

Standard library only, and nothing of the project: the image is not prepared for it in any way.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

MARKER = "HF2TRITON_PROBE "
DISTRIBUTIONS = ("tensorrt_llm", "tensorrt", "nvidia-modelopt", "transformers", "torch")
_VERSIONS = """
import importlib.metadata as m, json, platform, sys
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def find(candidates: list[str]) -> str | None:
    """The first candidate that exists; one without a slash is looked up on PATH. A directory without its links."""
    for candidate in candidates:
        if os.path.isdir(candidate):  # noqa: PTH112
            return os.path.realpath(candidate)
        if path := shutil.which(candidate):
            return path
    return None


def versions(python: str) -> dict[str, str]:
    """The versions of the packages that an interpreter has."""
    asked = subprocess.run([python, "-c", _VERSIONS, *DISTRIBUTIONS], capture_output=True, text=True)
    found: dict[str, str] = json.loads(asked.stdout) if asked.returncode == 0 else {}
    return found


def best_python(candidates: list[str]) -> tuple[str | None, dict[str, str]]:
    """The first interpreter that has TensorRT-LLM, else the first that there is; with its versions."""
    seen = [(path, versions(path)) for path in map(find, ([c] for c in candidates)) if path]
    having = [entry for entry in seen if "tensorrt_llm" in entry[1]]
    return next(iter(having or seen), (None, {}))


def probe(candidates: dict[str, list[str]]) -> dict[str, object]:
    """Paths of tools by name, and versions by name; tools that were not found are left out."""
    python, found = best_python(candidates.get("python", []))
    tools = {name: find(paths) for name, paths in candidates.items() if name != "python"}
    for variable, name in (("TRT_VERSION", "tensorrt"), ("TRITON_SERVER_VERSION", "tritonserver")):
        if name not in found and os.environ.get(variable):
            found[name] = os.environ[variable]
    return {"tools": {k: v for k, v in {"python": python, **tools}.items() if v}, "versions": found}


if __name__ == "__main__":
    print(MARKER + json.dumps(probe(json.loads(sys.argv[1]))), flush=True)
