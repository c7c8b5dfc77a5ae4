"""The program of ``make init``: writes `.env` once, with random secrets, and makes the directories that it names.

It uses only the standard library, because it runs before anything is installed.
"""

from __future__ import annotations

import base64
import os
import secrets
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
DOCKER_SOCKET = Path("/var/run/docker.sock")
NOT_ROOT = 50000
"""The user and group of the containers if root starts them: the user `airflow` of the image."""

DIRECTORIES = ("artifacts", "artifacts/servers", "logs", "models", "catalogue", "access")

TEMPLATE = """\
# Written by `make init`; never written again. docs/deploy.md lists what else can be set here.
COMPOSE_PROJECT_NAME=hf2triton

# The artifact store, logs and local models: on a large disk; shared by all hosts, at the same path.
HF2TRITON_DATA={data}
# Of this host alone.
HF2TRITON_GPU_LEASE_DIR={leases}
HF2TRITON_UID={uid}
HF2TRITON_GID={gid}
HF2TRITON_DOCKER_GID={docker_gid}
# GPU stages that may run at once, on all GPU hosts together.
HF2TRITON_GPU_SLOTS=1

HF2TRITON_ADMIN_PASSWORD={admin}
HF2TRITON_POSTGRES_PASSWORD={postgres}
HF2TRITON_REDIS_PASSWORD={redis}
HF2TRITON_JWT_SECRET={jwt}
HF2TRITON_API_SECRET_KEY={api}
HF2TRITON_FERNET_KEY={fernet}
"""


def write_env(path: Path) -> bool:
    """Writes ``path``, readable by its owner only, unless it exists; returns True if written."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    uid, gid = owner()
    with os.fdopen(descriptor, "w") as file:
        file.write(
            TEMPLATE.format(
                data=PROJECT / ".local" / "deploy",
                leases=PROJECT / ".local" / "gpu-leases",
                uid=uid,
                gid=gid,
                docker_gid=DOCKER_SOCKET.stat().st_gid if DOCKER_SOCKET.exists() else gid,
                fernet=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
                **{name: secrets.token_hex(32) for name in ("admin", "postgres", "redis", "jwt", "api")},
            )
        )
    return True


def read_env(path: Path) -> dict[str, str]:
    """The variables in the file, overridden by those of the environment, as in Docker Compose."""
    lines = [line.split("=", 1) for line in path.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return {name: os.environ.get(name, value) for name, value in lines}


def make_directories(env: dict[str, str]) -> None:
    """Makes the directories that the containers mount and write to; existing ones are left unchanged."""
    data = Path(env["HF2TRITON_DATA"])
    for path in (*(data / name for name in DIRECTORIES), Path(env["HF2TRITON_GPU_LEASE_DIR"])):
        if path.exists():
            continue
        path.mkdir(parents=True)
        if os.geteuid() == 0:
            os.chown(path, int(env["HF2TRITON_UID"]), int(env["HF2TRITON_GID"]))


def owner() -> tuple[int, int]:
    """The user and group id of the containers: the caller's, but never root's."""
    return (os.geteuid(), os.getegid()) if os.geteuid() else (NOT_ROOT, NOT_ROOT)


def main() -> int:
    """Runs the program; returns the exit code."""
    path = PROJECT / ".env"
    written = write_env(path)
    print(f"{path}: {'written' if written else 'is there, left as it is'}")
    for secret in (path, path.with_name("settings.env")):
        if secret.exists():
            secret.chmod(0o600)
    make_directories(read_env(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
