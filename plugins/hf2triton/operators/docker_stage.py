"""The operator for tasks that run a stage program in a container of the target's image."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk.exceptions import AirflowException

from hf2triton.context import registry_login
from hf2triton.operators.stage import StageOperator
from include.context import gpus_in_use
from include.host.docker.engine import unreachable
from include.runners import container_job as labels
from include.runners.container import StageContainers
from include.runners.container_job import ContainerRunner

if TYPE_CHECKING:
    from airflow.sdk import Context
    from docker import APIClient

    from include.context import Context as TaskContext
    from include.files import Log


class DockerStageOperator(StageOperator, DockerOperator):
    """A `StageOperator` whose program runs in a container of the engine that Airflow's hook connects to.

    The container outlives its worker: the next attempt, or another run that needs the same artifact, finds it by its
    labels, follows it and takes its result. Killing the task removes the container.

    The deployment's registry login is no ``docker_conn_id``: Airflow's hook would log in for each attempt, even if the
    image is on the host and the registry is not reachable.
    """

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401
        # The target decides the image, and the target is a param of the run.
        super().__init__(image="", mount_tmp_dir=False, **kwargs)

    def make_runner(self, task: TaskContext, context: Context, log: Log) -> ContainerRunner:
        """The runner of one attempt; the labels of its containers name the attempt."""
        ti = context["ti"]
        owner = {
            labels.LABEL_DAG: task.dag_id,
            labels.LABEL_RUN: task.run_id,
            labels.LABEL_TASK: self.task_id,
            labels.LABEL_MAP_INDEX: str(ti.map_index),
            labels.LABEL_ATTEMPT: str(ti.try_number),
        }
        containers = self.containers(log)
        in_use = partial(gpus_in_use, containers, task.settings.artifacts)
        lease_dir = task.settings.gpu_lease_dir
        return ContainerRunner(containers, task.store, task.target, in_use, lease_dir, owner, log)

    def containers(self, log: Log | None = None) -> StageContainers:
        """The containers of the engine; connects when it is first needed."""
        return StageContainers(self._connect, log or self.log.info, registry_login)

    def _connect(self) -> APIClient:
        from docker.errors import DockerException

        try:
            return self.hook.api_client
        except (AirflowException, DockerException) as error:
            url = self.docker_url
            raise unreachable(url if isinstance(url, str) else url[0]) from error
