"""Task ``validate_generate``: the gates, against the candidate, through the endpoint that users will call."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from include import gates, report
from include.artifacts.kind import Kind
from include.context import Context
from include.errors import GateFailure
from include.gates import (
    Client,
    Endpoint,
    GateResult,
    NoAnswer,
    Trial,
    gates_for,
    read_answered,
    read_reference,
    validate,
)
from include.host.ports import reachable
from include.live.proxy import proxy_of
from include.releases.ids import ReleaseId
from include.releases.records import Release
from include.releases.run import RunRecord
from include.tasks import ArtifactRef, Checked, contracts
from include.triton.servers import ServerRecord


def run(
    context: Context,
    checked: Checked,
    checkpoint: ArtifactRef,
    engine: ArtifactRef,
    repository: ArtifactRef,
    candidate: ServerRecord | None,
    original: ArtifactRef | None = None,
) -> ReleaseId:
    """Judges the candidate and writes the report into its release; without a candidate, the report that is there holds.

    Raises:
        GateFailure: a gate failed; the release is kept, marked rejected, with its report.
    """
    refs = (checkpoint, engine, repository, original)
    release = _release_of(context, checked, repository, {ref.kind: ref.name for ref in refs if ref}, candidate)
    if candidate is None:
        context.log(f"hit: release {release.name} has passed these gates, nothing to try")
        report.record_run(context.releases.path(release), context.run)
    else:
        release = _judge(context, checked, candidate, checkpoint, release, original)
    context.log(f"report: {context.releases.path(release) / report.HTML_FILE}")
    return release.id


def _release_of(
    context: Context,
    checked: Checked,
    repository: ArtifactRef,
    chain: dict[str, str],
    candidate: ServerRecord | None,
) -> Release:
    """The live release if there is no candidate, as it was proved for this request; else the one of the repository."""
    live = context.releases.live(checked.request.name)
    if candidate is None and live and live.repository == repository.name:
        return live
    opened = context.releases.open(
        context.releases.name_of(checked.request.model),
        target=checked.request.target,
        repository=repository.name,
        chain=chain | {"model": f"{checked.source.id}@{checked.source.commit}"},
        request=checked.request.model_dump(mode="json"),
    )
    return contracts.record(context, opened)


def _judge(
    context: Context,
    checked: Checked,
    candidate: ServerRecord,
    checkpoint: ArtifactRef,
    release: Release,
    original: ArtifactRef | None,
) -> Release:
    """The release that the trial is of."""
    context.log(f"release {release.name}: the gates ask its candidate at {candidate.url}")
    if pace := report.paces(context.releases, checked.request).get("validate_generate"):
        context.progress(str(pace))
    with Client.open(_endpoint(candidate)) as client:
        trial = _trial(context, checked, client, checkpoint, release, original)
        verdicts = validate(trial, gates := gates_for(checked.request), _teller(context, len(gates)))
        run = _run_on(context, checked, client)
    release = _tried(context, checked, release, verdicts)
    path = context.releases.path(release)
    supply = _supply(context, checked, release, path)
    live, proxy = context.releases.live(release.served_name), proxy_of(context.settings)
    where = {"address": context.settings.public_url or proxy.url, "curl": proxy.curl}
    report.write(path, report.compose(verdicts, release, context.store, run, report.read(path), supply, live, **where))
    _decide(context, checked, release, verdicts)
    return release


def _tried(context: Context, checked: Checked, release: Release, verdicts: gates.Report) -> Release:
    """The release itself; a new one of the same artifacts if it has been live and this trial does not end well.

    So what is live keeps the report that it went live with, and its verdict.
    """
    release = context.releases.get(release.model, release.number)  # another run may have promoted it meanwhile
    if not release.promotions or (verdicts.passed and not verdicts.asks):
        return release
    again = context.releases.create_again(release, checked.request.model_dump(mode="json"))
    context.log(f"release {release.name} has been live and stays as it is: this is the trial of release {again.name}")
    return contracts.record(context, again)


def _decide(context: Context, checked: Checked, release: Release, verdicts: gates.Report) -> None:
    """Records the verdict on the release; raises `GateFailure` if a gate failed, or nobody can be asked to decide."""
    where = f"release {release.name}, {context.releases.path(release) / report.HTML_FILE}"
    undecided = ", ".join(verdicts.asks)
    if not verdicts.passed:
        context.releases.judge(release, "rejected")
        fix = "compare the answers in the report; calibrate with more or closer data, or a smaller group size"
        raise GateFailure(verdicts.failures(), where=where, fix=fix)
    if undecided and checked.request.swap == "recreate":
        context.releases.judge(release, "rejected")
        raise GateFailure(
            f"gate {undecided} is inconclusive, and with swap recreate no person can be asked: the address is down",
            where=where,
            fix="use swap blue_green, more tasks or a larger max_task_drop",
        )
    context.releases.judge(release, "undecided" if undecided else "accepted")
    if undecided:
        context.log(f"gate {undecided} is inconclusive: a person decides, whatever the request says of approval")


def _teller(context: Context, gates: int) -> Callable[[GateResult], None]:
    """Tells each verdict as it comes."""
    count = itertools.count(1)

    def tell(verdict: GateResult) -> None:
        context.log(f"{verdict.rating or verdict.outcome:<6} {verdict.gate:<14} {' '.join(verdict.found.split())}")
        context.publish(f"gate {next(count)} of {gates}: {verdict.gate} {verdict.outcome}")

    return tell


def _supply(context: Context, checked: Checked, release: Release, path: Path) -> report.Supply:
    """The release's origin; writes its bill of materials."""
    target = context.target(checked.request.target)
    image = target.image_id()
    report.write_sbom(path, release, checked.source, target.packages(), image)
    signed = context.signatures.is_signed(release.repository)
    return report.Supply(signed=signed, image=str(image) if image else None, sbom=report.SBOM_FILE)


def _run_on(context: Context, checked: Checked, client: Client) -> RunRecord:
    """The run, with the versions of the server and of the host's own parts."""
    run, host = context.run, context.target(checked.request.target).host_versions()
    with suppress(NoAnswer):
        host |= client.server()
    return run.model_copy(update={"versions": run.versions | host})


def _trial(
    context: Context,
    checked: Checked,
    client: Client,
    checkpoint: ArtifactRef,
    release: Release,
    original: ArtifactRef | None,
) -> Trial:
    request, made = checked.request, checkpoint.load(context.store).path
    reference = read_reference(made)
    return Trial(
        client=client,
        prompts=tuple(request.test_prompts),
        streaming=request.streaming,
        chat=reference.has_chat
        and request.chat_template == "auto"
        and context.target(request.target).applies_chat_template,
        reference=reference,
        repository=context.store.get(Kind.REPOSITORY, release.repository).path,
        tokenizer=made / "tokenizer",
        live=_rival(context, release),
        max_input_len=request.max_input_len,
        max_seq_len=request.max_seq_len,
        tasks=read_answered(original.load(context.store).path) if original else (),
    )


def _rival(context: Context, release: Release) -> Endpoint | None:
    """The address of the live release of the same name and model; None if there is none, or it is this very release."""
    name = release.served_name
    live = context.releases.live(name)
    if live is None or live.model != release.model or live.number == release.number:
        return None
    server = context.live_servers().get(name)
    return _endpoint(server) if server else None


def _endpoint(server: ServerRecord) -> Endpoint:
    return Endpoint(host=reachable(server.plan.address), http_port=server.ports.http, grpc_port=server.ports.grpc)
