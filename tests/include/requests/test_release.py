"""The request's limits, and that a refusal names its field."""

from __future__ import annotations

from typing import get_args

import pytest

from include.errors import UserError
from include.requests.operations import RollbackRequest
from include.requests.release import SEED_PROMPT, Form, ReleaseRequest, slug_of
from include.stages.formats import DEFAULT, FORMATS


def test_the_defaults_are_a_valid_request() -> None:
    request = ReleaseRequest.parse({})
    assert request.test_prompts == [SEED_PROMPT]
    assert request.target == "openvino"


@pytest.mark.parametrize(
    "model",
    [
        "a;b",
        "$(id)/x",
        "org/../x",
        "/models/../etc",
        "https://huggingface.co/org/x",
        "a/b/c",
        "org/x\n",
        "/srv/x\n",
        "/srv/\x1b[31m",
        "/srv/a\\b",
        "/srv/\u2028",
        "a b",
        "-x/y",
        "",
    ],
)
def test_a_model_that_is_neither_a_hub_id_nor_a_path_is_refused(model: str) -> None:
    with pytest.raises(UserError, match="^model: "):
        ReleaseRequest.parse({"model": model})


@pytest.mark.parametrize(
    "model",
    [
        "gpt2",
        "org/name",
        "NousResearch/Llama-2-7b-hf",
        "/srv/models/my model-1.5",
        "/srv/Modèles (neu)/a [b]: 'c' & 日本 😀 $x;y",
    ],
)
def test_hub_ids_and_paths_are_taken(model: str) -> None:
    assert ReleaseRequest.parse({"model": model}).model == model


@pytest.mark.parametrize("revision", ["../x", "a b", "--force", "main;ls", "x" * 200])
def test_a_revision_that_git_would_not_take_is_refused(revision: str) -> None:
    with pytest.raises(UserError, match="^revision: "):
        ReleaseRequest.parse({"revision": revision})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("awq_group_size", 100),
        ("calib_size", 0),
        ("calib_seq_len", 8),
        ("calib_data", "http://x/y"),
        ("tp_size", 9),
        ("max_batch_size", 0),
        ("kv_cache_memory_fraction", 1.5),
        ("target", "sglang"),
        ("test_prompts", []),
        ("min_agreement", 1.1),
        ("max_repetition", -0.1),
        ("max_perplexity_increase", -0.1),
        ("max_perplexity_decrease", 2),
        ("candidate_http_port", 70000),
        ("max_sequence_length", 10),
    ],
)
def test_what_is_out_of_its_limits_is_named(field: str, value: object) -> None:
    with pytest.raises(UserError, match=f"^{field}: "):
        ReleaseRequest.parse({field: value})


@pytest.mark.parametrize("max_input_len", [2048, 4096])
def test_the_prompt_must_leave_room_for_an_answer(max_input_len: int) -> None:
    with pytest.raises(UserError, match="max_input_len"):
        ReleaseRequest.parse({"max_input_len": max_input_len, "max_seq_len": 2048})


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(UserError, match=r"model: .*; calib_size: "):
        ReleaseRequest.parse({"model": "a;b", "calib_size": 0})


@pytest.mark.parametrize(
    ("field", "value", "taken"),
    [
        ("test_prompts", "one\n\n two \n", ["one", "two"]),
        ("test_prompts", ["one", " two", ""], ["one", "two"]),
        ("speed_concurrencies", ["1", "8 ", ""], [1, 8]),
        ("speed_concurrencies", [1, 4, "8"], [1, 4, 8]),
        ("approvers", None, []),
    ],
)
def test_a_list_may_come_one_a_line(field: str, value: object, taken: list[object]) -> None:
    assert getattr(ReleaseRequest.parse({field: value}), field) == taken


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_sequence_len": 10}, "max_sequence_len: there is no such field; did you mean max_seq_len?"),
        ({"zzz": 10}, "zzz: there is no such field"),
        ({"model": "a;b"}, "model: 'a;b' is not a Hub id such as org/name, nor an absolute path"),
        ({"calib_size": 0}, "calib_size: Input should be greater than or equal to 1"),
        ({"speed_concurrencies": ["1", "x"]}, "speed_concurrencies.1: Input should be a valid integer"),
        (
            {"max_input_len": 2048},
            "max_input_len (2048) must be below max_seq_len (2048): max_seq_len counts the prompt and the answer",
        ),
        (
            {"swap": "recreate", "require_approval": True},
            "swap recreate cannot be had with require_approval: the live address would be down",
        ),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_a_refusal_names_the_field_and_says_what_is_wrong(params: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        ReleaseRequest.parse(params)
    assert refusal.value.what.startswith(message)


@pytest.mark.parametrize(
    ("model", "slug"),
    [
        ("org/name-1.5B", "org--name-1.5B"),
        ("/srv/my model", "local--my_model-724580de"),
        ("//srv/./my model/", "local--my_model-724580de"),
    ],
)
def test_the_slug_is_one_path_element(model: str, slug: str) -> None:
    assert ReleaseRequest.parse({"model": model}).slug == slug


def test_models_with_one_last_name_have_names_of_their_own() -> None:
    models = [
        "/a/merged",
        "/b/merged",
        "/merged",
        "/a/b/merged",
        "local/merged",
        "/",
        f"/{'x' * 255}",
        f"/y/{'x' * 255}",
    ]
    slugs = {slug_of(model) for model in models}
    assert len(slugs) == len(models)
    assert all("/" not in slug and len(slug) < 100 for slug in slugs)


@pytest.mark.parametrize("form", [ReleaseRequest, RollbackRequest])
@pytest.mark.parametrize(("former", "swap"), [("beside", "blue_green"), ("stop_first", "recreate")])
def test_a_swap_is_known_by_its_former_name_too(form: type[Form], former: str, swap: str) -> None:
    assert form.parse({"swap": former}) == form.parse({"swap": swap})
    assert form.parse({"swap": former}).model_dump(mode="json")["swap"] == swap


def test_each_format_is_a_value_of_the_field() -> None:
    assert set(get_args(ReleaseRequest.model_fields["quantization"].annotation)) == set(FORMATS)
    assert ReleaseRequest().quantization == DEFAULT


@pytest.mark.parametrize("target", get_args(ReleaseRequest.model_fields["target"].annotation))
@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_refused_by_a_target_that_does_not_serve_it(name: str, target: str) -> None:
    params = {"quantization": name, "target": target}
    if target in FORMATS[name].targets:
        assert ReleaseRequest.parse(params).format is FORMATS[name]
        return
    with pytest.raises(UserError) as refusal:
        ReleaseRequest.parse(params)
    assert f"target {target} does not serve quantization {name}: set it to int4_awq" in str(refusal.value)
    assert "target tensorrt_llm or vllm, on an NVIDIA GPU of SM 89 or later" in str(refusal.value)


def test_only_a_format_with_groups_has_a_group_size() -> None:
    asked = {"target": "vllm", "awq_group_size": 32}
    assert ReleaseRequest.parse(asked).group_size == 32
    assert ReleaseRequest.parse({**asked, "quantization": "fp8"}).group_size is None


def test_the_title_of_a_run_names_the_format() -> None:
    asked = {"target": "vllm", "awq_group_size": 32, "model": "org/name"}
    assert ReleaseRequest.parse(asked).title == "name int4 g32"
    assert ReleaseRequest.parse({**asked, "quantization": "fp8"}).title == "name fp8"
