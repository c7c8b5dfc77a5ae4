"""The supervisor: ``python -m include.live.supervise`` brings back whatever the live address lacks, within seconds.

It looks at each served name again and again, and at one while the server of another loads. If its live server or the
proxy is gone, it takes the lock that promotions take, and reconciles that name. The service of the OpenAI API is
started again without that. A server that runs without being ready is left to `check_live_release`: it may be loading.
So is everything that was stopped on purpose (see `LiveAddress.stop` and `LiveAddress.suspend`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product

from include.artifacts.kind import Kind
from include.context import Context
from include.errors import HostError
from include.files import Log
from include.host import services
from include.live.address import LiveAddress
from include.live.daemon import Daemon
from include.live.watch import Watch
from include.releases.ids import ReleaseId
from include.settings import settings

POLL_S = 2.0
_MOST_JOBS = 64  # at a time
NAME = "supervisor"
"""The supervisor's name where others have the id of a DAG run."""


@dataclass
class Supervision:
    """The supervision of one deployment, with the memory of each served name.

    ``api`` is the service of the API unless others see to it.
    """

    context: Context
    api: Daemon | None = None
    files_read: dict[str, ReleaseId] = field(default_factory=dict)
    watches: dict[str, Watch] = field(default_factory=lambda: defaultdict(Watch))
    api_watch: Watch = field(default_factory=Watch)

    def step(self, name: str, now: float) -> None:
        """Looks once at a served name, and starts what is gone unless it is too early for another start."""
        live = LiveAddress(self.context)
        answers = live.answers(name)
        watch = self.watches[name] = self.watches[name].saw(answers, now)
        if answers:
            live.record_answer(name)
        if not watch.may_start(now):
            return
        try:
            acted = live.restore(name, watch.silent_s(now))
        except BaseException:
            self.watches[name] = watch.started(time.monotonic(), answered=False)
            raise
        if acted:
            self.watches[name] = watch.started(time.monotonic(), answered=True)

    def read_ahead(self, name: str) -> None:
        """Checks the signature of what is live, once, so that its next start need not read all its files before."""
        live = self.context.releases.live(name)
        if live and self.files_read.get(name) != live.id:
            self.files_read[name] = live.id
            self.context.signatures.verify(self.context.store.root / Kind.REPOSITORY / live.repository)

    def refresh_access(self) -> None:
        """Takes API keys and certificates that have changed; raises the error of one that cannot be used."""
        for problem in LiveAddress(self.context).refresh_access():
            raise HostError(f"{problem.what}; the last good one stays in use", where=problem.where, fix=problem.fix)

    def tend_api(self, now: float, *, wanted: bool) -> None:
        """Starts the service of the API if it is gone, unless it is too early for another start."""
        if self.api is None:
            return
        self.api_watch = self.api_watch.saw(self.api.runs() if wanted else None, now)
        if self.api_watch.may_start(now):
            self.api.start()
            self.api_watch = self.api_watch.started(now, answered=False)

    def rotate_logs(self) -> None:
        """Cuts off the logs of servers that have grown too long."""
        for log in self.context.settings.log_directory.glob("*.log"):
            services.rotate(log)


def supervise(context: Context, *, while_live: bool) -> None:
    """Supervises until the process is stopped; ``while_live``: or until the deployment has no live release."""
    supervision = Supervision(context, api=Daemon.api(context) if while_live else None)
    said: dict[str, str] = {}

    def look(name: str) -> None:
        with _problems_said(context.log, said, name):
            supervision.step(name, time.monotonic())

    def read_ahead(name: str) -> None:
        with _problems_said(context.log, said, f"files of {name}"):
            supervision.read_ahead(name)

    running: dict[tuple[Callable[[str], None], str], Future[None]] = {}
    with ThreadPoolExecutor(_MOST_JOBS) as pool:
        while (names := context.releases.live_names()) or not while_live:
            for work, name in product((look, read_ahead), names):
                if (work, name) not in running or running[work, name].done():
                    running[work, name] = pool.submit(work, name)
            with _problems_said(context.log, said, "API"):
                supervision.tend_api(time.monotonic(), wanted=bool(names))
            with _problems_said(context.log, said, "logs"):
                supervision.rotate_logs()
            with _problems_said(context.log, said, "access"):
                supervision.refresh_access()
            time.sleep(POLL_S)


@contextmanager
def _problems_said(log: Log, said: dict[str, str], about: str) -> Iterator[None]:
    """Logs an error of the block, unless it was the last one about the same; the next look may go well."""
    problem = ""
    try:
        yield
    except Exception as error:  # whatever goes wrong with one name, the others are looked at
        problem = f"{about}: {type(error).__name__}: {error}"
    if problem and problem != said.get(about):
        log(problem)
    said[about] = problem


def _print(line: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}", flush=True)


def main() -> int:
    """Runs the program; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m include.live.supervise", description=__doc__)
    parser.add_argument("--while-live", action="store_true", help="end when the deployment has no live release")
    arguments = parser.parse_args()
    context = Context(settings=settings(), log=_print, dag_id=NAME, run_id=NAME)
    supervise(context, while_live=arguments.while_live)
    return 0


if __name__ == "__main__":
    sys.exit(main())
