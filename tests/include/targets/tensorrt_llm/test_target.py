"""The target as the tasks see it, with an image that is not there played by fixtures of the same contract."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from include.artifacts.store import Manifest
from include.errors import HostError, ToolError
from include.host.docker.containers import ContainerSpec
from include.host.docker.images import ImageId
from include.host.docker.oneshot import DockerImage, Finished
from include.model.config import ModelConfig
from include.requests.release import ReleaseRequest
from include.settings import Settings
from include.targets.tensorrt_llm import TensorRTLLMTarget, probe
from include.targets.tensorrt_llm.image import CANDIDATES
from include.targets.tensorrt_llm.settings import TensorRTLLMSettings
from include.triton import repository
from include.triton.servers import Ports

FIXTURES = Path(__file__).parents[3] / "fixtures" / "tensorrt_llm"
FLAGS = json.loads((FIXTURES / "tritonserver_flags.json").read_text())
PORTS = Ports(http=18000, grpc=18001, metrics=18002)
TOOLS = {name: f"/opt/{name}" for name in CANDIDATES}
VERSIONS = {
    "tensorrt_llm": "1.2.1",
    "tensorrt": "10.14.1.48",
    "nvidia-modelopt": "0.37.0",
    "transformers": "4.57.3",
    "torch": "2.9.0",
    "python": "3.12.3",
}
GPUS = "\n".join(f"{n}, GPU-{n}, NVIDIA L40S, 8.9, 590.44.01, 46068, 3, Disabled" for n in range(2))
BUSY = GPUS.replace("46068, 3", "46068, 40000", 1)


class PlayedImage(DockerImage):
    """Answers as the image would: the probe, nvidia-smi, and the templates' folder. Counts what was asked."""

    def __init__(self, gpus: str = GPUS, code: int = 0, tools: dict[str, str] | None = None) -> None:
        super().__init__("nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3")
        self.asked: list[str] = []
        self._gpus = Finished(code, gpus)
        self._tools = tools or TOOLS

    def ensure(self) -> ImageId:
        return ImageId(id="sha256:" + "ab" * 32, digest="sha256:feed")

    def run(self, argv: Sequence[str], *, gpus: bool = False) -> Finished:
        self.asked.append(argv[0])
        if argv[0] == "nvidia-smi":
            assert gpus
            return self._gpus
        return Finished(0, probe.MARKER + json.dumps({"tools": self._tools, "versions": VERSIONS}))

    def copy_out(self, path: str, into: Path) -> None:
        assert path == TOOLS["templates"]
        self.asked.append("copy")
        shutil.copytree(FIXTURES / "templates", into)


def settings(tmp_path: Path, **changes: object) -> Settings:
    return Settings.model_validate({"artifacts": tmp_path / "store", "runner": "docker", **changes})


def target(tmp_path: Path, image: DockerImage | None = None, **own: object) -> TensorRTLLMTarget:
    return TensorRTLLMTarget(settings(tmp_path), TensorRTLLMSettings.model_validate(own), docker=image or PlayedImage())


def request(**fields: object) -> ReleaseRequest:
    return ReleaseRequest.parse({"target": "tensorrt_llm", **fields})


def write_engine(tmp_path: Path, *, tp: int = 1, pp: int = 1, version: str = "1.2.1", gpu: str = "NVIDIA L40S") -> Path:
    path = tmp_path / "store" / "engines" / "key"
    path.mkdir(parents=True)
    mapping = {"tp_size": tp, "pp_size": pp, "world_size": tp * pp}
    (path / "config.json").write_text(json.dumps({"version": version, "pretrained_config": {"mapping": mapping}}))
    manifest = Manifest(kind="engines", name="key", inputs={"hardware": {"gpu": gpu, "sm": "89"}}, outputs=[])
    (path / "manifest.json").write_text(manifest.model_dump_json())
    return path


def write_repository(tmp_path: Path, it: TensorRTLLMTarget, engine: Path, asked: ReleaseRequest) -> Path:
    checkpoint = tmp_path / "store" / "checkpoints" / "key"
    (checkpoint / "tokenizer").mkdir(parents=True)
    values = it.repository_values(asked, CONFIG, checkpoint, engine)
    out = tmp_path / "store" / "repositories" / "key"
    repository.assemble(it.templates(), values, out)
    repository.check(out, path_map=it.local_path)
    return out


CONFIG = ModelConfig.parse(
    json.dumps(
        {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 32000,
            "max_position_embeddings": 4096,
            "rope_theta": 10000.0,
            "torch_dtype": "float16",
        }
    ),
    where="test",
)


def test_a_target_can_be_made_where_there_is_no_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    it = TensorRTLLMTarget(settings(tmp_path))
    with pytest.raises(HostError, match="there is no Docker engine on this host"):
        it.check_host(request())


def test_a_deployment_without_containers_is_refused(tmp_path: Path) -> None:
    it = TensorRTLLMTarget(settings(tmp_path, runner="process"), docker=PlayedImage())
    with pytest.raises(HostError, match="runs in containers"):
        it.check_host(request())


def test_a_good_host_passes_and_the_image_is_probed_once(tmp_path: Path) -> None:
    image = PlayedImage()
    target(tmp_path, image).check_host(request(tp_size=2))
    target(tmp_path, image).check_host(request())
    assert image.asked.count("python3") == 1
    assert image.asked.count("nvidia-smi") == 2


@pytest.mark.parametrize(
    ("image", "own", "fields", "words"),
    [
        (PlayedImage("Failed to initialize NVML: Unknown Error", 255), {}, {}, "lost its GPUs"),
        (PlayedImage(GPUS.replace("8.9", "12.0")), {}, {}, "Blackwell"),
        (PlayedImage(GPUS.replace("8.9", "8.6")), {}, {"quantization": "fp8"}, "SM 86; FP8 needs SM 89 or later"),
        (PlayedImage(), {}, {"tp_size": 4}, "host has 2 x NVIDIA L40S"),
        (PlayedImage(), {"digests": ["sha256:other"]}, {}, "not accepted"),
        (
            PlayedImage(tools={k: v for k, v in TOOLS.items() if k != "mpirun"}),
            {},
            {"tp_size": 2},
            "no mpirun",
        ),
    ],
    ids=["nvidia-smi-fails", "blackwell", "too-old-for-fp8", "too-few", "digest", "mpirun"],
)
def test_a_host_that_will_not_do_is_refused(
    tmp_path: Path, image: PlayedImage, own: dict[str, object], fields: dict[str, object], words: str
) -> None:
    with pytest.raises(HostError, match=words):
        target(tmp_path, image, **own).check_host(request(**fields))


def test_an_ada_gpu_will_do_for_fp8_whatever_the_group_size(tmp_path: Path) -> None:
    target(tmp_path, PlayedImage()).check_host(request(quantization="fp8", awq_group_size=32))


def test_a_model_that_the_gpu_cannot_hold_is_refused(tmp_path: Path) -> None:
    small = PlayedImage(GPUS.replace("46068", "8188"))
    with pytest.raises(HostError, match="calibrate_awq needs about"):
        target(tmp_path, small).check_fits(request(), CONFIG)
    target(tmp_path).check_fits(request(), CONFIG)


def test_the_keys_are_made_of_what_cannot_move(tmp_path: Path) -> None:
    it = target(tmp_path)
    assert it.environment()["image"] == "sha256:feed"
    assert it.environment().items() >= {"tensorrt_llm": "1.2.1", "tensorrt": "10.14.1.48", "modelopt": "0.37.0"}.items()
    assert it.hardware() == {"gpu": "NVIDIA L40S", "sm": "89"}


def test_the_record_of_a_run_names_the_driver(tmp_path: Path) -> None:
    found = target(tmp_path).host_versions()
    assert found.keys() == {"image", "driver", "gpus"}
    assert (found["driver"], found["gpus"]) == ("590.44.01", "NVIDIA L40S, NVIDIA L40S")


def test_a_stage_runs_with_the_images_interpreter_and_compiles_its_extension_once(tmp_path: Path) -> None:
    it = target(tmp_path)
    command = it.command("include.stages.calibrate", ("--device", it.device, "--tp-size", "2"))
    assert command.argv == ("/opt/python", "-m", "include.stages.calibrate", "--device", "cuda", "--tp-size", "2")
    extensions = Path(command.env["TORCH_EXTENSIONS_DIR"])
    assert extensions == it.cache / "torch_extensions" / "abababababab-sm89"


def test_the_build_is_told_the_request_and_the_key_has_no_path_in_it(tmp_path: Path) -> None:
    it = target(tmp_path)
    options, args = it.build_options(request(max_batch_size=16)), it.build_args(request(max_batch_size=16))
    given = dict(zip(args[::2], args[1::2], strict=True))
    assert given["--max-batch-size"] == options["max-batch-size"] == "16"
    assert given["--timing-cache"] == str(it.cache / "timing" / "10.14.1.48-NVIDIA_L40S.cache")
    assert not [value for value in options.values() if "/" in value]


def test_the_templates_are_copied_out_once_for_each_image(tmp_path: Path) -> None:
    image = PlayedImage()
    it = target(tmp_path, image)
    assert (it.templates() / "ensemble" / "config.pbtxt").is_file()
    assert it.templates() == target(tmp_path, image).templates()
    assert image.asked.count("copy") == 1


@pytest.mark.parametrize(("tp", "network"), list(itertools.product((1, 2, 4, 8), ("bridge", "host"))))
def test_the_server_is_started_with_documented_flags(tmp_path: Path, tp: int, network: str) -> None:
    it = target(tmp_path, network=network)
    engine = write_engine(tmp_path, tp=tp)
    path = write_repository(tmp_path, it, engine, request(tp_size=tp))
    plan = it.server(path, PORTS)
    ranks = ranks_of(plan.hardened().argv, tp)
    assert len(ranks) == plan.gpus == it.gpus(request(tp_size=tp)) == tp
    for number, rank in enumerate(ranks):
        flags = documented(rank)
        assert flags["model-repository"] == str(path)
        assert flags["backend-config"] == f"python,shm-region-prefix-name=prefix{number}_"
        assert (flags["http-port"], flags["grpc-port"], flags["metrics-port"]) == ("18000", "18001", "18002")
        assert flags.get("load-model") == ("tensorrt_llm" if number else None)
        assert flags.get("model-control-mode") == ("explicit" if number else None)
        assert flags["http-address"] == ("127.0.0.1" if network == "host" else "0.0.0.0")
    assert (plan.address, plan.ports) == ("127.0.0.1", PORTS)
    assert plan.gpus == tp
    assert plan.container == ContainerSpec(
        image=it.image.id,
        reads=(path, tmp_path / "store" / "checkpoints" / "key" / "tokenizer", engine),
        network=network,
        shm_bytes=2 << 30,
        ulimits={"memlock": -1, "stack": 67_108_864},
    )


def ranks_of(argv: tuple[str, ...], tp: int) -> list[list[str]]:
    """The tritonserver command lines, with mpirun's own words taken off and checked."""
    if tp == 1:
        return [list(argv)]
    assert argv[:2] == ("/opt/mpirun", "--allow-run-as-root")
    assert argv[2:4] == ("--bind-to", "none"), "else each rank may run on one core only"
    assert argv[4:7] == ("--mca", "odls_base_sigkill_timeout", "45"), "a server's grace period"
    ranks = [list(part) for is_colon, part in itertools.groupby(argv[7:], lambda word: word == ":") if not is_colon]
    assert all(rank[:2] == ["-n", "1"] for rank in ranks)
    return [rank[2:] for rank in ranks]


def documented(rank: list[str]) -> dict[str, str]:
    assert rank[0] == "/opt/tritonserver"
    given = dict(word.removeprefix("--").partition("=")[::2] for word in rank[1:])
    assert len(given) == len(rank) - 1
    for name, value in given.items():
        assert (name in FLAGS["value"]) if value else (name in FLAGS["switch"])
        assert value in FLAGS["choice"].get(name, [value])
    return given


@pytest.mark.parametrize(
    ("engine", "failure", "words"),
    [
        ({"version": "1.0.0"}, HostError, r"built by TensorRT-LLM 1\.0\.0, the image has 1\.2\.1"),
        ({"gpu": "NVIDIA A100"}, HostError, "built on NVIDIA A100, this host has NVIDIA L40S"),
        ({"tp": 2}, ToolError, r"is for 2 GPUs \(TP 2 x PP 1\), the request says tp_size 1"),
        ({"pp": 2}, ToolError, r"is for 2 GPUs \(TP 1 x PP 2\)"),
    ],
    ids=["version", "gpu", "tp", "pp"],
)
def test_an_engine_that_does_not_fit_is_refused_with_both_sides_named(
    tmp_path: Path, engine: dict[str, object], failure: type[Exception], words: str
) -> None:
    path = write_engine(tmp_path, **engine)  # type: ignore[arg-type]
    with pytest.raises(failure, match=words):
        target(tmp_path).repository_values(request(), CONFIG, tmp_path, path)


def test_an_engine_of_another_gpu_is_refused_again_before_launch(tmp_path: Path) -> None:
    path = write_repository(tmp_path, target(tmp_path), write_engine(tmp_path), request())
    elsewhere = target(tmp_path, PlayedImage(GPUS.replace("L40S", "A10").replace("8.9", "8.6")))
    with pytest.raises(HostError, match="built on NVIDIA L40S, this host has NVIDIA A10"):
        elsewhere.server(path, PORTS)


def test_memory_is_waited_for_on_the_gpus_that_a_server_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("include.targets.tensorrt_llm._MEMORY_BACK_S", 0)
    it = target(tmp_path, PlayedImage(BUSY))
    it.wait_for_memory(["GPU-1"])
    with pytest.raises(HostError, match=r"GPU 0 \(NVIDIA L40S\): 40000 of 46068 MiB in use"):
        it.wait_for_memory(["GPU-0"])


def test_idle_gpus_are_offered_first(tmp_path: Path) -> None:
    assert target(tmp_path, PlayedImage(BUSY)).gpu_ids() == ("GPU-1", "GPU-0")


@pytest.mark.parametrize(
    ("free_mib", "words"),
    [(20_000, None), (500, r"calibrate_awq needs about .* GiB of GPU memory, 0\.5 GiB are free")],
    ids=["room beside it", "no room"],
)
def test_the_live_servers_gpu_may_be_shared_if_its_memory_allows(
    tmp_path: Path, free_mib: int, words: str | None
) -> None:
    image = PlayedImage(GPUS.replace("46068, 3", f"46068, {46068 - free_mib}"))
    it = target(tmp_path, image)
    with pytest.raises(HostError, match="1 idle GPUs are needed, 0 are"):
        it.devices(request())
    shared = ("GPU-1",)
    assert [found.uuid for found in it.devices(request(), shared)] == ["GPU-1"]
    if words:
        with pytest.raises(HostError, match=words):
            it.check_fits(request(), CONFIG, shared)
    else:
        it.check_fits(request(), CONFIG, shared)


def test_every_setting_can_be_given_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"IMAGE": "local/image:1", "DIGESTS": '["sha256:1"]', "MIN_DRIVER": "550.54", "BUSY_MIB": "9"}
    for name, value in given.items():
        monkeypatch.setenv(f"HF2TRITON_TRTLLM_{name}", value)
    found = TensorRTLLMSettings()
    assert (found.image, found.digests, found.min_driver, found.busy_mib) == (
        "local/image:1",
        frozenset({"sha256:1"}),
        "550.54",
        9,
    )
