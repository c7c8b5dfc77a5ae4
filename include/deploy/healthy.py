"""Health checks of the Compose services: ``python -m include.deploy.healthy <what>`` exits with 0 if healthy.

``what`` is ``worker``, or a component in the answer of Airflow's REST API. Airflow's own ``airflow jobs check``
reports the same, but takes seconds of CPU time.
"""

from __future__ import annotations

import os
import platform
import sys
from urllib.parse import urljoin

TIMEOUT_S = 8.0


def component(name: str) -> bool:
    """True if the API server answers and reports a recent heartbeat of the component."""
    import httpx

    url = urljoin(os.environ["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"], "/api/v2/monitor/health")
    health = httpx.get(url, timeout=TIMEOUT_S, trust_env=False).raise_for_status().json()
    return bool(health[name]["status"] == "healthy")


def worker() -> bool:
    """True if this host's Celery worker answers through the broker."""
    from celery import Celery

    app = Celery(broker=os.environ["AIRFLOW__CELERY__BROKER_URL"])
    return bool(app.control.ping(destination=[f"celery@{platform.node()}"], timeout=TIMEOUT_S))


if __name__ == "__main__":
    what = sys.argv[1]
    sys.exit(0 if (worker() if what == "worker" else component(what)) else f"{what} is not healthy")
