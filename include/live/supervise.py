"""The supervisor: ``python -m include.live.supervise`` brings back whatever the live address lacks, within seconds.

It looks at the live address again and again. If the live server or the proxy is gone, it takes the lock that
promotions take, and reconciles. The service of the OpenAI API is started again without that. A server that runs
without being ready is left to `check_live_release`: it may be loading. So is everything that was stopped on purpose
(see `LiveAddress.stop` and `LiveAddress.suspend`).
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from include.context import Context
from include.host import services
from include.live.address import LiveAddress
from include.live.daemon import Daemon
from include.live.watch import Watch
from include.settings import settings

POLL_S = 2.0
NAME = "supervisor"
"""The supervisor's name where others have the id of a DAG run."""


@dataclass
class Supervision:
    """The supervision of one deployment; ``api`` is the service of the API unless others see to it."""

    context: Context
    api: Daemon | None = None
    watch: Watch = field(default_factory=Watch)
    api_watch: Watch = field(default_factory=Watch)

    def step(self, now: float) -> None:
        """Looks once, and starts what is gone unless it is too early for another start."""
        live = LiveAddress(self.context)
        answers = live.answers()
        self.watch = self.watch.saw(answers, now)
        if answers:
            live.record_answer()
        self._tend_api(now, wanted=answers is not None)
        if not self.watch.may_start(now):
            return
        try:
            acted = live.restore(self.watch.silent_s(now))
        except BaseException:
            self.watch = self.watch.started(time.monotonic(), answered=False)
            raise
        if acted:
            self.watch = self.watch.started(time.monotonic(), answered=True)

    def _tend_api(self, now: float, *, wanted: bool) -> None:
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
    said = ""
    while not while_live or context.releases.live_since():
        try:
            supervision.step(time.monotonic())
            supervision.rotate_logs()
            said = ""
        except Exception as error:  # whatever goes wrong, the next look may go well
            problem = f"{type(error).__name__}: {error}"
            if problem != said:
                context.log(problem)
            said = problem
        time.sleep(POLL_S)


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
