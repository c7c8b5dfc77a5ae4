"""Images: their ids, and pulling them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from include.errors import HostError
from include.files import Log
from include.host.docker.registry import RegistryLogin, pull_failure

if TYPE_CHECKING:
    from docker import APIClient


@dataclass(frozen=True)
class ImageId:
    """The immutable names of an image: the engine's ``id``, and the registry's ``digest`` if any.

    ``name`` is the one that it was asked for by.
    """

    id: str
    digest: str | None
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name} ({self.id})"

    @classmethod
    def of(cls, image: str, inspected: Mapping[str, Any]) -> Self:
        """Parses the engine's answer to ``inspect`` for ``image``."""
        from docker.utils import parse_repository_tag

        # Other registries, or this one, may have the same image under other digests.
        repository = parse_repository_tag(image)[0]
        names = sorted(
            inspected.get("RepoDigests") or (), key=lambda name: (name != image, not name.startswith(f"{repository}@"))
        )
        return cls(id=inspected["Id"], digest=names[0].partition("@")[2] if names else None, name=image)


def check_digest(image: str, inspected: Mapping[str, Any], accepted: Collection[str]) -> None:
    """Raises `HostError` if the deployment accepts other digests than the image has; none named accepts any."""
    digests = {name.partition("@")[2] for name in inspected.get("RepoDigests") or ()}
    if accepted and not digests.intersection(accepted):
        raise HostError(
            f"the digest of image {image} is {', '.join(sorted(digests)) or 'none (built or loaded here)'}, "
            "which is not accepted",
            where="HF2TRITON_IMAGE_DIGESTS",
            fix="pull the accepted image by its digest, or accept this one",
        )


def pull(client: APIClient, image: str, log: Log, login: RegistryLogin | None) -> None:
    """Pulls an image. Without a login for its registry the client uses the one that ``docker login`` stored.

    Raises:
        HostError: the registry refuses, or the disk is full.
        UserError: the registry has no such image.
        TransientError: the registry cannot be reached.
    """
    from docker.errors import APIError

    auth = login.auth_for(image) if login else None
    log(f"pulling {image}" + (f" with the login of Connection {login.connection}" if login and auth else ""))
    try:
        for step in client.pull(image, stream=True, decode=True, auth_config=auth):
            if "error" in step:
                raise pull_failure(image, step["error"], login)
            if step.get("status") in {"Pull complete", "Already exists"} or "id" not in step:
                log(f"{step.get('id', '')} {step.get('status', '')}".strip())
    except APIError as error:
        raise pull_failure(image, str(error.explanation or error), login) from error
