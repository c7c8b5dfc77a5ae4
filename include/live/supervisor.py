"""The supervisor's service: a detached process that brings the live server and the proxy back; see `supervise`."""

from __future__ import annotations

import hashlib
import json
import os
import sys

from include.context import Context
from include.errors import PipelineError
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


class SupervisorRecord(ServiceRecord):
    """The record of a started supervisor; ``digest`` is that of its code and its settings."""

    digest: str


class Supervisor:
    """The supervisor of one deployment, with the record ``servers/supervisor.json``."""

    def __init__(self, context: Context) -> None:
        self._settings = context.settings
        self._log = context.log
        self._path = self._settings.artifacts / "servers" / "supervisor.json"

    def ensure_running(self) -> None:
        """Starts the supervisor if it does not run with today's code and settings; a failure is only logged.

        With ``start_supervisor`` off it does nothing: the supervisor is a service of its own there.
        """
        if not self._settings.start_supervisor:
            return
        variables = _variables(self._settings)
        digest = hashlib.sha256(f"{versions()['code']}{json.dumps(variables, sort_keys=True)}".encode()).hexdigest()
        try:
            found = services.find(self._path, SupervisorRecord, _BACKEND)
            if found and found.digest == digest:
                return
            self.stop()
            needed = {name: os.environ[name] for name in _NEEDED if name in os.environ}
            env = {**needed, **variables, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}
            argv = (sys.executable, "-m", "include.live.supervise", "--while-live")
            record = SupervisorRecord(log=self._settings.log_directory / "supervisor.log", digest=digest)
            self._log(f"started the supervisor, {_BACKEND.start(ServiceSpec(argv=argv, env=env), record, self._path)}")
        except (PipelineError, OSError) as error:
            self._log(f"the supervisor does not start; check_live_release tries again: {error}")

    def stop(self) -> bool:
        """Stops the supervisor; returns True if it ran."""
        found = services.find(self._path, SupervisorRecord, _BACKEND)
        if found:
            _BACKEND.stop(found, self._path, _GRACE_S)
        return found is not None


def _variables(settings: Settings) -> dict[str, str]:
    """The deployment's settings as environment variables; a supervisor starts no other."""
    ours = {k: v for k, v in os.environ.items() if k.startswith(_PREFIX) and not k.endswith(_SECRETS)}
    fields = settings.model_dump(mode="json", exclude_none=True)
    named = {name: field for name, field in type(settings).model_fields.items() if not field.validation_alias}
    texts = {name: fields[name] for name in named if name in fields} | {"start_supervisor": False}
    return ours | {
        f"{_PREFIX}{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in texts.items()
    }
