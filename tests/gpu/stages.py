"""Visit ``stages``: GPUs in containers of a real Docker engine, and stage programs of real targets in them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from include.context import Context, gpus_in_use
from include.errors import HostError
from include.host.docker.containers import ContainerSpec
from include.host.docker.engine import local_engine
from include.host.gpus import Gpu
from include.host.leases import lease
from include.requests.release import ReleaseRequest
from include.runners.container import StageContainers
from include.runners.job import StageJob, StageTarget
from include.settings import settings
from include.stages.progress import Step
from include.targets.registry import get_target
from include.tasks import ArtifactRef, Checked, Pulled, build_engine, calibrate_awq, check_request, pull_model
from tests.e2e.attempts import DAG_ID, Attempt, Worker
from tests.gpu import engine
from tests.gpu.ballast import ballast
from tests.gpu.layout import TRTLLM_IMAGE, VLLM_IMAGE
from tests.gpu.visit import FAILED, Visit, judged
from tests.support.engine import run_to_end

REQUEST = {"target": "vllm", "awq_group_size": 64, "calib_size": 32, "calib_seq_len": 128, "task_data": "off"}
ROOM_GIB = 2.5
"""Too little for 128 samples of 512 tokens at once: the layers' activations take 3 GB, CUDA and the model 1 GB."""

_LOOK = """
import glob, json, os, subprocess
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
found = {
    "uid": os.getuid(), "capabilities": status["CapEff"].strip(), "no_new_privileges": status["NoNewPrivs"].strip(),
    "network": sorted(os.listdir("/sys/class/net")), "devices": sorted(glob.glob("/dev/nvidia[0-9]*")),
    "nvidia-smi": subprocess.run("nvidia-smi -L", shell=True, capture_output=True, text=True).stdout.split("\\n")[:-1],
}
if found["devices"]:
    import torch
    found["torch"] = torch.cuda.get_device_name()
    found["sum"] = (torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda")).sum().item()
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Job(Attempt):
    """An attempt at a stage of a real target."""

    stage: Callable[[Context], StageJob] | None = None
    silence_s: float = 300

    def job(self, context: Context) -> StageJob:
        assert self.stage
        return self.stage(context)

    def target(self) -> StageTarget:
        return get_target(self.key, settings())


def run(visit: Visit, model: Path) -> None:
    """The visit."""
    with engine.running() as client:
        context = Context(settings=settings(), log=partial(print, flush=True), dag_id=DAG_ID, run_id="run-1")
        gpus = visit.step("list_gpus", lambda: list_gpus(context))
        of_vllm = gpus["vllm"] if gpus is not FAILED else FAILED
        visit.step("container", look_inside, of_vllm)
        visit.step("leases", wait_for_lease, of_vllm)
        visit.step("busy_gpu", lambda _: busy(context), of_vllm)
        asked = visit.step("check_request", lambda _: checked(context, {**REQUEST, "model": str(model)}), of_vllm)
        checkpoint = visit.step("killed_and_taken_over", partial(take_over, context), asked)
        visit.step("out_of_memory", lambda _: halved(context, model), checkpoint)
        visit.step("build_engine", partial(build, context), asked, checkpoint)
        visit.step("tensorrt_llm", lambda _: stand_in(context, model), gpus)
        visit.step("memory_back", lambda _: memory_back(context, client), gpus)


def list_gpus(context: Context) -> dict[str, Any]:
    """By the images of both targets."""
    return {name: context.target(name).list_gpus() for name in ("vllm", "tensorrt_llm")}


def look_inside(gpus: list[Gpu]) -> dict[str, Any]:
    """What a container with a GPU has, and one without a device request."""
    asked, plain = (_look(ids) for ids in ((gpus[0].uuid,), ()))
    return judged(
        {"with_request": asked, "without": plain},
        not_root=asked["uid"] != 0,
        no_capabilities=int(asked["capabilities"], 16) == 0,
        no_new_privileges=asked["no_new_privileges"] == "1",
        no_network=set(asked["network"]) <= {"lo"},
        one_device=len(asked["devices"]) == 1,
        the_gpu_asked_for=[gpus[0].name in line for line in _listed(asked)] == [True],
        no_device_unasked=plain["devices"] == [],
        no_gpu_unasked=_listed(plain) == [],
    )


def _listed(looked: dict[str, Any]) -> list[str]:
    """The GPUs that nvidia-smi names; it says on stdout, too, why it names none."""
    return [line for line in looked["nvidia-smi"] if line.startswith("GPU ")]


def _look(gpus: tuple[str, ...]) -> dict[str, Any]:
    lines: list[str] = []
    spec = ContainerSpec(image=VLLM_IMAGE, argv=("python3", "-c", _LOOK), gpus=gpus)
    run_to_end(StageContainers(local_engine, lines.append), spec)
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def wait_for_lease(gpus: list[Gpu]) -> dict[str, Any]:
    """A lease of all GPUs waits until the container that holds one of them has ended."""
    lines: list[str] = []
    containers = StageContainers(local_engine, lines.append)
    spec = ContainerSpec(image=VLLM_IMAGE, argv=("sleep", "4"), gpus=(gpus[0].uuid,))
    holding = containers.create(spec)
    containers.start(holding)
    begun = time.monotonic()
    ids = [gpu.uuid for gpu in gpus]
    in_use = partial(gpus_in_use, containers, settings().artifacts)
    with lease(len(ids), ids, directory=settings().gpu_lease_dir, in_use=in_use, log=lines.append) as leased:
        waited = time.monotonic() - begun
        state = containers.inspect(holding)
    containers.remove(holding)
    return judged(
        {"waited_s": round(waited, 1), "log": lines, "leased": sorted(leased)},
        holder_had_ended=state is not None and not state.active,
        all_leased=sorted(leased) == sorted(ids),
        waiting_was_told=any("waiting for" in line for line in lines),
    )


def busy(context: Context) -> dict[str, Any]:
    """A GPU that somebody else uses is refused, and is waited for."""
    target, request = context.target("vllm"), ReleaseRequest.parse({**REQUEST, "model": "/none"})
    gpus = [gpu.uuid for gpu in target.list_gpus()]
    with ballast(settings().vllm_python, take_gib=4):
        try:
            free, refused = target.devices(request), ""
        except HostError as error:
            free, refused = [], str(error)
    begun = time.monotonic()
    target.wait_for_memory(gpus)
    found = {"refused": refused, "free": free, "back_s": round(time.monotonic() - begun, 1)}
    return judged(found, refused_or_another_taken=len(free) < len(gpus))


def checked(context: Context, params: dict[str, Any]) -> tuple[Checked, Pulled]:
    """The request and the model."""
    request = check_request.run(context, params)
    return request, pull_model.run(context, request)


def attempt(asked: tuple[Checked, Pulled], stage: Callable[[Context], StageJob], **more: Any) -> Job:
    store = settings().artifacts
    return Job(script="", artifacts=store, reads=store, key=asked[0].request.target, stage=stage, **more)


def make(asked: tuple[Checked, Pulled], stage: Callable[[Context], StageJob]) -> tuple[ArtifactRef, list[str]]:
    """An undisturbed attempt: the artifact, and the log."""
    worker = Worker(attempt(asked, stage))
    return ArtifactRef.model_validate(worker.result()), worker.log


def take_over(context: Context, asked: tuple[Checked, Pulled]) -> dict[str, Any]:
    """Calibrates; the worker is killed as soon as the container runs, and the next one takes over its container."""
    stage = partial(calibrate_awq.job, checked=asked[0], pulled=asked[1])
    first = Worker(attempt(asked, stage, die_at=" started"))
    first.process.join(120)
    assert first.process.exitcode == -9, "\n".join(first.log)
    second = Worker(attempt(asked, stage, number=2))
    made = ArtifactRef.model_validate(second.result())
    said = [line for line in second.log if "of attempt 1 is" in line]
    found = {"checkpoint": made, "log": said or second.log, **scores(context, made)}
    return judged(found, container_taken_over=bool(said))


def halved(context: Context, model: Path) -> dict[str, Any]:
    """Calibration with too little memory for all samples at once."""
    asked = checked(context, {**REQUEST, "model": str(model), "calib_size": 128, "calib_seq_len": 512})
    with ballast(settings().vllm_python, leave_gib=ROOM_GIB) as taken:
        made, log = make(asked, partial(calibrate_awq.job, checked=asked[0], pulled=asked[1]))
    again = [line for line in log if "out of memory: again" in line]
    found = {"room_gib": ROOM_GIB, "taken_bytes": taken, "log": again, **scores(context, made)}
    return judged(found, memory_ran_out=bool(again))


def build(context: Context, asked: tuple[Checked, Pulled], calibrated: dict[str, Any]) -> dict[str, Any]:
    """The engine of target vllm, with its proof."""
    made, log = make(asked, partial(build_engine.job, checked=asked[0], checkpoint=calibrated["checkpoint"]))
    steps = [str(step) for line in log if (step := Step.parse(line)) and step.seconds is not None]
    return {"parts": steps, "scores": build_engine.event(context, made)["scores"]}


def stand_in(context: Context, model: Path) -> dict[str, Any]:
    """Target tensorrt_llm in an image with NVIDIA's layout and banner: real calibration in FP8, a stand-in build."""
    request = {"target": "tensorrt_llm", "quantization": "fp8", "calib_size": 32, "calib_seq_len": 128}
    asked = checked(context, {**request, "model": str(model), "streaming": False, "task_data": "off"})
    checkpoint, _ = make(asked, partial(calibrate_awq.job, checked=asked[0], pulled=asked[1]))
    made, _ = make(asked, partial(build_engine.job, checked=asked[0], checkpoint=checkpoint))
    files = sorted(path.name for path in made.load(context.store).path.iterdir())
    return {"image": TRTLLM_IMAGE, "engine": files, **scores(context, checkpoint)}


def scores(context: Context, checkpoint: ArtifactRef) -> dict[str, Any]:
    """Of a calibration: perplexity, seconds of its parts, memory."""
    artifact = checkpoint.load(context.store)
    report = artifact.manifest.report
    return {
        "perplexity": calibrate_awq.event(context, checkpoint)["scores"],
        "timings_s": report["timings_s"],
        "gpu_peak_bytes": report.get("gpu_peak_bytes"),
        "batch_size": report["results"].get("batch_size"),
    }


def memory_back(context: Context, client: Any) -> dict[str, Any]:
    """No container is left, and no memory is in use."""
    left = [summary["Id"] for summary in client.containers(all=True)]
    used = [gpu.memory_used_mib for gpu in context.target("vllm").list_gpus()]
    return judged({"used_mib": used, "containers": left}, no_container_left=left == [])
