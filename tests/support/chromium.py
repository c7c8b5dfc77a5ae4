"""Chromium, logged in to Airflow's web UI: for the tests of the pages, and for the pictures of the README."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, expect, sync_playwright


@contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium as installed, else as `playwright install chromium` has downloaded it."""
    installed = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        yield playwright.chromium.launch(executable_path=next(filter(None, installed), None), args=options)


def log_in(page: Page, user: str, password: str) -> None:
    """Logs in to the Airflow that is the base of the page's addresses."""
    page.goto("")
    page.locator("input[name=username]").fill(user)
    page.locator("input[name=password]").fill(password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible()
