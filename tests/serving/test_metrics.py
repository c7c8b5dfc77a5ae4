"""The dashboard and the alert rules against the metrics of a running deployment."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.resources import files as package_files

import httpx
import pytest
import yaml

from include.settings import PROJECT

from .conftest import Endpoint
from .test_openai import Api, before

MONITORING = PROJECT / "include" / "deploy" / "monitoring"
RULES = [
    rule for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
BOARD = json.loads((MONITORING / "grafana.json").read_text())
EXPRESSIONS = [
    *(rule["expr"] for rule in RULES),
    *(target["expr"] for panel in BOARD["panels"] for target in panel["targets"]),
]
METRIC = re.compile(r"\b(?:nv|hf2triton|airflow)_[a-z0-9_]+")
NAMES = {name for expression in EXPRESSIONS for name in METRIC.findall(expression)}
NVIDIA_ONLY = {"nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes"}
"""Triton has them on hosts with an NVIDIA GPU."""


@pytest.fixture(scope="module")
def api(streaming: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    yield from before(streaming, tmp_path_factory.mktemp("m"))


def scraped(api: Api, path: str) -> dict[str, list[str]]:
    """The samples of a page of metrics, by name."""
    page = httpx.get(f"http://127.0.0.1:{api.proxy.ports.metrics}{path}").raise_for_status()
    samples: dict[str, list[str]] = {}
    for line in page.text.splitlines():
        if not line.startswith("#"):
            samples.setdefault(re.split(r"[{ ]", line, maxsplit=1)[0], []).append(line)
    return samples


def test_every_metric_is_exposed(api: Api) -> None:
    list(api.chat(stream=True))
    assert httpx.post(f"{api.url}/chat/completions", json={"model": "nobody", "messages": []}).is_client_error
    exposed = {*scraped(api, "/metrics/tiny"), *scraped(api, "/api/metrics")}
    ours = {name for name in NAMES if not name.startswith("airflow_")}
    assert len(ours) > 8
    assert ours - exposed == NVIDIA_ONLY


def test_airflow_has_the_metrics_that_are_asked_of_it() -> None:
    template = package_files("airflow._shared.observability.metrics") / "metrics_template.yaml"
    kinds = {metric["name"]: metric["type"] for metric in yaml.safe_load(template.read_text())["metrics"]}
    # As Prometheus translates names of OpenTelemetry.
    named = {f"airflow_{name.replace('.', '_')}" + "_total" * (kind == "counter") for name, kind in kinds.items()}
    asked = {name for name in NAMES if name.startswith("airflow_")}
    assert "airflow_ti_failures_total" in asked
    assert asked <= named


def test_the_service_counts_what_it_answers(api: Api) -> None:
    def count(name: str) -> float:
        found = scraped(api, "/api/metrics").get(f"hf2triton_{name}", [])
        return sum(float(line.rpartition(" ")[2]) for line in found)

    names = ["time_to_first_token_seconds_count", "request_duration_seconds_count", "generated_tokens_total"]
    earlier = [count(name) for name in names]
    api.chat(max_tokens=7)
    list(api.chat(max_tokens=5, stream=True))
    assert [count(name) - was for name, was in zip(names, earlier, strict=True)] == [1, 2, 12]
    (line,) = scraped(api, "/api/metrics")["hf2triton_generated_tokens_total"]
    assert 'model="tiny",release="org--tiny/1"' in line
    refused = count("failed_requests_total")
    assert httpx.post(f"{api.url}/completions", json={"model": "nobody", "prompt": "x"}).status_code == 404
    assert count("failed_requests_total") == refused + 1


def test_prometheus_is_told_where_they_are(api: Api) -> None:
    listed = json.loads((api.settings.artifacts / "servers" / "prometheus" / "live.json").read_text())
    for group in listed:
        (target,) = group["targets"]
        assert httpx.get(f"http://{target}{group['labels']['__metrics_path__']}").is_success
    assert [group["labels"].get("model") or group["labels"]["job"] for group in listed] == ["tiny", "openai_api"]


def test_the_page_lists_each_rule() -> None:
    page = (PROJECT / "docs" / "deploy.md").read_text()
    assert re.findall(r"^\| `([A-Z]\w+)` \|", page.split("### Dashboard and alerts")[1], re.MULTILINE) == [
        rule["alert"] for rule in RULES
    ]


def test_each_rule_says_what_it_means() -> None:
    for rule in RULES:
        assert {"summary", "description"} == set(rule["annotations"])
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in BOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
