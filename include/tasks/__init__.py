"""One module for each task id of `release_awq_engine`: what the task does, without Airflow.

A module has ``run(worker, ...)``, which does the task on the worker, or ``job(worker, ...)``, which says
what stage program a runner is to start. Tasks hand on small JSON: the models below.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from include.model_config import ModelConfig
from include.request import ReleaseRequest
from include.sources import DatasetSource, ModelSource
from include.store import Artifact, ArtifactStore


class Checked(BaseModel):
    """A request that can be met: what `check_request` found out about it."""

    model_config = ConfigDict(frozen=True)
    request: ReleaseRequest
    source: ModelSource
    dataset: DatasetSource | None = None
    config: ModelConfig


class ArtifactRef(BaseModel):
    """An artifact by its name in the store, which is the same on every worker.

    ``reused`` says that this run took it from there instead of making it.
    """

    model_config = ConfigDict(frozen=True)
    kind: str
    name: str
    reused: bool

    def load(self, store: ArtifactStore) -> Artifact:
        """The artifact; raises `HostError` if this worker's store does not have it."""
        return store.get(self.kind, self.name)


class Pulled(BaseModel):
    """What `pull_model` put into the store."""

    model_config = ConfigDict(frozen=True)
    model: ArtifactRef
    dataset: ArtifactRef | None = None


class ReleaseRef(BaseModel):
    """A release by its model and number."""

    model_config = ConfigDict(frozen=True)
    model: str
    number: int
