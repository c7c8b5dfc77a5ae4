"""Task ``validate_generate``: the gates, against the candidate, through the endpoint that users will call."""

from __future__ import annotations

from include import gates
from include.errors import GateFailure
from include.servers import ServerRecord
from include.store import write_atomic
from include.tasks import ArtifactRef, Checked, ReleaseRef
from include.worker import Worker


def run(
    worker: Worker,
    checked: Checked,
    checkpoint: ArtifactRef,
    engine: ArtifactRef,
    repository: ArtifactRef,
    candidate: ServerRecord,
) -> ReleaseRef:
    """Judges the candidate and writes ``report.json`` and ``report.md`` into its release.

    Raises:
        GateFailure: a gate failed; the release is kept, marked rejected, with its report.
    """
    request = checked.request
    release = worker.releases.open(
        request.slug,
        target=request.target,
        repository=repository.name,
        chain={ref.kind: ref.name for ref in (checkpoint, engine, repository)}
        | {"model": f"{checked.source.id}@{checked.source.commit}"},
        request=request.model_dump(mode="json"),
    )
    target = worker.target(request.target)
    reference = gates.read_reference(checkpoint.load(worker.store).path)
    report = gates.validate(
        gates.Endpoint(
            host=worker.settings.bind_address, http_port=candidate.ports.http, grpc_port=candidate.ports.grpc
        ),
        reference,
        prompts=request.test_prompts,
        streaming=request.streaming,
        chat=reference.has_chat and request.chat_template == "auto" and target.applies_chat_template,
    )
    path = worker.releases.path(release)
    write_atomic(path / "report.json", report.model_dump_json(indent=1))
    write_atomic(path / "report.md", report.to_markdown())
    worker.log(report.to_markdown())
    worker.log(f"report: {path / 'report.md'}")
    if not report.passed:
        if release.state == "candidate":
            worker.releases.set_state(release, "rejected")
        raise GateFailure(
            report.failures(),
            where=f"release {release.model}/{release.number}, {path / 'report.md'}",
            fix="compare the answers in the report; calibrate with more or closer data, or a smaller group size",
        )
    return ReleaseRef(model=release.model, number=release.number)
