"""Programs of this project that run beside the live server, each a detached process that is found again by its record.

One that was started by another version of the code, or with other settings, is started anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from include.context import Context
from include.errors import PipelineError
from include.files import Log, locked
from include.host import services
from include.host.services import ServiceRecord, ServiceSpec
from include.host.services.process import ProcessBackend
from include.releases.run import versions
from include.settings import PROJECT, Settings

_BACKEND = ProcessBackend()
_GRACE_S = 5.0
_PREFIX = "HF2TRITON_"
_SECRETS = ("PASSWORD", "SECRET", "KEY", "TOKEN")
_NEEDED = ("PATH", "DOCKER_HOST")  # programs, and the engine


class DaemonRecord(ServiceRecord):
    """The record of a started program; ``digest`` is that of its code and its settings."""

    digest: str


@dataclass(frozen=True)
class Daemon:
    """One program of a deployment, with the record ``servers/<name>.json``; ``module`` and ``arguments`` start it."""

    name: str
    module: str
    settings: Settings
    log: Log
    arguments: Sequence[str] = ()

    @classmethod
    def supervisor(cls, context: Context) -> Daemon:
        """The supervisor, which brings the live server, the proxy and the API back; see `include.live.supervise`."""
        return cls("supervisor", "include.live.supervise", context.settings, context.log, ("--while-live",))

    @classmethod
    def api(cls, context: Context) -> Daemon:
        """The service of the OpenAI API."""
        return cls("api", "include.live.api", context.settings, context.log)

    def ensure_running(self) -> None:
        """Starts the program where tasks do that (``start_supervisor``): in Compose it is a service of its own."""
        if self.settings.start_supervisor:
            self.start()

    def start(self) -> None:
        """Starts the program unless it runs with today's code and settings; a failure is only logged."""
        variables = _variables(self.settings)
        digest = hashlib.sha256(f"{versions()['code']}{json.dumps(variables, sort_keys=True)}".encode()).hexdigest()
        try:
            with locked(self.settings.artifacts / ".locks" / f"{self.name}.lock"):
                found = self._find()
                if found and found.digest == digest:
                    return
                self.stop()
                needed = {name: os.environ[name] for name in _NEEDED if name in os.environ}
                env = {**needed, **variables, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}
                spec = ServiceSpec(argv=(sys.executable, "-m", self.module, *self.arguments), env=env)
                record = DaemonRecord(log=self.settings.log_directory / f"{self.name}.log", digest=digest)
                self.log(f"started the {self.name}, {_BACKEND.start(spec, record, self._path)}")
        except (PipelineError, OSError) as error:
            self.log(f"the {self.name} does not start; check_live_release tries again: {error}")

    def runs(self) -> bool:
        """True if the program runs."""
        return self._find() is not None

    def stop(self) -> bool:
        """Stops the program; returns True if it ran."""
        found = self._find()
        if found:
            _BACKEND.stop(found, self._path, _GRACE_S)
        return found is not None

    @property
    def _path(self) -> Path:
        return self.settings.artifacts / "servers" / f"{self.name}.json"

    def _find(self) -> DaemonRecord | None:
        return services.find(self._path, DaemonRecord, _BACKEND)


def _variables(settings: Settings) -> dict[str, str]:
    """The deployment's settings as environment variables; a program started so starts no other."""
    ours = {k: v for k, v in os.environ.items() if k.startswith(_PREFIX) and not k.endswith(_SECRETS)}
    fields = settings.model_dump(mode="json", exclude_none=True)
    named = {name: field for name, field in type(settings).model_fields.items() if not field.validation_alias}
    texts = {name: fields[name] for name in named if name in fields} | {"start_supervisor": False}
    return ours | {
        f"{_PREFIX}{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in texts.items()
    }
