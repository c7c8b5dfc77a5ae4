"""The lineage of a task for OpenLineage: from a commit of the Hub to the release that is live.

A collector is told only where Airflow's OpenLineage provider has one in its settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.event_v2 import Dataset
from openlineage.client.facet_v2 import dataset_version_dataset
from pydantic import ValidationError

from include.releases.ids import ReleaseId
from include.settings import settings
from include.sources import ModelSource
from include.tasks import ArtifactRef, LiveRelease

_HUB = "https://huggingface.co"
# OpenLineage's name for files of a shared disk.
_FILES = "file"


def lineage_of(inputs: Any, result: Any) -> OperatorLineage[Any, Any]:  # noqa: ANN401
    """What a task read and made, by the JSON that it was given and that it returned.

    A task reads the model's source only if it is given nothing that was made from it.
    """
    read = list(_found(inputs, ArtifactRef, ReleaseId)) or list(_found(inputs, ModelSource))
    return OperatorLineage(inputs=read, outputs=list(_found(result, ArtifactRef, ReleaseId, LiveRelease)))


def _found(value: Any, *kinds: type[ArtifactRef | ReleaseId | LiveRelease | ModelSource]) -> Iterator[Dataset]:  # noqa: ANN401
    if not isinstance(value, Mapping):
        return
    for kind in kinds:
        try:
            yield _dataset(kind.model_validate(value))
            return
        except ValidationError:
            continue
    for part in value.values():
        yield from _found(part, *kinds)


def _dataset(thing: ArtifactRef | ReleaseId | LiveRelease | ModelSource) -> Dataset:
    root = settings().artifacts
    match thing:
        case ArtifactRef():
            return _versioned(_FILES, f"{root / thing.kind / thing.name}", thing.name.rpartition("@")[2])
        case ReleaseId():
            return _versioned(_FILES, f"{root}/releases/{thing.model}", str(thing.number))
        case LiveRelease():
            return _versioned(_FILES, f"{root}/live/{thing.name}", f"{thing.model}/{thing.release}")
        case ModelSource():
            return _versioned(_HUB if thing.origin == "hub" else _FILES, thing.id, thing.commit)


def _versioned(namespace: str, name: str, version: str) -> Dataset:
    facet = dataset_version_dataset.DatasetVersionDatasetFacet(version)
    return Dataset(namespace=namespace, name=name, facets={"version": facet})
