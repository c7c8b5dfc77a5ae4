"""The program of the demo's Airflow: ``airflow standalone`` without log servers.

Airflow 3.3 binds its log servers (ports 8793 and 8794) to every address, and has no setting for that. On one machine
nothing needs them: the API server reads the logs from the disk.
"""

from __future__ import annotations

import sys
from typing import Any

from airflow.__main__ import main
from airflow.cli.commands import standalone_command

SERVES_LOGS = ("scheduler", "triggerer")


class Component(standalone_command.SubCommand):
    """A component that serves no logs."""

    def __init__(self, parent: standalone_command.StandaloneCommand, name: str, command: list[str], env: Any) -> None:  # noqa: ANN401
        skip = ["--skip-serve-logs"] if name in SERVES_LOGS else []
        super().__init__(parent, name, [*command, *skip], env)


if __name__ == "__main__":
    standalone_command.SubCommand = Component  # type: ignore[misc]
    sys.argv = ["airflow", "standalone"]
    main()  # type: ignore[no-untyped-call]
