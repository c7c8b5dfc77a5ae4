"""``python -m tests.gpu.pack --model DIR --out DIR``: all that a bare GPU host lacks, in parts of at most 56 MB.

It needs a package index, apt-get, and uv (of `make setup`); `tests.gpu.unpack` puts the parts together again. torch and
what belongs to it stay out: the host has them. The parts are a tar of .tar.xz files, cut.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from include.settings import PROJECT
from tests.gpu.layout import (
    AIRFLOW,
    ARCHIVES,
    DOCKER,
    MODEL,
    MODELOPT,
    ON_THE_HOST,
    PART_BYTES,
    PYTHON,
    SITE,
    VLLM,
)

LOCKS = PROJECT / "include" / "targets" / "vllm"
UV = PROJECT / ".venvs" / "uv" / "bin" / "uv"
PLATFORM = "x86_64-manylinux_2_35"
DEBS = ("docker.io", "containerd", "runc", "libdevmapper1.02.1", "libseccomp2")
BINARIES = ("dockerd", "docker-proxy", "containerd", "containerd-shim-runc-v2", "runc")
TESTING = ("pytest", "pluggy", "iniconfig")

# What vLLM imports only for features that the visits do not use.
NOT_USED = (
    *("flashinfer-*", "tilelang", "torchcodec", "pynvvideocodec", "z3-solver", "tokenspeed-*", "humming-kernels"),
    *("torch-c-dlpack-ext", "fastapi-cloud-cli", "sentry-sdk", "rignore"),
)
NEEDED = ("nvidia-pytriton", "nvidia-ml-py")
# Kernels of other GPUs and formats, static libraries, data, and Triton's stubs for other versions of Python.
PRUNED = (
    *("vllm/vllm-rs*", "vllm/third_party/fmha_sm100", "vllm/third_party/deep_gemm", "vllm/_flashmla*_C*"),
    *("vllm/vllm_flash_attn/_vllm_fa2_C*", "vllm/_qutlass_C*", "vllm/entrypoints/serve/instrumentator/static"),
    *("xgrammar/lib/*.a", "mistral_common/data/*", "pycountry/locales"),
    *("pytriton/tritonserver/python_backend_stubs/3.[!1]*", "pytriton/tritonserver/python_backend_stubs/3.1[!2]"),
)


def without(lock: str, left_out: Iterable[str]) -> str:
    """The requirements of a lock less those whose names match; the hashes of the others stay."""
    kept = []
    taken = True
    for line in lock.splitlines():
        if line and line[0] not in " #":
            name = line.partition("==")[0]
            taken = name in NEEDED or not any(fnmatch(name, pattern) for pattern in left_out)
        if taken:
            kept.append(line)
    return "\n".join(kept) + "\n"


def install(folder: Path, *what: str | Path) -> None:
    """Installs into a folder, for the host's Python."""
    options = ("--quiet", "--no-deps", "--only-binary", ":all:", "--python-version", PYTHON)
    place = ("--python-platform", PLATFORM, "--target", folder)
    subprocess.run([UV, "pip", "install", *options, *place, *what], check=True)


def airflow(folder: Path) -> None:
    """The environment of Airflow, with pytest for the helpers of the tests."""
    install(folder / SITE, "--require-hashes", "-r", PROJECT / "requirements.txt")
    install(folder / SITE, "-c", PROJECT / "tests" / "requirements.txt", *TESTING)


def vllm(folder: Path) -> None:
    """The environment of target vllm, with Triton, less what the host has."""
    with TemporaryDirectory() as work:
        lock = Path(work) / "requirements.txt"
        lock.write_text(without((LOCKS / "requirements.txt").read_text(), (*ON_THE_HOST, *NOT_USED)))
        install(folder / SITE, "--require-hashes", "-r", lock)
    for pattern in PRUNED:
        for path in (folder / SITE).glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def modelopt(folder: Path) -> None:
    """The folder of ModelOpt, as `make setup-vllm` fills it."""
    install(folder, "--require-hashes", "-r", LOCKS / "modelopt.txt")
    shutil.copy(LOCKS / "modelopt.txt", folder / "requirements.txt")


def docker(folder: Path) -> None:
    """The Docker engine's programs and the libraries that a bare host may lack."""
    with TemporaryDirectory() as work:
        subprocess.run(["apt-get", "download", "-qq", *DEBS], cwd=work, check=True)
        for deb in Path(work).glob("*.deb"):
            subprocess.run(["dpkg", "-x", deb, Path(work) / "root"], check=True)
        for path in (Path(work) / "root").rglob("*"):
            # Links among them: a program asks for a library by the name of one.
            if path.is_file() and (path.name in BINARIES or fnmatch(path.name, "lib*.so.*")):
                place = folder / ("bin" if path.name in BINARIES else "lib")
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)


def model(folder: Path, source: Path) -> None:
    """The model directory."""
    shutil.copytree(source, folder)


def archive(folder: Path, out: Path) -> Path:
    """A folder's files as .tar.xz, without bytecode."""
    target = out / f"{folder.name}.tar.xz"
    with tarfile.open(target, "w:xz", preset=6) as tar:
        tar.add(folder, folder.name, filter=lambda it: None if "__pycache__" in it.name else it)
    return target


def cut(archives: Iterable[Path], out: Path) -> list[Path]:
    """The archives as parts of `PART_BYTES` at most."""
    whole = out / "all.tar"
    with tarfile.open(whole, "w") as tar:
        for path in archives:
            tar.add(path, path.name)
    parts = []
    with whole.open("rb") as stream:
        while piece := stream.read(PART_BYTES):
            parts.append(out / f"part-{len(parts):02}")
            parts[-1].write_bytes(piece)
    whole.unlink()
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="model directory, e.g. that of `make demo-model`")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the parts")
    parser.add_argument("--work", type=Path, help="keep what was packed there, and pack only what is not there yet")
    parser.add_argument("--only", nargs="+", choices=ARCHIVES, default=ARCHIVES, help="not all of it")
    options = parser.parse_args()
    makers = {
        **{AIRFLOW: airflow, VLLM: vllm, MODELOPT: modelopt, DOCKER: docker},
        MODEL: partial(model, source=options.model),
    }
    options.out.mkdir(parents=True)
    with TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)

        def make(name: str) -> Path:
            if not (work / f"{name}.tar.xz").is_file():
                shutil.rmtree(work / name, ignore_errors=True)
                makers[name](work / name)
                archive(work / name, work)
            return work / f"{name}.tar.xz"

        with ThreadPoolExecutor(2) as pool:
            archives = list(pool.map(make, options.only))
        for path in archives:
            print(f"{path.stat().st_size / 1e6:7.1f} MB {path.name}")
        for part in cut(archives, options.out):
            print(f"{part.stat().st_size / 1e6:7.1f} MB {part}")


if __name__ == "__main__":
    main()
