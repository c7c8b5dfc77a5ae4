"""Images: there, pulled, or an error that says how to get them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.errors import HostError
from include.files import Log
from include.host.docker.engine import engine_errors
from include.host.docker.registry import FindLogin, no_login, pull_failure

if TYPE_CHECKING:
    from docker import APIClient

_BY_ID = "sha256:"


@dataclass(frozen=True)
class ImageId:
    """Names of an image that cannot move to another: the engine's ``id``, and the registry's ``digest`` if any."""

    id: str
    digest: str | None


def ensure_image(client: APIClient, image: str, build: str, log: Log, find_login: FindLogin = no_login) -> ImageId:
    """Pulls the image if the engine does not have it; one that has to be built on the host is not looked for.

    Without a login for the image's registry the client sends what ``docker login`` has stored for this user.

    Raises:
        HostError: it is not there and cannot be had; the message says what to do.
        UserError: the registry has no such image.
        TransientError: the registry, or the engine, cannot be reached.
    """
    from docker.errors import ImageNotFound

    with engine_errors(image):
        with suppress(ImageNotFound):
            return _id_of(image, client.inspect_image(image))
        if build:
            raise HostError(f"image {image} is not on this host", fix=f"in the project: {build}")
        if image.startswith(_BY_ID):
            raise HostError(
                f"image {image} is gone from this host",
                fix="trigger release_awq_engine, which gets it by its name; or `docker load` a copy",
            )
        _pull(client, image, log, find_login)
        return _id_of(image, client.inspect_image(image))


def _id_of(image: str, inspected: Mapping[str, Any]) -> ImageId:
    from docker.utils import parse_repository_tag

    # Other registries, or this one, may have the same image by other digests.
    repository = parse_repository_tag(image)[0]
    names = sorted(
        inspected.get("RepoDigests") or (), key=lambda name: (name != image, not name.startswith(f"{repository}@"))
    )
    return ImageId(id=inspected["Id"], digest=names[0].partition("@")[2] if names else None)


def _pull(client: APIClient, image: str, log: Log, find_login: FindLogin) -> None:
    from docker.errors import APIError

    login = find_login()
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
