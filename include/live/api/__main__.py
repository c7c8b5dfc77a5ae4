"""The program ``python -m include.live.api``: the OpenAI API on a unix socket, for the proxy alone."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import uvicorn

from include.live.api.app import app
from include.live.api.service import models_file
from include.live.proxy import files_of
from include.settings import settings

# Longer than the proxy keeps an idle connection: who waits for the other to close it loses no request.
_KEEP_ALIVE_S = 300
_GRACE_S = 4


def listen(path: Path) -> socket.socket:
    """A socket that the owner of its directory alone can connect to, in place of one that was left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)
    if os.geteuid() == 0:  # the proxy is never root
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
    return listening


def main() -> int:
    """Serves until it is stopped; returns the exit code."""
    chosen = settings()
    files = files_of(chosen)
    service = app(models_file(chosen), files.grpc)
    config = uvicorn.Config(
        service,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )
    uvicorn.Server(config).run(sockets=[listen(files.api)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
