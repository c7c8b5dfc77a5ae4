"""Task ``announce_outages``: tells Airflow of the outages that began or ended since the last time."""

from __future__ import annotations

from datetime import datetime

from include.context import Context
from include.frozen import Frozen


class OutageNews(Frozen):
    """The ``extra`` of an outage's event; ``release`` is the release's number, ``until`` is None while it lasts."""

    name: str
    model: str
    release: int
    since: datetime
    until: datetime | None
    cause: str
    ended_by: str


def run(context: Context) -> list[OutageNews]:
    """The outages that Airflow has not been told of."""
    news = [
        OutageNews(
            name=release.served_name,
            model=release.model,
            release=release.number,
            **outage.model_dump(exclude={"announced"}),
        )
        for release, outage in context.releases.announce_outages()
    ]
    for one in news:
        context.log(f"release {one.model}/{one.release} did not answer from {one.since} to {one.until}: {one.cause}")
    return news
