"""A program's output as log lines, progress bars included, at a rate that can be read."""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Callable

from include.files import Log

PROGRESS_S = 5.0
_ENDS = re.compile(r"\r?\n|\r")


class Lines:
    """Cuts a byte stream into lines and hands them to ``log``.

    A line that ends in a newline is logged at once. A progress bar, which overwrites itself by "\\r", and text
    that waits for its end are logged when they have been there for `PROGRESS_S` seconds: `feed` must be called
    regularly, with no bytes if there are none. After `rewind` the stream is read from its start again; bytes that
    were seen already are left out.
    """

    def __init__(self, log: Log, now: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._now = now
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._seen = self._position = 0
        self._rest = ""
        self._overwritten = ""
        self._waiting_since: float | None = None

    def feed(self, data: bytes) -> None:
        """Takes the next bytes."""
        new = data[max(0, self._seen - self._position) :]
        self._position += len(data)
        self._seen = max(self._seen, self._position)
        self._rest += self._decoder.decode(new)
        # A "\r" at the end may be half of "\r\n".
        while (end := _ENDS.search(self._rest)) and (end.end() < len(self._rest) or end.group() != "\r"):
            text, self._rest = self._rest[: end.start()], self._rest[end.end() :]
            if end.group() == "\r":
                self._overwritten = text
            else:
                self._overwritten = ""
                self._write(text)
        self._flush_old()

    def rewind(self) -> None:
        """Expects the stream from its first byte again."""
        self._position = 0

    def close(self) -> None:
        """Logs the text that is left."""
        self._write(self._unfinished())
        self._rest = self._overwritten = ""

    def _flush_old(self) -> None:
        if not self._unfinished():
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = self._now()
        elif self._now() - self._waiting_since >= PROGRESS_S:
            self.close()

    def _unfinished(self) -> str:
        return self._rest.strip() or self._overwritten.strip()

    def _write(self, text: str) -> None:
        self._waiting_since = None
        if text.strip():
            self._log(text.rstrip())
