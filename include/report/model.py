"""The release report as data. Described in docs/report.md."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Self

from pydantic import Field

from include import gates
from include.artifacts.kind import Kind
from include.frozen import Frozen, Moment
from include.releases.approval import Approval
from include.releases.contract import Comparison
from include.releases.ids import ReleaseId
from include.releases.records import Promotion, Release, Retirement
from include.releases.run import RunRecord
from include.stages.formats import title_of


class Subject(ReleaseId):
    """The release that a report is about."""

    target: str
    source: str = Field(description="The model's Hub id or directory, and the commit: `<id>@<commit>`.")
    served_name: str = Field("", description="The name that clients call it by.")
    aliases: tuple[str, ...] = Field((), description="More names for clients.")
    replaces: str = Field("", description="The live release of another model that had the name at the validation.")


class Stage(Frozen):
    """The making of one artifact of the chain, from its manifest. Times in seconds, sizes and memory in bytes."""

    task: str = Field(description="The task that made it.")
    kind: Kind = Field(description="The store's directory of such artifacts.")
    name: str = Field(description="Its name there: the key, or for a model `<model>@<commit>`.")
    content: str = Field(description="sha256 over the names and hashes of its files.")
    files: int
    size_bytes: int
    started_at: Moment | None = Field(default=None, description="When the attempt that made it began.")
    created_at: Moment = Field(description="When it was complete.")
    host: str
    gpu: str | None = None
    timings_s: dict[str, float] = Field(default_factory=dict, description="Seconds of each part of the stage.")
    peak_rss_bytes: int | None = None
    gpu_peak_bytes: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    results: dict[str, Any] = Field(default_factory=dict, description="What the stage itself measured.")

    @property
    def seconds(self) -> float | None:
        """The duration of the stage, None if its program did not measure it."""
        return sum(self.timings_s.values()) if self.timings_s else None


class Setting(Frozen):
    """A field of the request in which a release differs from the live one; None where one has no such field."""

    field: str
    live: Any = None
    here: Any = None


class Compared(Frozen):
    """The settings in which a release differs from the one that was live under its name at the validation."""

    release: ReleaseId
    settings: tuple[Setting, ...]

    @classmethod
    def of(cls, live: Release, here: Release) -> Self:
        """The comparison of two releases' requests, and of their models' commits."""
        before, after = _settings(live), _settings(here)
        changed = [name for name in {**after, **before} if before.get(name) != after.get(name)]
        settings = (Setting(field=name, live=before.get(name), here=after.get(name)) for name in changed)
        return cls(release=live.id, settings=tuple(settings))


def _settings(release: Release) -> dict[str, Any]:
    return {**release.request, "commit": release.chain.get("model", "").rpartition("@")[2]}


class Supply(Frozen):
    """The origin of what the release runs on."""

    signed: bool = Field(description="The repository and all that its models read have the deployment's signature.")
    image: str | None = Field(default=None, description="The image by its digest; None without containers.")
    sbom: str = Field(description="The bill of materials (CycloneDX), a file beside the report.")


class Scores(Frozen):
    """The figures of the gates, in brief; None for a figure that was not measured. Perplexities are on held-out text.

    ``agreement``: share of the answers' first tokens that are the calibrated checkpoint's. ``tokens_per_s``: output
    tokens per second of all clients together, by the number of clients.
    """

    agreement: float | None = None
    perplexity_before: float | None = None
    perplexity_after: float | None = None
    tokens_per_s: dict[int, float] = Field(default_factory=dict)


class ReleaseReport(gates.Report):
    """The gates' report on a candidate, with the candidate's origin and its promotions."""

    subject: Subject
    made_at: Moment = Field(default_factory=lambda: datetime.now(UTC))
    runs: tuple[str, ...] = Field((), description="Ids of the DAG runs that came to this release, newest last.")
    run: RunRecord | None = Field(default=None, description="The run that tried the gates.")
    request: dict[str, Any]
    chain: tuple[Stage, ...] = Field(description="From the model to the repository.")
    supply: Supply | None = Field(default=None, description="Signature, image and bill of materials.")
    compared: Compared | None = Field(None, description="Settings that differ from the live release's.")
    address: str = Field("", description="URL of the live endpoint, as the deployment gives it to clients.")
    curl: str = Field("", description="The beginning of a command that asks it.")
    contract: Comparison | None = Field(None, description="Changes for clients of the release that was live.")
    promotions: tuple[Promotion, ...] = Field((), description="Each time that it went live, with the downtime.")
    retirements: tuple[Retirement, ...] = Field((), description="Each time that it was taken off the air.")
    approvals: tuple[Approval, ...] = Field((), description="Each question whether it may go live, with the answer.")

    @property
    def format(self) -> str:
        """The title of the format of its weights."""
        return title_of(self.request)

    @property
    def outcomes(self) -> dict[str, gates.Outcome]:
        """The outcome of each gate."""
        return {verdict.gate: verdict.outcome for verdict in self.verdicts}

    @property
    def scores(self) -> Scores:
        """The figures that releases are compared by."""
        measured = {name: value for verdict in self.verdicts for name, value in verdict.measured.items()}
        loads = (load for verdict in self.verdicts for load in verdict.loads if load.server == "candidate")
        return Scores(
            agreement=measured.get("equal_share"),
            perplexity_before=self.quality.before if self.quality else None,
            perplexity_after=self.quality.after if self.quality else None,
            tokens_per_s={load.concurrency: round(load.output_tokens_per_s, 2) for load in loads},
        )
