"""The arguments that close a server off, set at each start in place of what its plan says.

So a plan of an earlier version, which a release keeps for as long as it exists, starts the same way as a new one.
"""

from __future__ import annotations

import re
import resource
import secrets
from collections.abc import Iterator
from pathlib import Path

LOOPBACK = "127.0.0.1"
"""The address of every server: only the proxy listens where the deployment's settings say."""

EVERYWHERE = "0.0.0.0"  # noqa: S104 - inside a container: the published ports decide who can reach it

STACK_BYTES = 512 << 20
"""The stacks of its threads: Triton 2.51 parses nested JSON on them, and keeps what it knows of a body there."""

_PROGRAM = "tritonserver"
_WORD = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
"""What shlex.quote leaves as it is."""
_SERVICES = ("http", "grpc", "metrics")
# The index of the model repository stays open to the gates: it cannot be changed, as the control mode is none.
_CLOSED = "shared-memory,logging,trace"
_RESTRICTIONS = ("--http-restricted-api=", "--grpc-restricted-protocol=")


def closed_off(argv: tuple[str, ...], address: str) -> tuple[str, ...]:
    """The command line with each Triton in it on ``address`` and without control interfaces.

    They are behind a key that is new with each start, and that nobody is told.
    """
    ours = tuple(_flags(address))
    names = tuple(flag.partition("=")[0] + "=" for flag in ours)
    rest = (word for word in argv if not word.startswith(names))
    return tuple(part for word in rest for part in ((word, *ours) if _is_triton(word) else (word,)))


def with_stack(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The command line of a process whose threads have the large stack, as far as this host allows it."""
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    size = STACK_BYTES if most == resource.RLIM_INFINITY else min(STACK_BYTES, most)
    return ("prlimit", f"--stack={size}:", *argv)


def beside_its_models(argv: tuple[str, ...], repository: Path) -> tuple[str, ...]:
    """The command line that starts in the repository's folder, if its path has more than a shell takes for a word.

    Triton's python backend writes the path of a model into a command of bash, without quotes, and Python's own names of
    the modules into its log, which takes no accents from a Python without a locale.
    """
    if _WORD.fullmatch(str(repository)):
        return argv
    near = {f"--model-repository={repository}": f"--model-repository=/proc/self/cwd/{repository.name}"}
    return ("env", f"--chdir={repository.parent}", *(near.get(word, word) for word in argv))


def _is_triton(word: str) -> bool:
    return not word.startswith("-") and Path(word).name == _PROGRAM


def _flags(address: str) -> Iterator[str]:
    for service in _SERVICES:
        yield f"--{service}-address={address}"
    key = secrets.token_hex(16)
    for restriction in _RESTRICTIONS:
        yield f"{restriction}{_CLOSED}:hf2triton-key={key}"
