"""The bill of materials of a release, in CycloneDX: the model, the image, and the packages of both environments."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from include.files import write_atomic
from include.host.docker.images import ImageId
from include.releases.records import Release
from include.sources import ModelSource

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

SBOM_FILE = "sbom.cdx.json"


def write_sbom(
    directory: Path, release: Release, source: ModelSource, packages: Mapping[str, str], image: ImageId | None
) -> None:
    """Writes ``sbom.cdx.json`` (CycloneDX 1.6). ``packages`` are those of the target's environment, by name."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    model = ComponentType.MACHINE_LEARNING_MODEL
    subject = Component(name=release.model, version=str(release.number), type=model, bom_ref=f"release:{release.name}")
    worker = {one.metadata["Name"]: one.version for one in importlib.metadata.distributions() if one.metadata["Name"]}
    parts = [
        _model(source),
        *([_image(image)] if image else []),
        *_packages(f"target:{release.target}", packages),
        *_packages("worker", worker),
    ]
    bom = Bom(components=parts)
    bom.metadata.component = subject
    bom.register_dependency(subject, parts)
    outputter = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6)
    write_atomic(directory / SBOM_FILE, outputter.output_as_string(indent=1))


def _model(source: ModelSource) -> Component:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    namespace, _, name = source.id.rpartition("/")
    on_hub = source.origin == "hub"
    return Component(
        name=source.id,
        version=source.commit,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"model:{source.id}@{source.commit}",
        purl=PackageURL("huggingface", namespace or None, name, source.commit) if on_hub else None,
        licenses=[LicenseFactory().make_from_string(source.license)] if source.license else None,
    )


def _image(image: ImageId) -> Component:
    from cyclonedx.contrib.hash.factories import HashTypeFactory
    from cyclonedx.model.component import Component, ComponentType

    identity = image.digest or image.id
    return Component(
        name=image.name or image.id,
        version=identity,
        type=ComponentType.CONTAINER,
        bom_ref=f"image:{identity}",
        hashes=[HashTypeFactory().from_composite_str(identity)],
    )


def _packages(environment: str, packages: Mapping[str, str]) -> Iterator[Component]:
    """Libraries. One name may be in both environments, in two versions: the reference names the environment."""
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    for name, version in sorted(packages.items()):
        yield Component(
            name=name,
            version=version,
            type=ComponentType.LIBRARY,
            group=environment,
            bom_ref=f"{environment}/{name}@{version}",
            purl=PackageURL("pypi", None, name.lower().replace("_", "-"), version),
        )
