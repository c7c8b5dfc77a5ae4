"""Progress of a download as plain lines, for logs that nobody watches in a terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from include.files import Log
from include.sources.files import megabytes
from include.stages.progress import about

EVERY_S = 5.0


@contextmanager
def progress(directory: Path, total: int, log: Log) -> Iterator[None]:
    """Logs every `EVERY_S` seconds the bytes in ``directory``, out of ``total``, and the rate.

    It reads the directory and not the downloader's progress bars, so it holds for any way the bytes come.
    """
    over = threading.Event()
    arguments = (directory, _bytes_in(directory), total, log, over)
    thread = threading.Thread(target=_watch, args=arguments, name="download-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(directory: Path, before: int, total: int, log: Log, over: threading.Event) -> None:
    began = then = time.monotonic()
    done = 0
    while not over.wait(EVERY_S):
        now, last = time.monotonic(), done
        done = min(max(_bytes_in(directory) - before, 0), total)
        rate = max(done - last, 0) / (now - then)
        left = f", about {about((total - done) / (done / (now - began)))} left" if done else ""
        log(f"{megabytes(done)} of {megabytes(total)}, {rate / 1e6:.1f} MB/s{left}")
        then = now


def _bytes_in(directory: Path) -> int:
    """The size of all files below ``directory``, some of which may vanish meanwhile."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total
