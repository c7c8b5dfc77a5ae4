"""The routing as data: which models are served under which names, and which servers finish what they have begun."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, field_validator

from include.frozen import Frozen
from include.host.ports import reachable
from include.triton.servers import Ports

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
"""A name that a model is served under, or an alias: also a part of a file's name, and of a URL."""


class Upstream(Frozen):
    """A server that requests can go to."""

    ports: Ports
    address: str = "127.0.0.1"

    @field_validator("address")
    @classmethod
    def _reachable(cls, address: str) -> str:
        return reachable(address)

    def __str__(self) -> str:
        return f"{self.address}, HTTP port {self.ports.http}"


class Served(Frozen):
    """What is served under a name: the release ``<model>/<n>``, also under its aliases.

    Without an ``upstream`` the name is known, and its requests get 503.
    """

    upstream: Upstream | None
    release: str = Field(pattern=r"^[!-~]+$")
    aliases: tuple[Name, ...] = ()

    def __str__(self) -> str:
        return f"release {self.release} at {self.upstream or 'no server: its requests are refused'}"


class Model(Frozen):
    """The state of a name: new requests go to ``served``.

    None go to ``draining``: servers whose last requests are to end, and one that is about to be served.
    """

    served: Served | None = None
    draining: tuple[Upstream, ...] = ()

    @property
    def current(self) -> Upstream | None:
        """The server of new requests."""
        return self.served.upstream if self.served else None

    @property
    def upstreams(self) -> tuple[Upstream, ...]:
        """All servers of the name."""
        return (*((self.current,) if self.current else ()), *self.draining)

    def moved_to(self, served: Served | None) -> Model:
        """The state in which something else is served; the previous upstream is draining."""
        current = served.upstream if served else None
        return Model(served=served, draining=tuple(one for one in self.upstreams if one != current))


class Routing(Frozen):
    """The models by served name; ``default`` is the one that answers requests that name none."""

    models: dict[Name, Model] = Field(default_factory=dict)
    default: Name | None = None

    def served(self) -> dict[str, Served]:
        """What is served, by name."""
        return {name: model.served for name, model in sorted(self.models.items()) if model.served}

    def labels(self) -> dict[str, tuple[str, ...]]:
        """The served names, each with all that it is called. No alias takes a name, or an alias, from another."""
        served = self.served()
        taken = set(served)
        labels = {}
        for name, one in served.items():
            own = [alias for alias in dict.fromkeys(one.aliases) if alias not in taken]
            taken.update(own)
            labels[name] = (name, *own)
        return labels

    def moved(self, name: str, served: Served | None) -> Routing:
        """The routing in which a name is served otherwise, or not at all."""
        return self._with(name, self.models.get(name, Model()).moved_to(served))

    def prepared(self, name: str, upstream: Upstream) -> Routing:
        """The routing that knows an upstream, which no request goes to yet."""
        model = self.models.get(name, Model())
        if upstream in model.upstreams:
            return self
        return self._with(name, Model(served=model.served, draining=(*model.draining, upstream)))

    def leaving(self, name: str | None = None) -> Routing:
        """Only the upstreams that are draining; all, or those of one name."""
        models = {
            one: Model(draining=model.draining)
            for one, model in self.models.items()
            if model.draining and name in (None, one)
        }
        return Routing(models=models)

    def without(self, gone: Routing) -> Routing:
        """The routing without what has left; a name that is served no more goes with its last upstream."""
        models = {}
        for name, model in self.models.items():
            left = gone.models.get(name, Model()).draining
            draining = tuple(one for one in model.draining if one not in left)
            if model.served or draining:
                models[name] = Model(served=model.served, draining=draining)
        return Routing(models=models, default=self.default)

    def clusters(self) -> list[Cluster]:
        """The clusters of all upstreams."""
        return [
            Cluster(listener, name, upstream)
            for name, model in self.models.items()
            for upstream in model.upstreams
            for listener in Ports.model_fields
        ]

    def _with(self, name: str, model: Model) -> Routing:
        return Routing(models={**self.models, name: model}, default=self.default)


@dataclass(frozen=True)
class Cluster:
    """The server of a name for the requests of one listener: it never changes, so requests in flight can be counted."""

    listener: str
    name: str
    upstream: Upstream

    @property
    def port(self) -> int:
        """The server's port for these requests."""
        return int(getattr(self.upstream.ports, self.listener))

    def __str__(self) -> str:
        return f"{self.listener} {self.name} {self.upstream.address} {self.port}"
