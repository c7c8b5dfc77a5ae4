"""Task ``pull_model``: the model's files, and the calibration data set if one was named, into the store."""

from __future__ import annotations

from include import sources
from include.artifacts.kind import Kind
from include.context import Context
from include.errors import PipelineError
from include.sources import DatasetSource, ModelSource
from include.tasks import ArtifactRef, Checked, Pulled


def run(context: Context, checked: Checked) -> Pulled:
    """Downloads the files that the store does not have yet, and verifies the hash of every file.

    Raises:
        TransientError: the network failed; files that have arrived are kept for the next attempt.
        UserError: the target cannot serve the tokenizer as the request asks.
        PipelineError: anything else; nothing is kept.
    """
    request = checked.request
    model = _pull(context, Kind.MODEL, context.releases.name_of(request.model), checked.source)
    context.target(request.target).check_tokenizer(request, model.load(context.store).path)
    if checked.dataset is None:
        return Pulled(model=model)
    dataset = _pull(context, Kind.DATASET, checked.dataset.id.replace("/", "--"), checked.dataset)
    return Pulled(model=model, dataset=dataset)


def _pull(context: Context, kind: Kind, slug: str, source: ModelSource | DatasetSource) -> ArtifactRef:
    inputs = {"commit": source.commit, "files": {f.path: f.digest for f in source.files}}
    name = f"{slug}@{source.commit}"
    with context.store.claim(kind, inputs, log=context.log, name=name, resume=True) as claim:
        if not claim.hit:
            try:
                sources.fetch(
                    source,
                    claim.partial,
                    token=context.token,
                    endpoint=context.settings.hub_endpoint,
                    log=context.progress,
                )
            except PipelineError as error:
                if not error.retry:
                    context.store.discard(claim)
                raise
            claim.commit()
    return ArtifactRef(kind=kind, name=name, reused=claim.hit)
