"""Memory of a GPU that somebody else has: a process of the host's torch holds it for the time of a block."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOLD = """
import sys, torch
free, _ = torch.cuda.mem_get_info()
leave, take = (float(word) * 2**30 for word in sys.argv[1:])
held = torch.empty(int(take or free - leave), dtype=torch.uint8, device="cuda")
print(held.numel(), flush=True)
sys.stdin.read()
"""


@contextmanager
def ballast(python: Path, *, leave_gib: float = 0, take_gib: float = 0) -> Iterator[int]:
    """Takes so much, or all but so much; gives the number of bytes."""
    argv = [python, "-c", _HOLD, str(leave_gib), str(take_gib)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        try:
            said = process.stdout.readline()
            assert said, "no memory could be taken: see the lines above"
            yield int(said)
        finally:
            process.stdin.close()
            process.wait(30)
