"""Gate ``speed``: the candidate against the live release on the same host, in turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from include.gates.base import Gate, Trial
from include.gates.load import Burst, Workload, burst, load_of, streams
from include.gates.verdict import GateResult, Load
from include.triton.client import Endpoint, NoAnswer

Server = Literal["candidate", "live"]

_WARM_UP_TOKENS = 4


@dataclass(frozen=True)
class Level:
    """The bursts on each server at one concurrency, round by round."""

    concurrency: int
    bursts: Mapping[Server, list[Burst]]

    @property
    def loads(self) -> tuple[Load, ...]:
        """The figures of each server."""
        return tuple(load_of(server, self.concurrency, bursts) for server, bursts in self.bursts.items() if bursts)

    @property
    def ratio(self) -> float | None:
        """The candidate's tokens/s to the live release's, each of the median round; None without a live release.

        It is the ratio of the figures that people see.
        """
        speeds = {load.server: load.output_tokens_per_s for load in self.loads}
        return speeds["candidate"] / speeds["live"] if speeds.get("live") else None

    def __str__(self) -> str:
        speeds = ", ".join(f"{load.server} {load.output_tokens_per_s:.1f}" for load in self.loads)
        compared = "" if self.ratio is None else f" (ratio {self.ratio:.2f})"
        return f"{self.concurrency} at once: {speeds} tokens/s{compared}"


@dataclass(frozen=True)
class Speed(Gate, name="speed"):
    """No request fails under load, and the candidate is about as fast as the live release.

    ``concurrencies``: numbers of clients at once. ``min_ratio``: of the live release's tokens/s; 0 leaves the live
    release alone. Both servers are measured in short rounds, one after the other, and each goes first in every
    other round, so that what else the host does slows both. A round is a request a client, ``requests`` at least,
    each of ``max_tokens`` tokens; it takes ``rounds``, and as many again before a candidate is called slow.
    """

    concurrencies: tuple[int, ...] = (1, 4)
    min_ratio: float = 0.8
    max_tokens: int = 24
    requests: int = 2
    rounds: int = 4

    @property
    def to_pass(self) -> str:
        """The loads that it tries, and the ratio that it demands."""
        clients = ", ".join(map(str, self.concurrencies))
        ratio = f", tokens/s >= {self.min_ratio:g} of the live release's" if self.min_ratio else ""
        return f"with {clients} requests at once none fails{ratio}"

    def judge(self, trial: Trial) -> GateResult:
        """Puts each load on the servers. Raises `NoAnswer` if the candidate does not answer at all."""
        servers, notes = self._servers(trial)
        workload = Workload(trial.prompts, self.max_tokens, all(streams(endpoint) for endpoint in servers.values()))
        if not workload.stream:
            notes.append("no time to first token: not all servers stream")
        levels = [self._level(concurrency, servers, workload) for concurrency in self.concurrencies]
        ratios = {str(level.concurrency): level.ratio for level in levels if level.ratio is not None}
        errors = [error for level in levels for burst in level.bursts["candidate"] for error in burst.errors]
        return self.verdict(
            not errors and not any(self._slow(level) for level in levels),
            "; ".join([*map(str, levels), *(f"{len(errors)} requests failed, e.g. {e}" for e in errors[:1]), *notes]),
            measured={f"ratio_at_{concurrency}": ratio for concurrency, ratio in ratios.items()},
            loads=tuple(load for level in levels for load in level.loads),
        )

    def _servers(self, trial: Trial) -> tuple[dict[Server, Endpoint], list[str]]:
        """The servers to measure, and why there is no live one among them."""
        alone: dict[Server, Endpoint] = {"candidate": trial.client.endpoint}
        if not self.min_ratio:
            return alone, ["not compared with the live release"]
        if trial.live is None:
            return alone, ["no live release to compare with"]
        try:
            streams(trial.live)
        except NoAnswer as error:
            return alone, [f"the live release does not answer ({error})"]
        return {**alone, "live": trial.live}, []

    def _level(self, concurrency: int, servers: Mapping[Server, Endpoint], workload: Workload) -> Level:
        level = Level(concurrency, {server: [] for server in servers})
        warm_up = Workload(workload.prompts, _WARM_UP_TOKENS, workload.stream)
        for endpoint in servers.values():
            burst(endpoint, warm_up.bodies(concurrency), concurrency)
        for number in range(2 * self.rounds):
            if number == self.rounds and not self._slow(level):
                break
            bodies = workload.bodies(max(concurrency, self.requests))
            for server in list(servers)[:: -1 if number % 2 else 1]:
                level.bursts[server].append(burst(servers[server], bodies, concurrency))
        return level

    def _slow(self, level: Level) -> bool:
        return level.ratio is not None and level.ratio < self.min_ratio
