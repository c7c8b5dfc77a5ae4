"""The routing as data: which models are served under which names, and which servers finish what they have begun."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, field_validator

from include.frozen import Frozen
from include.host.ports import reachable
from include.triton.servers import Ports

Health = Literal["HEALTHY", "DRAINING"]

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
    """The state of a name: new requests go to ``served``; requests in flight to ``draining`` finish there.

    A name that is not served has clusters, if any, but no routes: it is about to come, or its last requests to end.
    """

    served: Served | None = None
    draining: tuple[Upstream, ...] = ()

    @property
    def current(self) -> Upstream | None:
        """The server of new requests."""
        return self.served.upstream if self.served else None

    def moved_to(self, served: Served | None) -> Model:
        """The state in which something else is served; the previous upstream is draining."""
        moved = Model(served=served)
        before = dict.fromkeys((self.current, *self.draining))
        return moved.model_copy(update={"draining": tuple(one for one in before if one and one != moved.current)})


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

    def prepared(self, name: str) -> Routing:
        """The routing with clusters for a name: Envoy has to know them before a route to them."""
        return self._with(name, self.models.get(name, Model()))

    def leaving(self, name: str | None = None) -> Routing:
        """Only the upstreams that are draining, and the names that are served no more; all, or those of one name."""
        models = {
            one: Model(draining=model.draining)
            for one, model in self.models.items()
            if (model.draining or not model.served) and name in (None, one)
        }
        return Routing(models=models)

    def without(self, gone: Routing) -> Routing:
        """The routing without what has left; a name that is served no more goes with its last upstream."""
        models = {}
        for name, model in self.models.items():
            left = gone.models.get(name)
            draining = tuple(one for one in model.draining if not left or one not in left.draining)
            if model.served or draining or not left:
                models[name] = Model(served=model.served, draining=draining)
        return self.model_copy(update={"models": models})

    def clusters(self) -> list[Cluster]:
        """The clusters of all names, with a server or without."""
        return [Cluster(listener, name) for name in self.models for listener in Ports.model_fields]

    def endpoints(self) -> dict[Endpoint, Health]:
        """The endpoints of all upstreams, with their health for Envoy."""
        return dict(self._endpoints())

    def _endpoints(self) -> Iterator[tuple[Endpoint, Health]]:
        for name, model in self.models.items():
            known: dict[Upstream, Health] = dict.fromkeys(model.draining, "DRAINING")
            if model.current:
                known[model.current] = "HEALTHY"
            for upstream, health in known.items():
                for listener, port in upstream.ports.model_dump().items():
                    yield Endpoint(str(Cluster(listener, name)), upstream.address, port), health

    def _with(self, name: str, model: Model) -> Routing:
        return Routing(models={**self.models, name: model}, default=self.default)


@dataclass(frozen=True)
class Cluster:
    """The servers of one name for the requests of one listener."""

    listener: str
    name: str

    def __str__(self) -> str:
        return f"{self.listener}.{self.name}"


@dataclass(frozen=True)
class Endpoint:
    """One port of an upstream, as a member of a cluster."""

    cluster: str
    address: str
    port: int
