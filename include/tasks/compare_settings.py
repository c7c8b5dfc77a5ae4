"""Task ``compare_settings``: perplexity, size and speed of each setting, and which one is recommended."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator

from include.artifacts.store import Artifact
from include.context import Context
from include.errors import PipelineError, ToolError
from include.gates import Client, Endpoint, NoAnswer, Speed, Trial, read_reference
from include.host.ports import reachable
from include.live.launch import launch_on_free_ports
from include.report.comparison import Row, SettingsComparison, write_comparison
from include.requests.comparison import CompareRequest
from include.tasks import ArtifactRef, Checked
from include.triton import servers

# The outputs of mapped tasks come as a sequence that is read as it is asked.
Each = Annotated[tuple[ArtifactRef, ...], BeforeValidator(tuple)]


def run(
    context: Context,
    checked: list[Checked],
    checkpoints: Each,
    engines: Each,
    repositories: Each,
    params: Mapping[str, Any],
) -> SettingsComparison:
    """Makes the table and keeps it for the run's page. Nothing is promoted, and no live server is touched.

    A setting whose server does not start has no speed, and a note that says why.
    """
    request = CompareRequest.parse(dict(params))
    made = zip(request.requests(), checked, checkpoints, engines, repositories, strict=True)
    rows = []
    for setting, one, checkpoint, engine, repository in made:
        row = _row(context, setting, checkpoint, engine)
        rows.append(_with_speed(context, row, one, repository) if request.measure_speed else row)
    found = SettingsComparison(model=request.model, target=request.target, rows=tuple(rows))
    write_comparison(context.settings.artifacts, context.run_id, found)
    for line in found.lines():
        context.log(line)
    context.tell(f"recommended: {best.setting}" if (best := found.recommended) else "none can be recommended")
    return found


def _row(context: Context, setting: str, checkpoint: ArtifactRef, engine: ArtifactRef) -> Row:
    calibrated = checkpoint.load(context.store)
    quality = read_reference(calibrated.path).quality
    if quality is None:
        raise ToolError("calibration measured no quality", where=str(calibrated.path))
    return Row(
        setting=setting,
        checkpoint=calibrated.name,
        perplexity_before=quality.before,
        perplexity_after=quality.after,
        checkpoint_bytes=_bytes(calibrated),
        engine_bytes=_bytes(engine.load(context.store)),
    )


def _bytes(artifact: Artifact) -> int:
    return sum(output.size for output in artifact.manifest.outputs)


def _with_speed(context: Context, row: Row, checked: Checked, repository: ArtifactRef) -> Row:
    """The row with the speed of a server of its own, which is stopped again."""
    try:
        return row.model_copy(update={"tokens_per_s": _speed(context, checked, repository)})
    except (PipelineError, NoAnswer) as error:
        context.log(f"the speed of {row.setting} is not known: {error}")
        return row.model_copy(update={"note": f"speed not measured: {str(error).splitlines()[0]}"})
    finally:
        if left := servers.find(context.candidate_record):
            servers.stop(left, context.candidate_record)


def _speed(context: Context, checked: Checked, repository: ArtifactRef) -> dict[int, float]:
    request = checked.request
    target = context.target(request.target)
    plan = partial(target.server, repository.load(context.store).path)
    server = launch_on_free_ports(context, plan, context.candidate_record)
    address = reachable(server.plan.address)
    endpoint = Endpoint(host=address, http_port=server.ports.http, grpc_port=server.ports.grpc)
    with Client.open(endpoint) as client:
        trial = Trial(client, tuple(request.test_prompts), streaming=request.streaming)
        verdict = Speed(concurrencies=tuple(request.speed_concurrencies), min_ratio=0).judge(trial)
    if verdict.outcome == "fail":
        raise NoAnswer(verdict.found)
    return {load.concurrency: round(load.output_tokens_per_s, 2) for load in verdict.loads}
