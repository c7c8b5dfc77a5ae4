"""``python3 -m tests.gpu.unpack DIR``: puts together what `tests.gpu.pack` made, on a bare GPU host, as root.

Run it with the Python that has torch: its packages complete those of target vllm. Standard library only.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import sysconfig
import tarfile
import time
import venv
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.gpu.layout import AIRFLOW, DOCKER, MODELOPT, ROOT, SITE, TRITON, TRTLLM, VLLM

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "fixtures" / "tensorrt_llm"
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


def complete(site: Path, host: Path) -> None:
    """Links the packages of the host that a site has not; never a second version of one that it has."""
    there = {_name(path) for path in site.glob("*.dist-info")}
    for path in host.iterdir():
        twice = path.name.endswith(".dist-info") and _name(path) in there
        if not (twice or (site / path.name).exists() or path.name in {"__pycache__", "_virtualenv.py"}):
            (site / path.name).symlink_to(path)


def _name(info: Path) -> str:
    return re.sub(r"[-_.]+", "-", info.name.partition("-")[0]).lower()


def trtllm(folder: Path, host: Path, modelopt: Path) -> None:
    """An environment like that of NVIDIA's TensorRT-LLM image, in which the build and the server are stand-ins."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / SITE).mkdir(parents=True)
    environment(folder)
    complete(folder / SITE, modelopt)
    complete(folder / SITE, host)
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


def finish(root: Path, host: Path, triton: Path) -> None:
    """Makes the environments, the engine's runtime and Triton's place of what was extracted."""
    if (root / AIRFLOW).is_dir():
        environment(root / AIRFLOW)
    if (root / VLLM).is_dir():
        environment(root / VLLM)
        complete(root / VLLM / SITE, host)
        triton.unlink(missing_ok=True)
        triton.symlink_to(root / VLLM / SITE / "pytriton" / "tritonserver")
    if (root / DOCKER).is_dir():
        for name, source in (("bare-runtime", (HERE / "runtime.py").read_text()), (HOOK, "#!/bin/sh\nexit 0\n")):
            (root / DOCKER / "bin" / name).write_text(source)
            (root / DOCKER / "bin" / name).chmod(0o755)
    if (root / MODELOPT).is_dir():
        trtllm(root / TRTLLM.name, host, root / MODELOPT)


HOOK = "nvidia-container-runtime-hook"
"""Without it on its path the engine refuses device requests."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", type=Path, help="folder of the parts")
    options = parser.parse_args()
    start = time.monotonic()
    archives = join(options.parts.glob("part-*"), ROOT)
    with ProcessPoolExecutor() as pool:
        list(pool.map(extract, archives, [ROOT] * len(archives)))
    finish(ROOT, Path(sysconfig.get_path("purelib")), TRITON)
    print(f"{', '.join(path.name for path in archives)}: {time.monotonic() - start:.1f} s, {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
