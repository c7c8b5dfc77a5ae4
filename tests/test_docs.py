"""Every file of the repository and every heading that the pages name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from include.settings import PROJECT

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
FOLDERS = "benchmarks|docs|include|plugins|tests"
# Written by commands, so a clean clone does not have them.
MADE = {"include/targets/openvino/extra"}


def paths(text: str) -> set[str]:
    """Paths of the repository, wherever the page names them; a last word with a * or < stands for many."""
    named = re.findall(rf"(?<![\w./>-])((?:{FOLDERS})/[\w./*<>-]*|dags/\w+\.py)", text)
    return {re.sub(r"/?[^/]*[*<].*", "", path).rstrip("/.") for path in named}


def links(text: str) -> list[str]:
    """Targets of links and images that lead to another page of the repository or to a heading."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    named = paths(page.read_text()) - MADE
    assert [path for path in sorted(named) if not (PROJECT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page.read_text()):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_leads_to_every_page() -> None:
    linked = {link.partition("#")[0] for link in links(PAGES[0].read_text())}
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= linked


def test_the_contributing_page_has_every_folder_of_include() -> None:
    folders = {path.parent.name for path in PROJECT.glob("include/*/__init__.py")}
    assert folders <= set(re.findall(r"include/(\w+)/", (PROJECT / "docs" / "contributing.md").read_text()))


def test_paths_and_links_are_found_where_they_stand() -> None:
    text = "`include/no.py`, docs/no.md. and tests/e2e/test_*.py ([a page](no.md#one), [out](https://a/docs/x))"
    assert paths(text) == {"include/no.py", "docs/no.md", "tests/e2e"}
    assert links(text) == ["no.md#one"]
