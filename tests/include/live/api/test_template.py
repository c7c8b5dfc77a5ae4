"""Chat templates render as in transformers, and cannot harm the service."""

from __future__ import annotations

import asyncio
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from include.live.api.failures import ApiError
from include.live.api.template import ChatTemplate

SOON_S = 5.0


def render(source: str, *variables: dict[str, Any], limit_s: float = 20) -> list[str]:
    async def all_of_them() -> list[str]:
        template = ChatTemplate(source, limit_s)
        return [await template.render(one) for one in variables]

    return asyncio.run(all_of_them())


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for m in messages %}\n{{ m.content }}\n{% endfor %}", "a\nb\n"),
        ("{{ messages | tojson }}", '[{"content": "a"}, {"content": "b"}]'),
        ("{{ {'é': 1} | tojson(indent=1) }}", '{\n "é": 1\n}'),
        ("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.content }}{% endfor %}", "a"),
        ("{% generation %}said{% endgeneration %}", "said"),
        ("{{ strftime_now('%Y') }}", str(datetime.now().year)),
        ("{{ bos_token is defined }}{{ tools is none }}", "FalseTrue"),
        ("<{{ '<' }}&", "<<&"),
    ],
)
def test_a_template_renders_as_in_transformers(source: str, text: str) -> None:
    variables = {"messages": [{"content": "a"}, {"content": "b"}], "tools": None}
    assert render(source, variables, variables) == [text, text]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{% if %}", "Expected an expression"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "of 'list' object is unsafe"),
        ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "more than 16777216 characters"),
        ("{{ range(10 ** 9) }}", "too big"),
    ],
)
def test_a_template_that_refuses_is_the_requests_fault(source: str, said: str) -> None:
    with pytest.raises(ApiError, match=said) as caught:
        render(source, {"messages": []})
    assert (caught.value.status, caught.value.param) == (400, "messages")


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% set n = namespace(s='a') %}{% for i in range(64) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{{ 'a' * (10 ** 11) }}",
        "{{ '%0999999999d' | format(hostile | int) }}",
    ],
)
def test_a_template_that_would_take_all_is_ended_and_the_next_text_goes_well(source: str) -> None:
    async def twice() -> str:
        template = ChatTemplate(f"{{% if hostile %}}{source}{{% else %}}well{{% endif %}}", SOON_S)
        with pytest.raises(ApiError):
            await template.render({"hostile": True})
        return await template.render({})

    assert asyncio.run(twice()) == "well"


def test_its_process_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")

    async def environment() -> bytes:
        template = ChatTemplate("x")
        await template.render({})
        assert template._process
        return Path(f"/proc/{template._process.pid}/environ").read_bytes()

    assert b"secret" not in asyncio.run(environment())


def test_its_process_ends_with_it() -> None:
    template = ChatTemplate("x")
    asyncio.run(template.render({}))
    process = template._process
    assert process
    assert process.poll() is None
    del template
    assert process.returncode == -signal.SIGKILL
