"""Images: there, pulled, or an error that says how to get them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.errors import HostError
from include.runners.engine import engine_errors
from include.store import Log

if TYPE_CHECKING:
    from docker import APIClient


def ensure_image(client: APIClient, image: str, build: str, log: Log) -> None:
    """Pulls the image if the engine does not have it; one that has to be built on the host is not looked for.

    Raises:
        HostError: it is not there and cannot be pulled; the message says what to do.
    """
    from docker.errors import ImageNotFound

    with engine_errors(image):
        try:
            client.inspect_image(image)
        except ImageNotFound:
            if build:
                raise HostError(f"image {image} is not on this host", fix=f"in the project: {build}") from None
            _pull(client, image, log)


def _pull(client: APIClient, image: str, log: Log) -> None:
    from docker.errors import APIError

    log(f"pulling {image}")
    try:
        for step in client.pull(image, stream=True, decode=True):
            if "error" in step:
                raise _not_pulled(image, step["error"])
            if step.get("status") in {"Pull complete", "Already exists"} or "id" not in step:
                log(f"{step.get('id', '')} {step.get('status', '')}".strip())
    except APIError as error:
        raise _not_pulled(image, error.explanation) from error


def _not_pulled(image: str, reason: object) -> HostError:
    first = image.split("/")[0]
    registry = f" {first}" if "/" in image and ("." in first or ":" in first) else ""
    return HostError(
        f"image {image} is not on this host and cannot be pulled: {reason}",
        where="the Docker engine",
        fix=f"as the worker's user: `docker login{registry}`, then `docker pull {image}`; or `docker load` a copy",
    )
