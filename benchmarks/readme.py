"""The figures and pictures of README.md, from `make demo` in a fresh clone of this checkout's commit, run twice.

    make readme

Clones the commit that is checked out, sets the clone up with empty package caches, and runs the demo twice on the
ports of the settings. Then it rewrites README.md between its markers, takes the pictures in docs/images of what the
demo left running, and stops and removes the clone; after a failure the clone stays, and its path was printed first.
Takes some ten minutes and 6 GB of disk, and needs Chromium (tests/e2e/chromium.sh). The figures mean something on a
machine without other work; they tell its load.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from textwrap import fill
from urllib.parse import quote

import psutil
from playwright.sync_api import ViewportSize, expect

from include import report
from include.demo import airflow, run
from include.demo.api import AirflowApi
from include.errors import ToolError, UserError
from include.report import ReleaseReport
from include.settings import PROJECT, Settings
from tests.support.chromium import chromium, log_in

BEGIN, END = "<!-- figures of make readme -->", "<!-- end of the figures -->"
IMAGES = Path("docs", "images")
VIEWPORT: ViewportSize = {"width": 1200, "height": 760}
WIDTH = 118
STEP_MS = 120_000
MARGIN = 24
LOOK_S = 0.2


@dataclass(frozen=True)
class Machine:
    """Where the demo ran; ``load`` is the average of the five minutes before."""

    cores: int
    memory_gib: float
    system: str
    load: float

    @classmethod
    def here(cls) -> Machine:
        """This machine, now."""
        return cls(
            cores=len(os.sched_getaffinity(0)),
            memory_gib=psutil.virtual_memory().total / 2**30,
            system=platform.freedesktop_os_release()["PRETTY_NAME"],
            load=os.getloadavg()[1],
        )


@dataclass(frozen=True)
class Took:
    """A command's seconds, and by how much it lowered the memory that is available, in bytes."""

    seconds: float
    memory: int


@dataclass(frozen=True)
class Demo:
    """One `make demo`: the command, the seconds of its tasks, and those that took their artifact from the store."""

    took: Took
    tasks: Mapping[str, float]
    reused: frozenset[str]


@dataclass(frozen=True)
class Sizes:
    """Bytes: the packages that set-up downloads, ``.venvs`` and ``.local`` after the demo."""

    download: int
    environments: int
    local: int


@dataclass(frozen=True)
class Quality:
    """The perplexity by the release's report: before quantization, and after it in PyTorch and in the engine."""

    before: float
    torch: float
    engine: float
    group: int
    tokens: int
    python: str
    compute: str

    @classmethod
    def of(cls, found: ReleaseReport) -> Quality:
        """The figures that the stages of the release measured."""
        stages = {stage.task: stage for stage in found.chain}
        calibrated, built = stages["calibrate_awq"], stages["build_engine"]
        return cls(
            before=calibrated.results["perplexity_before"],
            torch=built.results["torch_perplexity"],
            engine=built.results["engine_perplexity"],
            group=calibrated.results["group_size"],
            tokens=calibrated.results["calibration_tokens"],
            python=calibrated.versions["python"],
            compute=calibrated.versions["compute"],
        )


@dataclass(frozen=True)
class Figures:
    """All that the text tells."""

    day: date
    machine: Machine
    setup: Took
    first: Demo
    second: Demo
    sizes: Sizes
    quality: Quality


def text(figures: Figures) -> str:
    """The figures as Markdown."""
    machine, setup, sizes, first, second = figures.machine, figures.setup, figures.sizes, figures.first, figures.second
    memory = max(took.memory for took in (setup, first.took, second.took))
    whole = f"{_span(setup.seconds + first.took.seconds)}, {_span(setup.seconds)} of them for download and set-up"
    rows = [f"| `{task}` | {_cell(first, task)} | {_cell(second, task)} |" for task in run.STAGES]
    measured = (
        f"Measured on {figures.day.day} {figures.day:%B %Y}, from a clean clone with empty package caches, on "
        f"{machine.cores} cores with {machine.memory_gib:.0f} GiB ({machine.system}, load average {machine.load:.1f} "
        f"before it began). {_perplexity(figures.quality)}"
    )
    return f"""\
| `make demo` takes | |
|---|---|
| the first time | {whole} |
| every further time | {_span(second.took.seconds)} |
| download | {_gb(sizes.download)} of packages, the model among them |
| disk | {_gb(sizes.environments)} of environments (`.venvs`), {_gb(sizes.local)} of all else (`.local`) |
| memory | {_gb(memory)} |

<details><summary>Seconds of each task</summary>

| task | first run | second run |
|---|---|---|
{chr(10).join(rows)}

</details>

{fill(measured, WIDTH)}
"""


def _perplexity(found: Quality) -> str:
    return (
        f"In that run the perplexity of SmolLM2-135M on held-out text was {found.before:.2f} before and "
        f"{found.torch:.2f} after INT4 AWQ with groups of {found.group} and {found.tokens} calibration tokens in "
        f"{found.compute}; PyTorch measured {found.torch:.3f} and the engine {found.engine:.3f}. The text is the help "
        f"of Python's standard library, so another Python version than {found.python} gives other figures."
    )


def rewritten(page: str, figures: str) -> str:
    """The page with ``figures`` between its markers.

    Raises:
        UserError: the page has not both markers once, one after the other.
    """
    before, begin, rest = page.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not (begin and end) or BEGIN in before + after or END in before + after:
        raise UserError(f"the page needs the lines {BEGIN} and {END} once each, in this order", where="README.md")
    return f"{before}{begin}{figures}{end}{after}"


def measured(clone: Path) -> tuple[Figures, ReleaseReport, Settings]:
    """Sets the clone up, runs its demo twice, and reads what came of it."""
    local = clone / ".local"
    settings = Settings(artifacts=local / "artifacts", airflow_home=local / "airflow")
    machine, day = Machine.here(), datetime.now(UTC).date()
    setup = _make(clone, "setup", "demo-model")
    _make(clone, "wheels")
    took = [_make(clone, "demo") for _ in range(2)]
    (made,) = settings.artifacts.glob("releases/*/1")
    found = report.read(made)
    if found is None:
        raise ToolError("the demo's release has no report", where=str(made))
    api = AirflowApi(airflow.url_of(settings), airflow.USER, airflow.password(settings))
    first, second = (_demo(api, took, id_) for took, id_ in zip(took, found.runs, strict=True))
    sizes = Sizes(_size(clone / "wheels"), _size(clone / ".venvs"), _size(local))
    return Figures(day, machine, setup, first, second, sizes, Quality.of(found)), found, settings


def pictures(found: ReleaseReport, settings: Settings, folder: Path) -> None:
    """Takes the pictures of the form, of the demo's first run, of its report, and of the playground."""
    with chromium() as browser:
        page = browser.new_page(base_url=f"{airflow.url_of(settings)}/", viewport=VIEWPORT)
        expect.set_options(timeout=STEP_MS)
        log_in(page, airflow.USER, airflow.password(settings))
        page.goto(f"dags/{airflow.DAG}")
        page.get_by_test_id("trigger-dag-button").click()
        expect(page.get_by_role("dialog").get_by_role("button", name="Advanced Options")).to_be_visible()
        page.screenshot(path=folder / "form.png")
        page.goto(f"dags/{airflow.DAG}/runs/{quote(found.runs[0])}")
        expect(page.get_by_role("link", name=run.STAGES[0]).last).to_be_visible()
        page.screenshot(path=folder / "run.png")
        page.goto(f"hf2triton/reports/{found.subject.model}/{found.subject.number}/report.html")
        page.screenshot(path=folder / "report.png")
        page.goto(f"hf2triton/models/{found.subject.served_name}")
        page.get_by_label("Prompt").fill(run.CHAT_PROMPT)
        page.get_by_role("button", name="Ask").click()
        expect(page.get_by_text("First text after")).to_be_visible()
        asked = page.locator("#playground").evaluate("form => form.getBoundingClientRect().bottom + window.scrollY")
        page.screenshot(
            path=folder / "playground.png",
            full_page=True,
            clip={"x": 0, "y": 0, "width": VIEWPORT["width"], "height": asked + MARGIN},
        )


def main() -> None:
    """Measures, photographs and rewrites; `make readme`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    readme = PROJECT / "README.md"
    rewritten(readme.read_text(), "")
    with _fresh_clone() as clone:
        figures, found, settings = measured(clone)
        readme.write_text(rewritten(readme.read_text(), text(figures)))
        pictures(found, settings, PROJECT / IMAGES)


@contextmanager
def _fresh_clone() -> Iterator[Path]:
    """The commit that is checked out, in a folder that is removed once all has gone well."""
    folder = Path(tempfile.mkdtemp(prefix="hf2triton-"))
    clone = folder / "clone"
    print(f"clone: {clone}", flush=True)
    subprocess.run(["git", "clone", "--quiet", PROJECT, clone], check=True)
    try:
        yield clone
    finally:
        _make(clone, "down")
    shutil.rmtree(folder)


def _make(clone: Path, *targets: str) -> Took:
    others = {"UV_CACHE_DIR", "PIP_CACHE_DIR", "HF2TRITON_ARTIFACTS", "HF2TRITON_AIRFLOW_HOME"}
    env = {name: value for name, value in os.environ.items() if name not in others}
    env["XDG_CACHE_HOME"] = str(clone.parent / "caches")
    began, before = time.monotonic(), psutil.virtual_memory().available
    least = before
    with subprocess.Popen(["make", "--no-print-directory", *targets], cwd=clone, env=env) as process:
        while process.poll() is None:
            time.sleep(LOOK_S)
            least = min(least, psutil.virtual_memory().available)
    if process.returncode:
        raise ToolError(f"make {' '.join(targets)} ended with {process.returncode}", where=str(clone))
    return Took(time.monotonic() - began, before - least)


def _demo(api: AirflowApi, took: Took, run_id: str) -> Demo:
    tasks = api.tasks(airflow.DAG, run_id)
    return Demo(took, {name: task.seconds or 0 for name, task in tasks.items()}, run.reused(api, run_id))


def _cell(demo: Demo, task: str) -> str:
    return f"{demo.tasks[task]:.1f} s{', reused' if task in demo.reused else ''}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _size(folder: Path) -> int:
    """The bytes that a folder takes on the disk; a file with several names counts once."""
    stats = {(stat.st_dev, stat.st_ino): stat for path in folder.rglob("*") if (stat := path.lstat())}
    return sum(512 * stat.st_blocks for stat in stats.values())


if __name__ == "__main__":
    main()
