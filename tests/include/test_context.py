"""What a task has at hand."""

from __future__ import annotations

from pathlib import Path

from include.context import Context, gpus_of_processes
from include.host import services
from include.settings import Settings
from include.triton import servers
from include.triton.servers import Ports, ServerPlan, ServerRecord


def test_records_stand_beside_each_other(tmp_path: Path) -> None:
    context = Context(settings=Settings(artifacts=tmp_path), log=print, dag_id="d", run_id="r")
    assert context.candidate_record.parent == context.settings.artifacts / "servers"


def test_who_looks_at_servers_leaves_the_remains_that_tell_how_one_ended(tmp_path: Path) -> None:
    context = Context(settings=Settings(artifacts=tmp_path), log=print, dag_id="d", run_id="r")
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "name").symlink_to("../releases/org--name/1")
    plan = ServerPlan(target="t", repository=Path("/r"), argv=("x",), ports=Ports(http=1, grpc=2, metrics=3))
    ended = ServerRecord(plan=plan, log=tmp_path / "log", gpus=("GPU-1",))
    for path in (context.live_records["name"], context.candidate_record):
        services.write(ended, path)
    assert (context.live_servers(), gpus_of_processes(tmp_path)) == ({}, set())
    assert servers.obituary(context.live_records["name"]) == "it ended"
    assert context.candidate_record.exists()
