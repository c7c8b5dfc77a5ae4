"""The start of a deployment's server: with its image, on leased GPUs, on free ports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from include.context import Context, gpus_in_use, gpus_of_processes
from include.errors import HostError, PipelineError
from include.host.docker.containers import Containers
from include.host.docker.engine import local_engine
from include.host.leases import lease
from include.host.ports import are_free
from include.triton import servers
from include.triton.servers import Ports, ServerPlan, ServerRecord

_TRIES = 3


def launch(context: Context, plan: ServerPlan, record_path: Path) -> ServerRecord:
    """Starts a server of this deployment, on leased GPUs if it needs any, and waits until it is ready.

    Raises:
        HostError: the host has too few GPUs, or another program keeps their memory; a file that the server would read
            is not as it was signed.
        PipelineError: as `servers.launch`, or as `include.host.docker.images.ensure_image`.
    """
    check_signature(context, plan.repository)
    if box := plan.container:
        Containers(local_engine, context.log, context.find_login).ensure_image(box.image, box.build)
    return servers.launch(
        plan,
        record_path,
        timeout_s=context.settings.launch_timeout_s,
        log=context.progress,
        log_path=context.settings.log_directory / f"{record_path.stem}.log",
        gpus=leased_gpus(context, plan),
    )


def launch_on_free_ports(
    context: Context,
    plan: Callable[[Ports], ServerPlan],
    record_path: Path,
    http: int | None = None,
) -> ServerRecord:
    """Starts a server as `launch` does, on the port ``http`` if given, else on free ports.

    If another program takes a free port before the server does, other ports are tried.
    """
    for _ in range(_TRIES - 1):
        ports = servers.some_ports(http)
        try:
            return launch(context, plan(ports), record_path)
        except PipelineError as error:
            if are_free(port for port in ports.all if port != http):
                raise
            context.log(f"{error}\na port was taken meanwhile: starting it on others")
    return launch(context, plan(servers.some_ports(http)), record_path)


def check_signature(context: Context, repository: Path) -> None:
    """Raises `HostError` if the repository is not as it was signed, or if it is not signed and has to be."""
    if context.signatures.verify(repository):
        context.log(f"repository {repository.name[:12]} is as it was signed")
        return
    what = f"repository {repository.name[:12]} is not signed: an earlier version made it"
    if context.settings.require_signature:
        raise HostError(
            what,
            where="HF2TRITON_REQUIRE_SIGNATURE",
            fix=f"remove {repository} and run its request again, which makes and signs it anew; or accept it",
        )
    context.log(what)


@contextmanager
def leased_gpus(context: Context, plan: ServerPlan) -> Iterator[tuple[str, ...]]:
    """The GPUs for a server. The live server's GPUs may be among them, if both servers fit."""
    target = context.target(plan.target)
    artifacts = context.settings.artifacts
    in_use = (
        partial(gpus_in_use, Containers(local_engine, context.log), artifacts)
        if plan.container
        else partial(gpus_of_processes, artifacts)
    )
    directory = context.settings.gpu_lease_dir
    with lease(plan.gpus, target.gpu_ids(), directory=directory, in_use=in_use, log=context.log) as leased:
        target.wait_for_memory(set(leased).difference(context.live_gpus()))
        yield leased
