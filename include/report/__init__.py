"""The release report: the results of the gates, the artifacts of the release, and the times of their making.

``report.json`` is a `ReleaseReport`, described in docs/report.md; ``report.html`` shows it in one file.
"""

from __future__ import annotations

from include.report.files import HTML_FILE, JSON_FILE, compose, find_by_run, read, record_history, record_run, write
from include.report.model import ReleaseReport, Scores, Stage, Subject, Supply
from include.report.pace import Pace, paces
from include.report.sbom import SBOM_FILE, write_sbom

__all__ = [
    "HTML_FILE",
    "JSON_FILE",
    "SBOM_FILE",
    "Pace",
    "ReleaseReport",
    "Scores",
    "Stage",
    "Subject",
    "Supply",
    "compose",
    "find_by_run",
    "paces",
    "read",
    "record_history",
    "record_run",
    "write",
    "write_sbom",
]
