"""The Triton server of the nvidia-pytriton wheel: what it needs of its environment, and how it is started.

The server binary is Triton 2.51. Its python backend runs models in a stub that is linked to one minor version
of Python: the wheel brings stubs for 3.8 to 3.13, and the one in use must lie beside the backend.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from include.errors import HostError
from include.frozen import Frozen
from include.runners.job import inherited
from include.triton.servers import Ports, ServerPlan

STUB = "triton_python_backend_stub"
_ASK = """
import importlib.metadata as metadata, importlib.util as util, json, sys, sysconfig
from pathlib import Path
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
library = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
libdir = Path(sysconfig.get_config_var("LIBDIR") or "/")
folders = [libdir, libdir / (sysconfig.get_config_var("MULTIARCH") or ""), Path(sys.base_prefix) / "lib"]
spec = util.find_spec("pytriton")
print(json.dumps({
    "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    "site_packages": sysconfig.get_path("purelib"),
    "scripts": sysconfig.get_path("scripts"),
    "library": library,
    "library_dir": next((str(f) for f in folders if (f / library).exists()), None),
    "pytriton": spec.submodule_search_locations[0] if spec else None,
    "numpy": version("numpy"),
}))
"""


class Environment(Frozen):
    """What the server needs to know of the environment that its models run in."""

    python: str
    site_packages: Path
    scripts: Path
    library: str
    library_dir: Path | None
    pytriton: Path | None
    numpy: str | None

    @property
    def server_root(self) -> Path:
        """Triton's own folder; raises `HostError` if there is none."""
        if self.pytriton is None:
            raise HostError(
                "nvidia-pytriton, which brings the Triton server, is not installed",
                where=str(self.site_packages),
                fix="run `make setup`",
            )
        return self.pytriton / "tritonserver"


def prepare(python: Path) -> None:
    """Puts the python backend's stub in place and checks what it is linked to.

    Raises:
        HostError: the server, a stub for this Python, its shared library or a fitting numpy is missing.
    """
    environment = ask(python)
    stub = environment.server_root / "python_backend_stubs" / environment.python / STUB
    if not stub.exists():
        raise HostError(f"nvidia-pytriton has no stub for Python {environment.python}", where=str(stub.parent.parent))
    _check_libraries(environment)
    _put(stub, environment.server_root / "backends" / "python" / STUB)


def server(
    target: str, environment: Environment, repository: Path, ports: Ports, env: Mapping[str, str] | None = None
) -> ServerPlan:
    """The server as a process of this host, with its models in ``environment``; see `prepare`.

    ``env`` are the variables that the target's models need.
    """
    shared_memory = f"hf2triton_{ports.http}_"
    return ServerPlan(
        target=target,
        repository=repository,
        argv=server_argv(environment.server_root, repository, ports, shared_memory),
        env={**_variables(environment), **(env or {})},
        ports=ports,
        shared_memory=shared_memory,
    )


def server_argv(root: Path, repository: Path, ports: Ports, shared_memory: str) -> tuple[str, ...]:
    """The argument list of the Triton in ``root``: of the wheel, or of NVIDIA's image, which has the same folders."""
    return (
        str(root / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={root / 'backends'}",
        f"--cache-directory={root / 'caches'}",
        f"--backend-config=python,shm-region-prefix-name={shared_memory}",
        "--disable-auto-complete-config",
        f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
    )


@cache
def ask(python: Path) -> Environment:
    """Asks ``python``, which need not be the interpreter that runs this, about itself."""
    try:
        argv = [str(python), "-I", "-c", _ASK]
        asked = subprocess.run(argv, env=inherited(), capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise HostError(f"{python} does not run: {error}", fix="run `make setup`") from error
    return Environment.model_validate(json.loads(asked.stdout))


def _check_libraries(environment: Environment) -> None:
    if environment.library_dir is None:
        raise HostError(
            f"Triton's python backend needs {environment.library}, which this Python came without",
            where=str(environment.scripts),
            fix=f"apt-get install libpython{environment.python}",
        )
    if environment.numpy is None or int(environment.numpy.split(".")[0]) >= 2:
        raise HostError(
            f"Triton's python backend stub needs numpy below 2, found {environment.numpy}",
            where=str(environment.site_packages),
            fix="run `make setup`",
        )


def _put(source: Path, target: Path) -> None:
    """Copies unless it is there; whole or not at all, as other tasks may do the same."""
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    shutil.copy2(source, draft)
    draft.replace(target)


def _variables(environment: Environment) -> dict[str, str]:
    variables = {
        "PATH": f"{environment.scripts}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": str(environment.site_packages),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # transformers is there for its tokenizers; importing torch with it would cost seconds and 400 MiB a model.
        "USE_TORCH": "0",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    library_dir = environment.library_dir
    if library_dir and not library_dir.is_relative_to("/usr/lib"):
        variables["LD_LIBRARY_PATH"] = str(library_dir)
    return variables
