"""Progress of a download as plain lines, for logs that nobody watches in a terminal."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType

from include.files import Log
from include.sources.files import megabytes

EVERY_S = 5.0


class Progress:
    """While entered, logs every `EVERY_S` seconds how many of ``total`` bytes ``directory`` has and the rate.

    Reads the directory and not the downloader's progress bars, so it holds for any way the bytes come.
    """

    def __init__(self, directory: Path, total: int, log: Log) -> None:
        self._directory = directory
        self._before = _bytes_in(directory)
        self._total = total
        self._log = log
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="download-progress", daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        then, done = time.monotonic(), 0
        while not self._stop.wait(EVERY_S):
            now, last = time.monotonic(), done
            done = min(max(_bytes_in(self._directory) - self._before, 0), self._total)
            rate = max(done - last, 0) / (now - then)
            self._log(f"{megabytes(done)} of {megabytes(self._total)}, {rate / 1e6:.1f} MB/s")
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
