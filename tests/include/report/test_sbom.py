"""The bill of materials of a release, checked as its readers do."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
from cyclonedx.model.bom import Bom  # noqa: TID253

from include import report
from include.host.docker.images import ImageId
from include.releases.records import Release
from include.sources import ModelSource

COMMIT = "c" * 40
IMAGE = ImageId(id=f"sha256:{'1' * 64}", digest=f"sha256:{'d' * 64}", name="registry.example/triton:1")
RELEASE = Release(model="org--model", number=3, target="openvino", repository="r", chain={}, request={})


def source(**fields: object) -> ModelSource:
    given = {"origin": "hub", "id": "org/model", "revision": "main", "license": "apache-2.0", **fields}
    return ModelSource.model_validate({"commit": COMMIT, "files": (), "config": "{}", **given})


def written(directory: Path, of: ModelSource, packages: dict[str, str], image: ImageId | None = None) -> dict:
    report.write_sbom(directory, RELEASE, of, packages, image)
    found = json.loads((directory / report.SBOM_FILE).read_text())
    assert Bom.from_json(found).metadata.component.version == "3"
    return found


def test_it_has_the_model_the_image_and_the_packages_of_both_environments(tmp_path: Path) -> None:
    found = written(tmp_path, source(), {"torch": "2.13.0+cpu", "pydantic": "2.0"}, IMAGE)
    parts = {one["bom-ref"]: one for one in found["components"]}
    model = parts[f"model:org/model@{COMMIT}"]
    assert model["purl"] == f"pkg:huggingface/org/model@{COMMIT}"
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    image = parts[f"image:{IMAGE.digest}"]
    assert (image["name"], image["hashes"][0]["content"]) == (IMAGE.name, "d" * 64)
    assert parts["target:openvino/torch@2.13.0+cpu"]["purl"] == "pkg:pypi/torch@2.13.0%2Bcpu"
    own = importlib.metadata.version("pydantic")
    assert {f"worker/pydantic@{own}", "target:openvino/pydantic@2.0"} <= parts.keys()
    depends = {one["ref"]: one.get("dependsOn", []) for one in found["dependencies"]}
    assert sorted(depends["release:org--model/3"]) == sorted(parts)


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"origin": "local", "id": "/models/my model", "license": None}, "/models/my model"), ({"id": "gpt2"}, "gpt2")],
)
def test_a_model_of_a_directory_or_without_an_organization(tmp_path: Path, fields: dict[str, str], name: str) -> None:
    found = written(tmp_path, source(**fields), {})
    assert name in {one["name"] for one in found["components"] if one["type"] == "machine-learning-model"}


def test_a_licence_with_a_name_of_its_own_stays(tmp_path: Path) -> None:
    found = written(tmp_path, source(license="llama2"), {})
    model = next(one for one in found["components"] if one["type"] == "machine-learning-model")
    assert model["licenses"] == [{"license": {"name": "llama2"}}]
