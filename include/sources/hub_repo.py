"""A repository of the Hub, or of a mirror."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from include.errors import UserError
from include.redaction import own_secrets

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True)
class Repo:
    """A repository at ``revision``. Without ``endpoint``, on the Hub or on what ``HF_ENDPOINT`` names."""

    kind: Literal["model", "dataset"]
    id: str
    revision: str
    token: str | None = dataclasses.field(repr=False)
    endpoint: str | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "token", _token(self.token))
        if self.endpoint is None:
            return
        if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", self.endpoint):
            raise UserError(
                "the Hub endpoint is not an http or https address",
                where="HF_ENDPOINT",
                fix="give one such as https://huggingface.co",
            )
        endpoint = self.endpoint.rstrip("/")
        if self.token is not None:
            # The HTTP client would send a user of the URL in place of the token.
            endpoint = re.sub(r"//[^/]*@", "//", endpoint)
        object.__setattr__(self, "endpoint", endpoint)

    @property
    def secrets(self) -> frozenset[str]:
        """The token, and the secrets of this process's environment."""
        return own_secrets() | {self.token} if self.token else own_secrets()

    @property
    def url(self) -> str:
        """The repository's page, without credentials that the endpoint may hold."""
        from huggingface_hub import constants

        parts = urlsplit(self.endpoint or constants.ENDPOINT)
        host = parts.netloc.rpartition("@")[2]
        prefix = "datasets/" if self.kind == "dataset" else ""
        return f"{parts.scheme}://{host}{parts.path}/{prefix}{self.id}"

    @property
    def field(self) -> str:
        """The ``where`` of a failure that is in what the user named: the request's field and the page."""
        return f"field {'model' if self.kind == 'model' else 'calib_data'}: {self.url}"

    def api(self) -> HfApi:
        """The client; without a token it sends none, not even one that is stored on this machine."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint, token=self.token or False)

    def pinned(self, canonical: str, commit: str) -> Repo:
        """This repository at a commit, by the id that the Hub has for it; ValueError for nonsense."""
        from huggingface_hub.utils import HFValidationError, validate_repo_id

        try:
            validate_repo_id(canonical)
        except HFValidationError as error:
            raise ValueError(f"its name for the repository: {error}") from error
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise ValueError(f"the commit {commit[:80]!r} is not 40 hex digits")
        return replace(self, id=canonical, revision=commit)

    def refs(self) -> list[str]:
        """The names of its branches and tags."""
        refs = self.api().list_repo_refs(self.id, repo_type=self.kind)
        return [ref.name for ref in (*refs.branches, *refs.tags)]


def _token(token: str | None) -> str | None:
    """The token as it is sent; a newline at its end comes from a file, or from copying it."""
    token = (token or "").strip()
    if not re.fullmatch(r"[!-~]*", token):
        raise UserError(
            "the Hub token has a character that no token has: a space, a control character or one beyond ASCII",
            where="the Airflow Connection of the Hub token, or HF_TOKEN",
            fix="copy it anew, as one word",
        )
    return token or None
