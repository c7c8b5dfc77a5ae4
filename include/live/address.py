"""The live address: the releases that answer there, by their served names, and their change without losing a request.

The proxy has the address; behind it is one server for each live release. One link a name says which release that is
(see `include.releases.live`), and `LiveAddress.reconcile` brings proxy and servers in line with the links, also after
an interrupted change. A promotion switches the name in the proxy, sends a request through it, and only then moves the
link. So until the link moves, reconciling undoes the promotion, and from then on it completes it.

No name depends on another: if the release of one cannot be brought back, or its server hangs while it loads, the others
are promoted and checked as ever. `include.live.locks` has a lock for each name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from include.artifacts.kind import Kind
from include.context import Context
from include.errors import GateFailure, PipelineError, ToolError, UserError
from include.host import services
from include.host.docker.containers import ContainerSpec
from include.host.ports import reachable
from include.live.api.service import ApiService
from include.live.daemon import Daemon
from include.live.decide import Actual, Desired, Step, Stop, Suspension, decide
from include.live.last_answer import LastAnswer
from include.live.launch import check_signature
from include.live.locks import LiveLocks
from include.live.proxy import Proxy, Served, Upstream, proxy_of
from include.live.servers import ReleaseServers
from include.live.suspensions import Suspensions
from include.releases.records import Release
from include.releases.rule import Rule
from include.requests.release import SEED_PROMPT, Swap
from include.triton import servers
from include.triton.client import TIMEOUT_S, Client, Endpoint, NoAnswer
from include.triton.servers import Ports, ServerRecord

_LOADS_S = 10.0
"""A server that runs without being ready for so long counts as an outage; before that it may have been busy."""

# Batched with other requests, a greedy answer may round differently: a mismatch counts only after a second request.
_TRIES = 3


class LiveAddress:
    """The deployment's live address. Any process of the host may use it; changes of a name are made one at a time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._proxy = _proxy_of(context, None)
        self._releases = context.releases
        self._servers = ReleaseServers(context)
        self._log = context.log
        self._supervisor = Daemon.supervisor(context)
        self._api = ApiService(context)
        self._suspensions = Suspensions(context)
        self._locks = LiveLocks(context.settings.artifacts / ".locks", context.log)

    @property
    def url(self) -> str:
        """The URL at which the live releases answer on this host."""
        return self._proxy.url

    def is_listening(self) -> bool:
        """True if the proxy has the address, with or without a server behind it."""
        return self._proxy.is_running()

    def answers(self, name: str) -> bool | None:
        """True if a name's live server is ready and the proxy runs; None if none is live, or it was stopped.

        Changes nothing and needs no lock, so it may be asked all the time.
        """
        live = self._releases.lives().get(name)
        if live is None or self.suspended(name):
            return None
        record = services.read(self._servers.record_of(live), ServerRecord)
        return record is not None and servers.is_ready(record) and self._proxy.answers()

    def record_answer(self, name: str) -> None:
        """Records that the live release of a name answers now, which ends its outage if one lasts."""
        LastAnswer(self._context.settings, name).record()
        if live := self._releases.live(name):
            self._releases.end_outage(live, "itself")

    def refresh_access(self) -> list[PipelineError]:
        """Takes API keys and certificates that have changed; returns the errors of those that cannot be used.

        Raises:
            PipelineError: as `Proxy.refresh_access`.
        """
        return self._proxy.refresh_access()

    def restore(self, name: str, silent_s: float) -> bool:
        """Brings back a name's server or a proxy that is gone; returns False if there was nothing that it could do.

        That is so while another process changes what is live under the name, and while the server runs but is not
        ready; ``silent_s`` says for how long that has been so.

        Raises:
            PipelineError: the server or the proxy cannot be started.
        """
        with self._locks.if_free(name) as free:
            live = self._releases.live(name) if free else None
            return live is not None and self.answers(name) is False and self._restore(live, silent_s)

    def stop(self) -> list[str]:
        """Stops the supervisor, the proxy and every server; returns their names.

        Only `reconcile` brings the live releases back: until then they count as suspended.
        """
        supervised = self._supervisor.stop()  # before the lock: it may hold others for as long as a server starts
        with self._locks.all():
            self._suspensions.adopt_former()
            supervised = self._supervisor.stop() or supervised
            for name in self._releases.live_names():
                if not self.suspended(name):
                    self._suspensions.record(name, run="")
            listening = self.is_listening()
            self._proxy.stop()
            served = self._api.stop()
            stopped = [f"{path.stem} ({record})" for path, record in self._servers.stop_all()]
        return ["supervisor"] * supervised + ["proxy"] * listening + ["api"] * served + stopped

    def promote(
        self, release: Release, *, candidate: Path | None = None, swap: Swap = "blue_green", rule: Rule | None = None
    ) -> Release:
        """Makes a release live under its name, on the server of the ``candidate`` record, else on a new server.

        ``rule`` says whether it has to be approved; without one the deployment's own holds.

        If it raises before the release is live, the previous release answers again. Repeating it is harmless.

        Raises:
            UserError: the release has not passed its gates, is not approved, or its artifacts were pruned; or one of
                its names is that of another live model.
            GateFailure: the release does not answer as it did at its previous promotion.
            PipelineError: its server or the proxy fails; the message has their last lines.
        """
        name = release.served_name
        with self._lock(name):
            release = self._releases.get(release.model, release.number)
            self._check_may_go_live(release, rule or Rule.of(self._context.settings))
            self._try_reconcile(name, keep=(self._servers.record_of(release), candidate))
            try:
                record = self._server_of(release, candidate, swap)
                answer = _ask_server(record, release.answer)
                self._point_to(release, record)
                self._ask_through_proxy(name, answer)
                self._releases.record_proof(release, answer=answer, server=record.plan, by=self._context.run_id)
                with self._locks.links():
                    self._check_names(release)  # again: another name may have gone live meanwhile
                    self._releases.make_live(release)
            except BaseException:
                self._resume(name)
                self._try_reconcile(name)
                raise
            self._log(f"release {release.name} is live as {name} at {self.url}")
            self._end_suspension(name)
            self._reconcile(name)
            return self._releases.get(release.model, release.number)

    def retire(self, name: str, *, by: str = "") -> Release:
        """Takes a name off the air and stops its server, once its requests are answered; returns the release.

        The release keeps its artifacts, and can go live again. ``by`` is the user who asked for it.

        Raises:
            UserError: nothing is live under this name.
        """
        with self._lock(name):
            live, default = self._releases.lives().get(name), self._releases.default_name()
            if live is None:
                known = ", ".join(self._releases.live_names()) or "none"
                raise UserError(f"nothing is live as {name}", where="field name", fix=f"live models: {known}")
            with self._locks.links():
                self._releases.retire(name, run=self._context.run_id, by=by)
            self._releases.end_outage(live, f"the retirement of {name}")
            self._suspensions.end(name)
            self._log(f"release {live.name} is not live as {name} any more")
            if (left := self._releases.default_name()) != default:
                self._log(f"the default model is {left} now" if left else "nothing is live any more")
            self._reconcile(name)
            return live

    def reconcile(self) -> list[Release]:
        """Makes only the live releases answer at the address; returns them.

        Starts their servers and the proxy if they do not run; stops servers of other releases, and of candidates whose
        run is over. A suspended live server stays stopped.

        Raises:
            PipelineError: the server of a live release, or the proxy, cannot be started. The others answer.
        """
        failed: dict[str, PipelineError] = {}
        for name in self._names_to_reconcile():
            try:
                with self._lock(name):
                    self._reconcile(name)
            except PipelineError as error:
                failed[name] = error
        raise_all(failed)
        return list(self._releases.lives().values())

    def tidy(self) -> None:
        """Stops servers that nothing needs, and makes the proxy forget names that are not live any more.

        Names that other processes are changing are left to them.
        """
        for name in self._names_to_reconcile(self._releases.live_names()):
            with self._locks.if_free(name) as free:
                if free:
                    self._reconcile(name)

    def check(self, name: str) -> Release | None:
        """Asks a live release, and restarts its server once if it does not answer as it did at its promotion.

        Raises:
            PipelineError: the restart did not help.
        """
        with self._lock(name):
            self._note_outages([name])
            live = self._releases.lives().get(name)
            if live and not self.suspended(name):
                self._stop_if_wrong(live)
            self._reconcile(name)
            if live and not self.suspended(name):
                self._ask_through_proxy(name, live.answer)
            return live

    def suspend(self, name: str) -> None:
        """Stops a name's live server to make room for this run's candidate; `finish_run` brings it back."""
        with self._lock(name):
            self._suspend(name, self._context.run_id)

    def finish_run(self, name: str = "") -> list[Release]:
        """Ends this run about a name: stops its candidate, makes the live release answer again; returns all that live.

        Servers that made room for its candidate come back, too.
        """
        self._context.pins.drop(self._context.run_id)
        for one in sorted({name, *self._suspensions.of_run(self._context.run_id)}):
            with self._lock(one):
                self._resume(one)
                self._reconcile(one)
        return list(self._releases.lives().values())

    def suspended(self, name: str) -> Suspension | None:
        """The suspension of a name's live server; None if it is not suspended."""
        return self._suspensions.find(name)

    @contextmanager
    def held(self) -> Iterator[frozenset[Path]]:
        """Keeps releases from going live within the block; gives the repositories that servers use."""
        with self._locks.all():
            self._suspensions.adopt_former()
            self._note_outages(self._releases.live_names())
            yield frozenset(record.repository for path, record in self._servers.recorded() if servers.look(path))

    def _check_may_go_live(self, release: Release, rule: Rule) -> None:
        _check_accepted(release)
        rule.check(self._releases, release)
        self._check_names(release)
        if not self._releases.is_pruned(release):
            check_signature(self._context, self._context.store.root / Kind.REPOSITORY / release.repository)

    def _check_names(self, release: Release) -> None:
        # A release that was live under a name by default has its history, whoever has the name meanwhile.
        given = release.is_named or bool(release.promotions)
        self._releases.check_names(release.served_name, release.aliases, release.identity, given=given)

    def _server_of(self, release: Release, candidate: Path | None, swap: Swap) -> ServerRecord:
        if record := self._servers.ready(release):
            return record
        if candidate and (record := self._servers.adopt(candidate, release)):
            return record
        if swap == "recreate":
            self._suspend(release.served_name, "")
        return self._servers.launch(release)

    def _suspend(self, name: str, run: str) -> None:
        live = self._releases.lives().get(name)
        if live is None:
            return
        if not (note := self.suspended(name)) or not note.run:
            self._suspensions.record(name, run)
        self._log(f"release {live.name} is stopped to make room: {name} refuses requests until the next promotion")
        self._refuse(name)
        self._servers.stop(live)

    def _refuse(self, name: str) -> None:
        """Refuses new requests to a name, and waits for those in flight: its server is about to be stopped."""
        if self._proxy.is_running() and (served := self._proxy.served().get(name)):
            self._proxy.point_to(name, served.model_copy(update={"upstream": None}))
            self._do(Step.DRAIN, name)

    def _resume(self, name: str) -> None:
        if (suspended := self.suspended(name)) and suspended.run == self._context.run_id:
            self._suspensions.end(name)

    def _names_to_reconcile(self, but: Iterable[str] = ()) -> list[str]:
        """The live names, and those that the proxy or a server still has; the empty name stands for other servers."""
        names = {"", *self._releases.live_names(), *self._proxy.served(), *self._servers.names()}
        return sorted(names.difference(but))

    def _try_reconcile(self, name: str, keep: Collection[Path | None] = ()) -> None:
        """Reconciles before and after a promotion; a broken live release must not prevent the promotion of another."""
        try:
            self._reconcile(name, keep)
        except PipelineError as error:
            self._log(f"the release that is live as {name} cannot be brought back: {error}")

    def _reconcile(self, name: str, keep: Collection[Path | None] = ()) -> Release | None:
        """Observes, decides and acts, for one name; the servers of other live releases are left alone."""
        lives = self._releases.lives()
        live = lives.get(name)
        self._note_outages([name])
        if lives:
            self._supervisor.ensure_running()
        record = self._servers.ready(live) if live else None
        running = dict(self._servers.running(name))
        others = frozenset(self._servers.record_of(other) for one, other in lives.items() if one != name)
        desired = Desired(
            live=self._servers.record_of(live) if live else None,
            live_since=self._releases.live_since(name),
            suspension=self.suspended(name),
            runs=frozenset(self._context.pins.runs()),
            keep=frozenset(path for path in keep if path) | self._servers.of_unknown_runs() | others,
        )
        actual = Actual(tuple(running), record is not None, self._proxy.is_running(), name in self._proxy.served())
        for action in decide(desired, actual):
            match action:
                case Stop(path):
                    servers.stop(running[path], path)
                    self._log(f"stopped {path.stem} ({running[path]})")
                case Step.LAUNCH if live:
                    self._log(f"the server of the live release {live.name} does not run, or is not ready: starting it")
                    record = self._servers.launch(live)
                case Step.POINT if live and record:
                    self._point_to(live, record)
                case _:
                    self._do(action, name)
        live = self._releases.lives().get(name)
        if live and record:
            self._releases.end_outage(live, self._context.run_id)
        self._live_set_changed()
        with self._locks.links():
            if not self._releases.live_names():
                self._api.stop()  # after the last request; the supervisor ends, too
        return live

    def _do(self, step: Step, name: str) -> None:
        match step:
            case Step.END_SUSPENSION:
                self._end_suspension(name)
            case Step.DROP_SUSPENSION:
                self._suspensions.end(name)
            case Step.RECORD_PROMOTION:
                self._releases.record_promotion(name)
            case Step.WITHDRAW:
                self._live_set_changed()  # first, so that requests without a name always have a model
                self._proxy.point_to(name, None)
            case Step.DRAIN:
                limit = self._context.settings.drain_timeout_s
                if left := self._proxy.drain(limit, name):
                    self._log(f"{left} requests are still in flight after {limit:g} s: they are cut off")

    def _live_set_changed(self) -> None:
        """Tells the proxy and the API what is live. Whatever changes the set of live releases ends here."""
        with self._locks.links():
            default, lives = self._releases.default_name(), self._releases.lives()
            if self._proxy.is_running() and self._proxy.default() != default:
                self._proxy.set_default(default)
            self._api.serve(sorted(lives.values(), key=lambda release: release.served_name != default))
            LastAnswer.forget_all_but(lives, self._context.settings)

    def _end_suspension(self, name: str) -> None:
        """Removes the suspension: the name has a server again."""
        if suspended := self.suspended(name):
            self._releases.record_promotion(name, suspended_since=suspended.since)
            self._log(f"{name} had no server from {suspended.since:%H:%M:%S} until this promotion")
            self._suspensions.end(name)

    def _point_to(self, release: Release, record: ServerRecord) -> None:
        # If the proxy is a container, the image of a running server is on the host already.
        _proxy_of(self._context, record.plan.container).ensure_running()
        upstream = Upstream(ports=record.ports, address=record.plan.address)
        served = Served(upstream=upstream, release=release.name, aliases=release.aliases)
        if self._proxy.served().get(release.served_name) != served:
            self._proxy.point_to(release.served_name, served)

    def _restore(self, live: Release, silent_s: float) -> bool:
        try:
            self._note_outages([live.served_name])
            if (record := self._servers.find(live)) and self._proxy.is_running():
                self._note_silence(live, record, silent_s)
                return False
            self._releases.begin_outage(live, "the server or the proxy does not run")
            self._reconcile(live.served_name)
        except PipelineError as error:
            self._releases.begin_outage(live, str(error))  # the first cause counts, so only if none was found
            raise
        return True

    def _note_outages(self, names: Collection[str]) -> None:
        """Records an outage where a server of these names has ended by itself, while the remains tell how.

        That the proxy has ended concerns every name.
        """
        why_no_proxy = self._proxy.obituary()
        for name, live in self._releases.lives().items():
            if self.suspended(name):
                continue
            if name in names and (why := servers.obituary(self._servers.record_of(live))):
                self._releases.begin_outage(live, f"the server ended: {why}")
            elif why_no_proxy:
                self._releases.begin_outage(live, f"the proxy ended: {why_no_proxy}")

    def _note_silence(self, live: Release, record: ServerRecord, silent_s: float) -> None:
        """Records an outage if a server that is not ready was started again by its engine, or has been so for long."""
        answered = LastAnswer(self._context.settings, live.served_name).at()
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
            _ask_server(record, live.answer)
        except PipelineError as error:
            self._log(f"{error}\nrestarting the server of release {live.name}")
            self._releases.begin_outage(live, str(error))
            self._servers.stop(live)

    def _ask_through_proxy(self, name: str, expected: str | None) -> None:
        with self._proxy.client(TIMEOUT_S) as http:
            _ask(Client(_endpoint(self._context.settings.bind_address, self._proxy.ports), http, name), expected)

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        with self._locks.of(name):
            self._suspensions.adopt_former()
            yield


def raise_all(failed: Mapping[str, PipelineError]) -> None:
    """Raises the failures of names: one as it is, several as one that names each."""
    if len(failed) == 1:
        raise next(iter(failed.values()))
    if failed:
        raise ToolError("\n".join(f"{name}: {error}" for name, error in failed.items()))


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


def _ask_server(record: ServerRecord, expected: str | None) -> str:
    with Client.open(_endpoint(record.plan.address, record.ports)) as client:
        return _ask(client, expected)


def _endpoint(address: str, ports: Ports) -> Endpoint:
    return Endpoint(host=reachable(address), http_port=ports.http, grpc_port=ports.grpc)


def _ask(client: Client, expected: str | None) -> str:
    """The greedy answer to the seed's prompt; raises `ToolError` without an answer, `GateFailure` for another."""
    answer = ""
    for _ in range(_TRIES):
        try:
            answer = client.text(SEED_PROMPT)
        except NoAnswer as error:
            raise ToolError(f"no answer to {SEED_PROMPT!r}: {error}", where=str(client.http.base_url)) from error
        if expected in (None, answer):
            return answer
    raise GateFailure(
        f"the release answers {answer!r} to {SEED_PROMPT!r}; when it was promoted it said {expected!r}",
        where=str(client.http.base_url),
        fix="compare with its report; other hardware or another version of the server rounds differently",
    )
