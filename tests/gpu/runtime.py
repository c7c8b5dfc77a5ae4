#!/usr/bin/python3 -I
"""An OCI runtime for a host with the driver but without NVIDIA's toolkit: runc, and the GPUs that a container asks for.

Images of this engine are empty: a container sees the host's programs, read-only. The engine turns a device request into
NVIDIA_VISIBLE_DEVICES, as for NVIDIA's own runtime; only these GPUs become devices of the container.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAMS = ("/usr", "/opt/*", "/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf.d")
STAGE_CODE = "/opt/hf2triton"
"""What runners put there is the container's own."""
SHARED_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
VARIABLE = "NVIDIA_VISIBLE_DEVICES"


def minors(proc: Path) -> dict[str, str]:
    """The numbers of the GPUs' devices by UUID, as the driver tells them, else as nvidia-smi counts them."""
    texts = [path.read_text() for path in sorted(proc.glob("driver/nvidia/gpus/*/information"))]
    if found := {_field("GPU UUID", text): _field("Device Minor", text) for text in texts}:
        return found
    asked = ["nvidia-smi", "--query-gpu=uuid,index", "--format=csv,noheader"]
    listed = subprocess.run(asked, capture_output=True, text=True).stdout.splitlines()
    return dict(line.split(", ") for line in listed)


def nodes(asked: str, known: dict[str, str], dev: Path) -> list[Path]:
    """The device nodes for ``all``, or for ids with commas between them; raises `LookupError` for one that is none."""
    if asked in {"", "void", "none"}:
        return []
    if asked == "all":
        numbers = sorted(path.name[len("nvidia") :] for path in dev.glob("nvidia[0-9]*"))
    else:
        numbers = [known[one] if one.startswith("GPU-") else one for one in asked.split(",")]
    shared = [dev / name for name in SHARED_NODES if (dev / name).exists()]
    return [*(dev / f"nvidia{number}" for number in numbers), *shared]


def prepared(spec: dict[str, Any], proc: Path = Path("/proc"), dev: Path = Path("/dev")) -> dict[str, Any]:
    """The container's ``config.json`` with the host's programs and the GPUs in it."""
    env = dict(variable.split("=", 1) for variable in spec["process"]["env"])
    found = (path for pattern in PROGRAMS for path in sorted(Path("/").glob(pattern[1:])))
    binds = [
        {"destination": str(path), "source": str(path), "type": "bind", "options": ["rbind", "ro"]}
        for path in found
        # The images have the links that they need: a program behind one looks for its libraries beside its own place.
        if str(path) != STAGE_CODE and not (path.is_symlink() and path.is_dir())
    ]
    # After the root's own file systems, before what the container mounts below them.
    spec["mounts"] = [*binds, *spec["mounts"]]
    devices = spec["linux"].setdefault("devices", [])
    rules = spec["linux"].setdefault("resources", {}).setdefault("devices", [])
    asked = env.get(VARIABLE, "")
    for node in nodes(asked, minors(proc) if "GPU-" in asked else {}, dev):
        number = node.stat().st_rdev
        place = {"type": "c", "major": os.major(number), "minor": os.minor(number)}
        devices.append({"path": f"/dev/{node.name}", **place, "fileMode": 0o666, "uid": 0, "gid": 0})
        rules.append({"allow": True, **place, "access": "rwm"})
    return spec


def _field(name: str, text: str) -> str:
    found = re.search(rf"^{name}:\s*(\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def main() -> None:
    arguments = sys.argv[1:]
    if "create" in arguments and "--bundle" in arguments:
        path = Path(arguments[arguments.index("--bundle") + 1]) / "config.json"
        path.write_text(json.dumps(prepared(json.loads(path.read_text()))))
    runc = str(Path(__file__).resolve().with_name("runc"))
    os.execv(runc, [runc, *arguments])


if __name__ == "__main__":
    main()
