"""What the Docker engine and NVIDIA's runtime say when they fail."""

from __future__ import annotations

import pytest

from include.errors import HostError, PipelineError, ToolError
from include.host.docker.errors import failure


@pytest.mark.parametrize(
    ("message", "kind", "words"),
    [
        (
            'Error response from daemon: could not select device driver "" with capabilities: [[gpu]]',
            HostError,
            "no NVIDIA runtime",
        ),
        ("failed to discover GPU vendor from CDI: no known GPU vendor found", HostError, "no NVIDIA runtime"),
        ("unknown or invalid runtime name: nvidia", HostError, "no NVIDIA runtime"),
        (
            "OCI runtime create failed: error running prestart hook: nvidia-container-cli: requirement error: "
            "unsatisfied condition: cuda>=13.1, please update your driver to a newer version",
            HostError,
            "driver is too old for the image",
        ),
        (
            "nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: cannot open",
            HostError,
            "cannot reach the driver",
        ),
        (
            "write /var/lib/docker/tmp/GetImageBlob1: no space left on device",
            HostError,
            "Docker's disk is full",
        ),
        (
            'invalid mount config for type "bind": bind source path does not exist: /store',
            HostError,
            "does not see a path of this worker",
        ),
        (
            "driver failed programming external connectivity on endpoint x: Bind for 127.0.0.1:8000 failed: port is "
            "already allocated",
            HostError,
            "a port that a container is to have is taken",
        ),
        (
            "driver failed programming external connectivity on endpoint x: Error starting userland proxy: listen tcp4 "
            "127.0.0.1:8000: bind: address already in use",
            HostError,
            "a port that a container is to have is taken",
        ),
        ("something new", ToolError, "Docker failed: something new"),
    ],
    ids=[
        "no-toolkit",
        "no-toolkit-cdi",
        "no-runtime",
        "cuda-condition",
        "no-driver",
        "disk",
        "path-of-another-host",
        "port-of-a-container",
        "port-of-a-process",
        "unknown",
    ],
)
def test_dockers_words_become_a_cause_and_a_fix(message: str, kind: type[PipelineError], words: str) -> None:
    found = failure(message, where="nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3")
    assert (type(found), words in str(found)) == (kind, True), found
