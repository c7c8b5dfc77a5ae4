"""The live address: the release that answers there, and its change without losing a request.

The proxy has the address; behind it is the server of one release. One link names that release (see
`include.releases.records`), and `LiveAddress.reconcile` brings proxy and servers in line with it, also after an
interrupted change. A promotion switches the proxy, sends a request through it, and only then moves the link. So until
the link moves, reconciling undoes the promotion, and from then on it completes it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from include.artifacts.kind import Kind
from include.context import Context
from include.errors import GateFailure, PipelineError, ToolError, UserError
from include.files import Damaged, find_record, locked, try_lock, write_atomic
from include.host import services
from include.host.docker.containers import ContainerSpec
from include.host.ports import reachable
from include.live.api.service import ApiService
from include.live.daemon import Daemon
from include.live.decide import Actual, Desired, Step, Stop, Suspension, decide
from include.live.last_answer import LastAnswer
from include.live.launch import check_signature
from include.live.proxy import Proxy, Upstream, proxy_of
from include.live.servers import ReleaseServers
from include.releases.records import Release
from include.releases.rule import Rule
from include.requests.release import SEED_PROMPT, Swap
from include.triton import servers
from include.triton.client import Client, Endpoint, NoAnswer
from include.triton.servers import Ports, ServerRecord

_LOADS_S = 10.0
"""A server that runs without being ready for so long counts as an outage; before that it may have been busy."""

# Batched with other requests, a greedy answer may round differently: a mismatch counts only after a second request.
_TRIES = 3


class LiveAddress:
    """The deployment's live address. Any process of the host may use it; changes are made one at a time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._proxy = _proxy_of(context, None)
        self._releases = context.releases
        self._servers = ReleaseServers(context)
        self._log = context.log
        self._supervisor = Daemon.supervisor(context)
        self._api = ApiService(context)
        self._last_answer = LastAnswer(context.settings)
        self._note = context.settings.artifacts / "servers" / "away.json"
        self._lock_path = context.settings.artifacts / ".locks" / "live.lock"

    @property
    def url(self) -> str:
        """The URL at which the live release answers on this host."""
        return self._proxy.url

    def is_listening(self) -> bool:
        """True if the proxy has the address, with or without a server behind it."""
        return self._proxy.is_running()

    def answers(self) -> bool | None:
        """True if the live server is ready and the proxy runs; None if no release is live, or it was stopped.

        Changes nothing and needs no lock, so it may be asked all the time.
        """
        live = self._releases.live()
        if live is None or self.suspended():
            return None
        record = services.read(self._servers.record_of(live), ServerRecord)
        return record is not None and servers.is_ready(record) and self._proxy.answers()

    def record_answer(self) -> None:
        """Records that the live release answers now, which ends its outage if one lasts."""
        self._last_answer.record()
        if live := self._releases.live():
            self._releases.end_outage(live, "itself")

    def restore(self, silent_s: float) -> bool:
        """Brings back a live server or a proxy that is gone; returns False if there was nothing that it could do.

        That is so while another process changes the live release, and while the server runs but is not ready;
        ``silent_s`` says for how long that has been so.

        Raises:
            PipelineError: the server or the proxy cannot be started.
        """
        lock = try_lock(self._lock_path)
        if lock is None:
            return False
        try:
            live = self._releases.live()
            return live is not None and self.answers() is False and self._restore(live, silent_s)
        finally:
            lock.release()

    def stop(self) -> list[str]:
        """Stops the supervisor, the proxy and every server; returns their names.

        Only `reconcile` brings the live release back: until then it counts as suspended.
        """
        supervised = self._supervisor.stop()  # before the lock, which it may hold for as long as a server starts
        with self._lock():
            supervised = self._supervisor.stop() or supervised
            if self._releases.live() and not self.suspended():
                self._record_suspension(run="")
            listening = self.is_listening()
            self._proxy.stop()
            served = self._api.stop()
            stopped = [f"{path.stem} ({record})" for path, record in self._servers.stop_all()]
        return ["supervisor"] * supervised + ["proxy"] * listening + ["api"] * served + stopped

    def promote(
        self, release: Release, *, candidate: Path | None = None, swap: Swap = "blue_green", rule: Rule | None = None
    ) -> Release:
        """Makes a release live, on the server of the ``candidate`` record, else on a new server.

        ``rule`` says whether it has to be approved; without one the deployment's own holds.

        If it raises before the release is live, the previous release answers again. Repeating it is harmless.

        Raises:
            UserError: the release has not passed its gates, is not approved, or its artifacts were pruned.
            GateFailure: the release does not answer as it did at its previous promotion.
            PipelineError: its server or the proxy fails; the message has their last lines.
        """
        with self._lock():
            release = self._releases.get(release.model, release.number)
            _check_accepted(release)
            (rule or Rule.of(self._context.settings)).check(self._releases, release)
            if not self._releases.is_pruned(release):
                check_signature(self._context, self._context.store.root / Kind.REPOSITORY / release.repository)
            self._try_reconcile(keep=(self._servers.record_of(release), candidate))
            try:
                record = self._server_of(release, candidate, swap)
                answer = _ask(record.plan.address, record.ports, release.answer)
                self._point_to(record)
                self._ask_through_proxy(answer)
                self._releases.record_proof(release, answer=answer, server=record.plan, by=self._context.run_id)
            except BaseException:
                self._resume()
                self._try_reconcile()
                raise
            self._releases.make_live(release)
            self._log(f"release {release.name} is live at {self.url}")
            self._end_suspension()
            self._reconcile()
            return self._releases.get(release.model, release.number)

    def reconcile(self) -> Release | None:
        """Makes only the live release answer at the address; returns it.

        Starts its server and the proxy if they do not run; stops servers of other releases, and of candidates whose
        run is over. A suspended live server stays stopped.

        Raises:
            PipelineError: the live release's server, or the proxy, cannot be started.
        """
        with self._lock():
            return self._reconcile()

    def check(self) -> Release | None:
        """Asks the live release, and restarts its server once if it does not answer as it did at its promotion.

        Raises:
            PipelineError: the restart did not help.
        """
        with self._lock():
            self._note_outage()
            live = self._releases.live()
            if live and not self.suspended():
                self._stop_if_wrong(live)
            self._reconcile()
            if live and not self.suspended():
                self._ask_through_proxy(live.answer)
            return live

    def suspend(self) -> None:
        """Stops the live server to make room for this run's candidate; `finish_run` brings it back."""
        with self._lock():
            self._suspend(self._context.run_id)

    def finish_run(self) -> Release | None:
        """Ends this run: stops its candidate, makes the live release answer again, and returns it."""
        with self._lock():
            self._resume()
            self._context.pins.drop(self._context.run_id)
            return self._reconcile()

    def suspended(self) -> Suspension | None:
        """The suspension of the live server; None if it is not suspended."""
        try:
            return find_record(self._note, Suspension)
        except Damaged as damage:
            self._context.skip(damage)
            return None

    def _record_suspension(self, run: str) -> None:
        note = Suspension(run=run, since=datetime.now(UTC), live_since=self._releases.live_since())
        write_atomic(self._note, note.model_dump_json())

    @contextmanager
    def held(self) -> Iterator[frozenset[Path]]:
        """Keeps releases from going live within the block; gives the repositories that servers use."""
        with self._lock():
            self._note_outage()
            yield frozenset(record.repository for _, record in self._servers.running())

    def _server_of(self, release: Release, candidate: Path | None, swap: Swap) -> ServerRecord:
        if record := self._servers.ready(release):
            return record
        if candidate and (record := self._servers.adopt(candidate, release)):
            return record
        if swap == "recreate":
            self._suspend("")
        return self._servers.launch(release)

    def _suspend(self, run: str) -> None:
        live = self._releases.live()
        if live is None:
            return
        if not (note := self.suspended()) or not note.run:
            self._record_suspension(run)
        self._log(f"release {live.name} is stopped to make room: {self.url} refuses requests until the next promotion")
        self._servers.stop(live)

    def _resume(self) -> None:
        if (suspended := self.suspended()) and suspended.run == self._context.run_id:
            self._note.unlink()

    def _try_reconcile(self, keep: Collection[Path | None] = ()) -> None:
        """Reconciles before and after a promotion; a broken live release must not prevent the promotion of another."""
        try:
            self._reconcile(keep)
        except PipelineError as error:
            self._log(f"the release that is live cannot be brought back: {error}")

    def _reconcile(self, keep: Collection[Path | None] = ()) -> Release | None:
        """Observes, decides and acts."""
        live = self._releases.live()
        self._note_outage()
        if live:
            self._supervisor.ensure_running()
        record = self._servers.ready(live) if live else None
        running = dict(self._servers.running())
        desired = Desired(
            live=self._servers.record_of(live) if live else None,
            live_since=self._releases.live_since(),
            suspension=self.suspended(),
            runs=frozenset(self._context.pins.runs()),
            keep=frozenset(path for path in keep if path) | self._servers.of_unknown_runs(),
        )
        proxy_runs, upstream = self._proxy.is_running(), self._proxy.upstream()
        actual = Actual(tuple(running), record is not None, proxy_runs, upstream is not None)
        for action in decide(desired, actual):
            match action:
                case Stop(path):
                    servers.stop(running[path], path)
                    self._log(f"stopped {path.stem} ({running[path]})")
                case Step.LAUNCH if live:
                    self._log(f"the server of the live release {live.name} does not run, or is not ready: starting it")
                    record = self._servers.launch(live)
                case Step.POINT if record:
                    self._point_to(record)
                case _:
                    self._do(action)
        live = self._releases.live()
        if live and record:
            self._releases.end_outage(live, self._context.run_id)
        if live:
            self._api.serve([live])
        return live

    def _do(self, step: Step) -> None:
        match step:
            case Step.END_SUSPENSION:
                self._end_suspension()
            case Step.DROP_SUSPENSION:
                self._note.unlink()
            case Step.RECORD_PROMOTION:
                self._releases.record_promotion()
            case Step.WITHDRAW:
                self._proxy.point_to(None)
            case Step.DRAIN:
                limit = self._context.settings.drain_timeout_s
                if left := self._proxy.drain(limit):
                    self._log(f"{left} requests are still in flight after {limit:g} s: they are cut off")

    def _end_suspension(self) -> None:
        """Removes the suspension: the address has a server again."""
        if suspended := self.suspended():
            self._releases.record_promotion(suspended_since=suspended.since)
            self._log(f"{self.url} had no server from {suspended.since:%H:%M:%S} until this promotion")
            self._note.unlink()

    def _point_to(self, record: ServerRecord) -> None:
        # If the proxy is a container, the image of a running server is on the host already.
        _proxy_of(self._context, record.plan.container).ensure_running()
        upstream = Upstream(ports=record.ports, address=record.plan.address)
        if self._proxy.upstream() != upstream:
            self._proxy.point_to(upstream)

    def _restore(self, live: Release, silent_s: float) -> bool:
        try:
            self._note_outage()
            if (record := self._servers.find(live)) and self._proxy.is_running():
                self._note_silence(live, record, silent_s)
                return False
            self._releases.begin_outage(live, "the server or the proxy does not run")
            self._reconcile()
        except PipelineError as error:
            self._releases.begin_outage(live, str(error))  # the first cause counts, so only if none was found
            raise
        return True

    def _note_outage(self) -> None:
        """Records an outage if the live server or the proxy has ended by itself, while its remains tell how."""
        live = self._releases.live()
        if live is None or self.suspended():
            return
        if why := servers.obituary(self._servers.record_of(live)):
            self._releases.begin_outage(live, f"the server ended: {why}")
        elif why := self._proxy.obituary():
            self._releases.begin_outage(live, f"the proxy ended: {why}")

    def _note_silence(self, live: Release, record: ServerRecord, silent_s: float) -> None:
        """Records an outage if a server that is not ready was started again by its engine, or has been so for long."""
        answered = self._last_answer.at()
        if answered and (why := servers.why_restarted(record, answered.timestamp())):
            self._releases.begin_outage(live, f"the server ended: {why}")
        elif silent_s >= _LOADS_S:
            self._releases.begin_outage(live, f"the server runs, but is not ready for {silent_s:.0f} s")

    def _stop_if_wrong(self, live: Release) -> None:
        record = self._servers.find(live)
        if record is None:
            return
        try:
            if not servers.is_ready(record):  # one that hangs would not answer for minutes
                raise ToolError("the server runs, but is not ready", where=str(record.log))
            _ask(record.plan.address, record.ports, live.answer)
        except PipelineError as error:
            self._log(f"{error}\nrestarting the server of release {live.name}")
            self._releases.begin_outage(live, str(error))
            self._servers.stop(live)

    def _ask_through_proxy(self, expected: str | None) -> None:
        _ask(self._context.settings.bind_address, self._proxy.ports, expected)

    def _lock(self) -> AbstractContextManager[None]:
        return locked(self._lock_path, lambda: self._log("another run is changing the live release: waiting for it"))


def _proxy_of(context: Context, container: ContainerSpec | None) -> Proxy:
    if context.settings.runner == "process":
        return proxy_of(context.settings, context.log)
    image, build = (container.image, container.build) if container else ("", "")
    return proxy_of(context.settings, context.log, image, build)


def _check_accepted(release: Release) -> None:
    if release.verdict != "accepted":
        state = "was rejected" if release.verdict == "rejected" else "has not passed its gates"
        raise UserError(
            f"release {release.name} {state}: it cannot go live",
            fix="its report says why; choose another release, or run release_awq_engine again",
        )


def _ask(address: str, ports: Ports, expected: str | None) -> str:
    """The greedy answer to the seed's prompt; raises `ToolError` without an answer, `GateFailure` for another."""
    endpoint = Endpoint(host=reachable(address), http_port=ports.http, grpc_port=ports.grpc)
    answer = ""
    for _ in range(_TRIES):
        try:
            with Client.open(endpoint) as client:
                answer = client.text(SEED_PROMPT)
        except NoAnswer as error:
            raise ToolError(f"no answer to {SEED_PROMPT!r}: {error}", where=endpoint.url) from error
        if expected in (None, answer):
            return answer
    raise GateFailure(
        f"the release answers {answer!r} to {SEED_PROMPT!r}; when it was promoted it said {expected!r}",
        where=endpoint.url,
        fix="compare with its report; other hardware or another version of the server rounds differently",
    )
