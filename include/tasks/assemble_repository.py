"""Task ``assemble_repository``: the ensemble's model repository, filled from pristine templates and checked."""

from __future__ import annotations

from include.artifacts.kind import Kind
from include.context import Context
from include.tasks import ArtifactRef, Checked
from include.triton import repository

_IGNORED = {
    "kv_cache_memory_fraction": "the values have it",
    "chat_template": "the values have it",
    "streaming": "the values have it",
    "candidate_http_port": "the candidate's server has it, no file",
}


def run(context: Context, checked: Checked, checkpoint: ArtifactRef, engine: ArtifactRef) -> ArtifactRef:
    """Makes and signs the repository; raises `ToolError` if it would not load: unfilled, unparsable, a path missing."""
    request = checked.request
    target = context.target(request.target)
    values = target.repository_values(
        request, checked.config, checkpoint.load(context.store).path, engine.load(context.store).path
    )
    inputs = {
        "checkpoint": checkpoint.name,
        "engine": engine.name,
        "templates": target.template_code(),
        "values": values,
    }
    if fields := request.section("Serving", ignored=_IGNORED):
        inputs["fields"] = fields
    with context.store.claim(Kind.REPOSITORY, inputs, log=context.log) as claim:
        if not claim.hit:
            repository.assemble(target.templates(), values, claim.partial, target.overlay())
            target.connect(claim.partial)
            repository.check(claim.partial, path_map=target.local_path)
            context.signatures.sign(claim.name, claim.partial)
            claim.commit()
        return ArtifactRef(kind=Kind.REPOSITORY, name=claim.name, reused=claim.hit)
