"""The routing as data."""

from __future__ import annotations

import pytest

from include.live.proxy.routing import Model, Routing, Served, Upstream
from include.triton.servers import Ports


def upstream(number: int) -> Upstream:
    return Upstream(ports=Ports(http=number, grpc=number + 1, metrics=number + 2))


def served(number: int, *aliases: str) -> Served:
    return Served(upstream=upstream(number), release=f"org--name/{number}", aliases=aliases)


A, B = served(10), served(20)


def test_a_name_that_moves_leaves_its_server_draining() -> None:
    moved = Routing().moved("a", A).moved("a", B)
    assert moved.models == {"a": Model(served=B, draining=(A.upstream,))}
    assert moved.moved("a", A).models == {"a": Model(served=A, draining=(B.upstream,))}


def test_another_release_or_alias_at_the_same_server_drains_nothing() -> None:
    other = Served(upstream=A.upstream, release="org--name/11", aliases=("x",))
    assert Routing().moved("a", A).moved("a", other).models == {"a": Model(served=other)}


def test_a_retired_name_stays_until_it_has_left() -> None:
    routing = Routing(default="b").moved("a", A).moved("b", B).moved("a", None)
    assert set(routing.served()) == {"b"}
    assert routing.leaving() == routing.leaving("a") == Routing(models={"a": Model(draining=(A.upstream,))})
    assert routing.leaving("b") == Routing()
    assert routing.without(routing.leaving()) == Routing(default="b", models={"b": Model(served=B)})


def test_what_came_back_meanwhile_stays() -> None:
    retired = Routing().moved("a", A).moved("a", None)
    assert retired.moved("a", A).without(retired.leaving()).models == {"a": Model(served=A)}
    assert retired.moved("a", B).moved("a", None).without(retired.leaving()).models == {
        "a": Model(draining=(B.upstream,))
    }


def test_a_server_that_never_came_goes() -> None:
    prepared = Routing().moved("a", A).prepared("a", B.upstream).prepared("b", B.upstream)
    assert len(prepared.clusters()) == 3 * 3
    assert prepared.served() == {"a": A}
    assert prepared.moved("a", B).models["a"] == Model(served=B, draining=(A.upstream,))
    assert prepared.without(prepared.leaving()) == Routing().moved("a", A)


def test_what_is_known_needs_no_preparation() -> None:
    routing = Routing().moved("a", A).moved("a", B)
    assert routing.prepared("a", A.upstream) == routing.prepared("a", B.upstream) == routing


@pytest.mark.parametrize(
    ("models", "labels"),
    [
        ({"a": served(1, "x")}, {"a": ("a", "x")}),
        ({"a": served(1, "b", "x", "x", "a"), "b": served(2)}, {"a": ("a", "x"), "b": ("b",)}),
        ({"a": served(1, "x"), "b": served(2, "x", "y")}, {"a": ("a", "x"), "b": ("b", "y")}),
    ],
    ids=["own", "of a name", "of another alias"],
)
def test_no_alias_takes_what_another_is_called(models: dict[str, Served], labels: dict[str, tuple[str, ...]]) -> None:
    routing = Routing(models={name: Model(served=one) for name, one in models.items()})
    assert routing.labels() == labels
