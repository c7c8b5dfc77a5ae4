"""``python3 -m tests.gpu.unpack DIR``: puts together what `tests.gpu.pack` made, on a bare GPU host, as root.

Run it with the Python that has torch: its packages complete those of target vllm. ``--check`` imports what the visits
will import, for a missing package is better missed now. Standard library only.
"""

from __future__ import annotations

import argparse
import compileall
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
import venv
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

from tests.gpu.layout import AIRFLOW, DOCKER, MODELOPT, ON_THE_HOST, PYTHON, ROOT, SITE, THEIR_PACKAGES, TRTLLM, VLLM

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "fixtures" / "tensorrt_llm"
WITHOUT_MULTICAST = {
    "NCCL_NVLS_ENABLE": "0",
    "NVSHMEM_DISABLE_NVLS": "1",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "VLLM_ALLREDUCE_USE_SYMM_MEM": "0",
}
TRTLLM_VERSIONS = {"tensorrt_llm": "1.2.1", "tensorrt": "10.14.1.48"}
BANNER = "=============================\\n== Triton Inference Server ==\\n=============================\\n"


def join(parts: Iterable[Path], root: Path) -> list[Path]:
    """The archives in the parts, in the folder of the parts' contents."""
    packs = root / "packs"
    packs.mkdir(parents=True, exist_ok=True)
    whole = packs / "all.tar"
    with whole.open("wb") as stream:
        for part in sorted(parts):
            stream.write(part.read_bytes())
    with tarfile.open(whole) as tar:
        tar.extractall(packs, filter="data")
    whole.unlink()
    return sorted(packs.glob("*.tar.xz"))


def extract(archive: Path, root: Path) -> None:
    """An archive's folder, anew."""
    shutil.rmtree(root / archive.name.removesuffix(".tar.xz"), ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(root, filter="tar")
    archive.unlink()


def environment(folder: Path) -> None:
    """Makes an environment of a folder that has its packages; its programs get its interpreter."""
    venv.EnvBuilder(symlinks=True).create(folder)
    (folder / "bin").mkdir(exist_ok=True)
    for script in (folder / SITE / "bin").glob("*"):
        text = script.read_bytes()
        if text.startswith(b"#!"):
            made = folder / "bin" / script.name
            made.write_bytes(b"#!%s/bin/python\n" % bytes(folder) + text.partition(b"\n")[2])
            made.chmod(0o755)


def shield(site: Path) -> None:
    """Keeps every program of an environment from NVLink's multicast: a host may share its switch with others.

    Stage programs and servers inherit no such variables.
    """
    line = f"import os; [os.environ.setdefault(*one) for one in {sorted(WITHOUT_MULTICAST.items())}]\n"
    (site / "without_multicast.pth").write_text(line)


def complete(site: Path, other: Path, wanted: Iterable[str] = ("*",)) -> None:
    """Links another site's packages that a site has not; never a second version of one that it has.

    ``wanted`` are patterns of names. No .pth file is linked: it would run in each of the site's programs.
    """
    there = {_name(path) for path in site.glob("*.dist-info")}
    for path in other.iterdir():
        twice = path.suffix == ".dist-info" and _name(path) in there
        left_out = path.suffix == ".pth" or path.name == "__pycache__"
        asked = any(fnmatch(_name(path), pattern) for pattern in wanted)
        if asked and not (left_out or twice or (site / path.name).exists()):
            (site / path.name).symlink_to(path)


def _name(path: Path) -> str:
    """Of a package, its libraries or its ``.dist-info``, as distributions are named."""
    return re.split(r"[-.]", path.name)[0].replace("_", "-").lower()


def trtllm(folder: Path, *sites: Path) -> None:
    """An environment like that of NVIDIA's TensorRT-LLM image, of other sites' packages; its tools are stand-ins."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / SITE).mkdir(parents=True)
    environment(folder)
    for site in sites:
        complete(folder / SITE, site)
    shield(folder / SITE)
    for name, version in TRTLLM_VERSIONS.items():
        info = folder / SITE / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for name in ("fake_trtllm_build.py", "trtllm_build_flags.json"):
        shutil.copy(FIXTURES / name, folder / "bin")
    scripts = {
        "trtllm-build": f'exec {folder}/bin/python {folder}/bin/fake_trtllm_build.py "$@"',
        "tritonserver": "exec sleep infinity",
        "entrypoint": f'printf "{BANNER}"; exec "$@"',
    }
    for name, text in scripts.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "bin" / name).chmod(0o755)


def finish(root: Path, host: Path) -> None:
    """Makes the environments, the engine's runtime and Triton's stub of what was extracted."""
    if (root / AIRFLOW).is_dir():
        environment(root / AIRFLOW)
    if (root / VLLM).is_dir():
        environment(root / VLLM)
        # All else of the host is of other versions: SciPy for numpy 2 beside ModelOpt's numpy 1 fails.
        complete(root / VLLM / SITE, host, (*ON_THE_HOST, *THEIR_PACKAGES))
        shield(root / VLLM / SITE)
        # As in NVIDIA's image: containers see it read-only, and each process would compile all that it imports.
        compileall.compile_dir(root / VLLM / SITE, quiet=2, workers=0)
        triton = root / VLLM / SITE / "pytriton" / "tritonserver"
        stub = triton / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
        shutil.copy(stub, triton / "backends" / "python")
    if (root / DOCKER).is_dir():
        for name, source in (("bare-runtime", (HERE / "runtime.py").read_text()), (HOOK, "#!/bin/sh\nexit 0\n")):
            (root / DOCKER / "bin" / name).write_text(source)
            (root / DOCKER / "bin" / name).chmod(0o755)
    if (root / MODELOPT).is_dir() and (root / VLLM).is_dir():
        trtllm(root / TRTLLM.name, root / MODELOPT, root / VLLM / SITE)


def check(root: Path) -> list[str]:
    """What the environments cannot import; the first import also makes their bytecode."""
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"

    def of(asked: tuple[str, str, tuple[str, ...]]) -> str:
        name, path, modules = asked
        env = {**os.environ, "PYTHONPATH": path, "AIRFLOW_HOME": str(root / "check")}
        argv = [root / name / "bin" / "python", "-c", code, *modules]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, cwd=HERE)
        print(f"imports of {name}: {'ok' if done.returncode == 0 else done.stderr[-2000:]}", flush=True)
        return name if done.returncode else ""

    project = str(HERE.parents[1])
    asked = [
        (AIRFLOW, f"{project}:{project}/plugins", _OF_AIRFLOW),
        (VLLM, "", _OF_VLLM),
        (VLLM, str(root / MODELOPT), ("modelopt.torch.quantization", "transformers")),
        (TRTLLM.name, "", ("torch", "modelopt.torch.quantization", "transformers")),
    ]
    with ThreadPoolExecutor() as pool:
        return [name for name in pool.map(of, asked) if name]


_OF_AIRFLOW = ("airflow", "hf2triton.operators", "docker", "envoy", *(f"tests.gpu.{v}" for v in ("release", "pair")))
_OF_VLLM = (
    *("torch", "vllm.v1.engine.async_llm", "vllm.v1.worker.gpu_model_runner", "vllm.v1.executor.multiproc_executor"),
    *("vllm.v1.attention.backends.flash_attn", "vllm.vllm_flash_attn", "vllm.model_executor.models.llama"),
    *("vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors", "pytriton", "pynvml"),
)
HOOK = "nvidia-container-runtime-hook"
"""Without it on its path the engine refuses device requests."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", type=Path, nargs="?", help="folder of the parts")
    parser.add_argument("--check", action="store_true", help="import what the visits will import")
    options = parser.parse_args()
    if options.parts:
        put_together(options.parts)
    return len(check(ROOT)) if options.check else 0


def put_together(parts: Path) -> None:
    """All of it."""
    start = time.monotonic()
    archives = join(parts.glob("part-*"), ROOT)
    with ProcessPoolExecutor() as pool:
        list(pool.map(extract, archives, [ROOT] * len(archives)))
    finish(ROOT, Path(sysconfig.get_path("purelib")))
    print(f"{', '.join(path.name for path in archives)}: {time.monotonic() - start:.1f} s, {sys.version.split()[0]}")


if __name__ == "__main__":
    sys.exit(main())
