"""The pages: reports, the served models, all releases, the presets.

A report is one file without a script. The others load the scripts of this project, and nothing from elsewhere. Their
``root`` is the path below which Airflow serves its web UI.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from itertools import takewhile
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from include.artifacts.kind import Kind
from include.artifacts.store import ArtifactStore
from include.files import Damaged, Unreadable
from include.gates import GateResult
from include.host import services
from include.releases.records import ReleaseStore
from include.report.charts import Axis, speed_plots
from include.report.comparison import SettingsComparison
from include.report.files import read
from include.report.model import ReleaseReport
from include.report.models import Card, Comparison, Line
from include.report.pace import Pace
from include.report.runs import Run, in_order
from include.report.urls import urls
from include.requests.presets import Preset
from include.requests.release import SEED_PROMPT
from include.stages.progress import about
from include.triton.servers import ServerRecord

STATIC = Path(__file__).parent / "static"
"""The scripts of the pages."""
_BADGES = {"success": "pass", "failed": "fail", "running": "running"}
_ORDER = {"fail": 0, "ask": 1, "pass": 2, "skip": 3}


def render_report(report: ReleaseReport) -> str:
    """The page ``report.html``. All texts of models and users are escaped."""
    timed = [stage for stage in report.chain if stage.seconds]
    memory = [m for stage in report.chain for m in (stage.peak_rss_bytes, stage.gpu_peak_bytes) if m]
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            report=report,
            verdicts=sorted(report.verdicts, key=lambda verdict: _ORDER[verdict.outcome]),
            counts={outcome: sum(v.outcome == outcome for v in report.verdicts) for outcome in _ORDER},
            quality_verdict=_of(report.verdicts, "quality"),
            quality_axis=Axis.over([report.quality.before, report.quality.after]) if report.quality else None,
            plots=speed_plots([load for verdict in report.verdicts for load in verdict.loads]),
            timed=timed,
            time_axis=Axis.over(stage.seconds or 0 for stage in timed),
            memory_axis=Axis.over(memory),
            tasks=in_order(report.run.tasks if report.run else ()),
            urls=urls(report.address, report.subject.served_name) if report.address else {},
            question=json.dumps({"text_input": SEED_PROMPT, "max_tokens": 32}),
        )
    )


def render_models(cards: Sequence[Card], damage: Sequence[Damaged], root: str = "") -> str:
    """The served names: what is live, and what else has a history."""
    template = _environment().get_template("models.html.jinja")
    return template.render(cards=cards, damage=damage, root=root, seed=SEED_PROMPT)


def render_model(card: Card, comparison: Comparison | None, root: str = "") -> str:
    """One served name: its card, the playground, its history, and two of its releases side by side."""
    template = _environment().get_template("model.html.jinja")
    return template.render(card=card, comparison=comparison, root=root, seed=SEED_PROMPT)


def render_releases(releases: ReleaseStore, answers: Callable[[str], bool], root: str = "") -> str:
    """The list of all releases, newest first, with their states, reports and outages.

    ``answers`` tells if the live release of a served name answers now.
    """
    known = partial(read, skip=releases.note)
    models = {
        model: [Line(r, releases.state(r), releases.is_pruned(r), known(releases.path(r))) for r in history[::-1]]
        for model, history in ((model, releases.all(model)) for model in releases.models())
    }
    silent = {name for name in releases.live_names() if not answers(name)}
    template = _environment().get_template("releases.html.jinja")
    return template.render(models=models, silent=silent, damage=damage(releases), root=root)


def damage(releases: ReleaseStore) -> list[Damaged]:
    """What is damaged in the store: among releases and reports, artifacts, and the records of servers."""
    store = releases.root.parent
    for kind in Kind:
        ArtifactStore(store).all(kind, releases.note)
    for path in sorted((store / "servers").glob("*-*.json")):
        with suppress(Unreadable):
            services.read(path, ServerRecord, releases.note)
    return list(releases.damage.values())


def render_presets(presets: Sequence[Preset], root: str = "") -> str:
    """The presets, each with its conf to copy."""
    models = {preset.title: [p for p in presets if p.title == preset.title] for preset in presets}
    return _environment().get_template("presets.html.jinja").render(models=models, changed=_changed, root=root)


def render_run(run: Run, paces: Mapping[str, Pace], now: datetime, *, has_report: bool, root: str = "") -> str:
    """A run: its tasks with how far they are, and the errors of those that failed."""
    elapsed = (now - run.began).total_seconds() if run.began else None
    template = _environment().get_template("run.html.jinja")
    return template.render(
        run=run,
        paces=paces,
        now=now,
        elapsed=elapsed,
        left=run.left(paces, now),
        about=about,
        badges=_BADGES,
        has_report=has_report,
        root=root,
    )


def render_settings(made: SettingsComparison, root: str = "") -> str:
    """Settings of one model beside each other."""
    return _environment().get_template("settings.html.jinja").render(made=made, root=root)


def render_message(title: str, text: str, root: str = "") -> str:
    """A page that says one thing."""
    return _environment().get_template("message.html.jinja").render(title=title, text=text, root=root)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (_bytes, _change, _figure, _number, _parted, _second, _seconds, _share, _span, _value, _when)
    environment.filters |= {function.__name__.removeprefix("_"): function for function in filters}
    environment.filters["json"] = partial(json.dumps, indent=2)
    return environment


def _of(verdicts: Sequence[GateResult], gate: str) -> GateResult | None:
    return next((verdict for verdict in verdicts if verdict.gate == gate), None)


def _changed(presets: Sequence[Preset]) -> list[str]:
    """The fields, in their order, in which one of the presets differs from the form's defaults."""
    return [name for name in presets[0].conf if any(name in preset.changed for preset in presets)]


def _bytes(size: float) -> str:
    units = iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while size >= 1000 and unit != "TB":
        size, unit = size / 1000, next(units)
    return f"{_number(size)} {unit}"


def _change(share: float) -> str:
    return f"{share:+.1%}" if math.isfinite(share) else "not comparable"


def _share(share: float) -> str:
    """A share as per cent; one that is not the whole is never rounded up to it."""
    return f"{math.floor(round(share * 10_000, 6)) / 100:g} %"


def _span(span: timedelta) -> str:
    """A span of time in its two greatest units."""
    minutes = round(span.total_seconds() / 60)
    if minutes < 1:
        return "less than a minute"
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def _seconds(seconds: float) -> str:
    if seconds < 60:
        return f"{_figure(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _number(value: float) -> str:
    """Three significant digits, all digits left of the point, and no needless zeros."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _figure(value: float) -> str:
    """Like `_number`, with zeros, so that measured values stand below each other."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def _value(value: object) -> object:
    """A field's value as requests have it."""
    if value is None:
        return "not given"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else value


def _when(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _second(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _parted(text: str, other: str) -> tuple[str, str]:
    """``text`` in two: the start that it shares with ``other``, and the rest."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False)))
    return text[:same], text[same:]
