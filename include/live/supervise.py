"""The supervisor: ``python -m include.live.supervise`` brings back whatever the live address lacks, within seconds.

It looks at the live address again and again. If the live server or the proxy is gone, it takes the lock that
promotions take, and reconciles. A server that runs without being ready is left to `check_live_release`: it may be
loading. So is everything that was stopped on purpose (see `LiveAddress.stop` and `LiveAddress.suspend`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from include.context import Context
from include.errors import HostError
from include.host import services
from include.live.address import LiveAddress
from include.live.watch import Watch
from include.settings import settings

POLL_S = 2.0
NAME = "supervisor"
"""The supervisor's name where others have the id of a DAG run."""


@dataclass
class Supervision:
    """The supervision of one deployment."""

    context: Context
    watch: Watch = field(default_factory=Watch)

    def step(self, now: float) -> None:
        """Looks once, and starts what is gone unless it is too early for another start."""
        live = LiveAddress(self.context)
        answers = live.answers()
        self.watch = self.watch.saw(answers, now)
        if answers:
            live.record_answer()
        if not self.watch.may_start(now):
            return
        try:
            acted = live.restore(self.watch.silent_s(now))
        except BaseException:
            self.watch = self.watch.started(time.monotonic(), answered=False)
            raise
        if acted:
            self.watch = self.watch.started(time.monotonic(), answered=True)

    def refresh_access(self) -> None:
        """Takes API keys and certificates that have changed; raises the error of one that cannot be used."""
        for problem in LiveAddress(self.context).refresh_access():
            raise HostError(f"{problem.what}; the last good one stays in use", where=problem.where, fix=problem.fix)

    def rotate_logs(self) -> None:
        """Cuts off the logs of servers that have grown too long."""
        for log in self.context.settings.log_directory.glob("*.log"):
            services.rotate(log)


def supervise(context: Context, *, while_live: bool) -> None:
    """Supervises until the process is stopped; ``while_live``: or until the deployment has no live release."""
    supervision = Supervision(context)
    duties = (lambda: supervision.step(time.monotonic()), supervision.rotate_logs, supervision.refresh_access)
    said = dict.fromkeys(duties, "")
    while not while_live or context.releases.live_since():
        for duty in duties:
            problem = _problem_of(duty)
            if problem and problem != said[duty]:
                context.log(problem)
            said[duty] = problem
        time.sleep(POLL_S)


def _problem_of(duty: Callable[[], None]) -> str:
    """Does a duty; returns its error, if any: whatever goes wrong, the next look may go well."""
    try:
        duty()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


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
