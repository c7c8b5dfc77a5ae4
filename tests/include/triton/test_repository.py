from __future__ import annotations

from pathlib import Path

import pytest

from include.errors import ToolError, UserError
from include.triton import repository

TEMPLATES = Path(__file__).parents[3] / "include" / "targets" / "openvino" / "repository"

MODEL = """
name: "{name}"
backend: "python"
max_batch_size: ${{size}}
input [
  {{ name: "IN" data_type: TYPE_INT32 dims: [ 1 ] }},
  {{ name: "MAY" data_type: TYPE_INT32 dims: [ 1 ] optional: true }}
]
output [ {{ name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] }} ]
parameters {{ key: "tokenizer_dir" value: {{ string_value: "${{tokenizer}}" }} }}
"""
ENSEMBLE = """
name: "both"
platform: "ensemble"
input [ { name: "in" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "out" data_type: TYPE_INT32 dims: [ 1 ] } ]
ensemble_scheduling { step [
  { model_name: "one" model_version: -1 input_map { key: "IN" value: "in" } output_map { key: "OUT" value: "_mid" } },
  { model_name: "two" model_version: -1 input_map { key: "IN" value: "_mid" } output_map { key: "OUT" value: "out" } }
] }
"""


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    """Two models in a row and the ensemble of them."""
    root = tmp_path / "templates"
    for name in ("one", "two"):
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.py").write_text('default = "${not_ours}"\n')
        (root / name / "config.pbtxt").write_text(MODEL.format(name=name))
    (root / "both").mkdir()
    (root / "both" / "config.pbtxt").write_text(ENSEMBLE)
    return root


@pytest.fixture
def values(tmp_path: Path) -> dict[str, dict[str, str]]:
    """What the templates ask for."""
    model = {"size": "4", "tokenizer": str(tmp_path)}
    return {"one": model, "two": model, "both": {}}


@pytest.fixture
def filled(tmp_path: Path, templates: Path, values: dict[str, dict[str, str]]) -> Path:
    """A repository that is right."""
    repository.assemble(templates, values, tmp_path / "filled")
    return tmp_path / "filled"


def test_value_is_inserted_letter_by_letter() -> None:
    assert repository.fill('path: "${p}"', {"p": "/a:b,c $x 'é'"}) == "path: \"/a:b,c $x 'é'\""


def test_every_place_of_a_variable_is_filled() -> None:
    assert repository.fill("a: ${n} b: [ ${n} ]", {"n": "-1.5"}) == "a: -1.5 b: [ -1.5 ]"


@pytest.mark.parametrize(
    ("text", "values", "message"),
    [
        pytest.param('a: "${x}"', {}, "no value for x", id="unfilled"),
        pytest.param('a: "${x}"', {"x": "1", "y": "2"}, "no variable is named y", id="unknown value"),
        pytest.param('a: "1"', {"x": "2"}, "no variable is named x", id="filled already"),
        pytest.param('a: "${x-y}"', {}, "not a variable", id="no name"),
        pytest.param('a: "${x"', {}, "not a variable", id="not closed"),
    ],
)
def test_fill_refuses_templates_and_values_that_do_not_match(text: str, values: dict[str, str], message: str) -> None:
    with pytest.raises(ToolError, match=message) as caught:
        repository.fill(text, values, where="some/config.pbtxt")
    assert caught.value.where == "some/config.pbtxt"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param('a: "${x}"', 'b" c: "d', id="quote"),
        pytest.param('a: "${x}"', "b\\", id="backslash"),
        pytest.param('a: "${x}"', "b\nc", id="newline"),
        pytest.param('a: "${x}"', "${y}", id="another variable"),
        pytest.param("a: ${x}", "1 } b { c: 2", id="bare, more than a word"),
        pytest.param("a: ${x}", "", id="bare, nothing"),
        pytest.param('a: "b" c: ${x}', "1 d: 2", id="bare, after a quoted one"),
    ],
)
def test_fill_refuses_values_that_would_change_the_file(text: str, value: str) -> None:
    with pytest.raises(UserError, match="x "):
        repository.fill(text, {"x": value})


def test_assembled_repository_is_whole_and_right(filled: Path) -> None:
    repository.check(filled)
    assert "max_batch_size: 4" in (filled / "one" / "config.pbtxt").read_text()
    assert (filled / "both" / "1").is_dir()


def test_assemble_takes_only_the_models_that_are_named(
    tmp_path: Path, templates: Path, values: dict[str, dict[str, str]]
) -> None:
    del values["both"]
    repository.assemble(templates, values, tmp_path / "filled")
    assert sorted(path.name for path in (tmp_path / "filled").iterdir()) == ["one", "two"]


def test_assemble_never_refills(filled: Path, templates: Path, values: dict[str, dict[str, str]]) -> None:
    with pytest.raises(ToolError, match="one is there already"):
        repository.assemble(templates, values, filled)
    with pytest.raises(ToolError, match="no variable is named size"):
        repository.assemble(filled, values, filled.parent / "again")


def test_assemble_names_a_model_without_template(tmp_path: Path, templates: Path) -> None:
    with pytest.raises(ToolError, match="no template for model three"):
        repository.assemble(templates, {"three": {}}, tmp_path / "filled")


@pytest.mark.parametrize(
    ("model", "old", "new", "message"),
    [
        pytest.param("one", "TYPE_INT32", "TYPE_INT33", "not a model configuration", id="not a type"),
        pytest.param("one", "input [", "input [ {", "not a model configuration", id="unbalanced"),
        pytest.param("one", 'name: "one"', 'name: "won"', "named 'won' in a folder named 'one'", id="name"),
        pytest.param("one", "max_batch_size: 4", "max_batch_size: ${size}", "a variable was not filled", id="unfilled"),
        pytest.param("one", 'string_value: "', 'string_value: "/nowhere', "does not exist", id="missing path"),
        pytest.param("one", 'string_value: "', 'string_value: ".', "not absolute", id="relative path"),
        pytest.param("both", 'model_name: "two"', 'model_name: "too"', "needs model 'too'", id="missing model"),
        pytest.param("both", 'key: "OUT" value: "_mid"', 'key: "OUTT" value: "_mid"', "no output OUTT", id="output"),
        pytest.param("both", 'key: "IN" value: "in"', 'key: "INN" value: "in"', "no input INN", id="input"),
        pytest.param(
            "both", 'key: "IN" value: "in"', 'key: "MAY" value: "in"', "gives model 'one' no IN", id="left out"
        ),
        pytest.param("both", 'key: "IN" value: "_mid"', 'key: "IN" value: "_mld"', "no step makes", id="tensor typo"),
        pytest.param("both", 'value: "out"', 'value: "uot"', "the ensemble's output needs 'out'", id="output typo"),
        pytest.param("two", "TYPE_INT32", "TYPE_INT64", "another type", id="type changes on the way"),
    ],
)
def test_check_finds(filled: Path, model: str, old: str, new: str, message: str) -> None:
    path = filled / model / "config.pbtxt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ToolError, match=message) as caught:
        repository.check(filled)
    assert "config.pbtxt" in caught.value.where


def test_check_says_the_line_of_a_mistake(filled: Path) -> None:
    path = filled / "one" / "config.pbtxt"
    path.write_text(path.read_text().replace("backend:", "back-end:"))
    with pytest.raises(ToolError) as caught:
        repository.check(filled)
    assert caught.value.where == f"{path}:3"


def test_check_needs_a_version_folder_with_a_model(filled: Path) -> None:
    (filled / "one" / "1" / "model.py").unlink()
    with pytest.raises(ToolError, match=r"no model\.py"):
        repository.check(filled)
    (filled / "one" / "1").rmdir()
    with pytest.raises(ToolError, match="no version folder"):
        repository.check(filled)


def test_check_refuses_an_empty_repository(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no model"):
        repository.check(tmp_path)


def test_check_looks_for_paths_where_the_map_says(filled: Path, tmp_path: Path) -> None:
    path = filled / "one" / "config.pbtxt"
    path.write_text(path.read_text().replace(str(tmp_path), "/in/the/container"))
    repository.check(filled, path_map=lambda p: tmp_path if p == "/in/the/container" else Path(p))


def test_the_openvino_templates_fill_and_check(tmp_path: Path) -> None:
    batch = {"triton_max_batch_size": "8"}
    tokenizer = {**batch, "tokenizer_dir": str(tmp_path)}
    limits = {"max_seq_len": "2048"}
    values = {
        "ensemble": batch,
        "preprocessing": {**tokenizer, **limits, "max_input_len": "1024", "apply_chat_template": "true"},
        "tensorrt_llm": {
            **tokenizer,
            **limits,
            "engine_dir": str(tmp_path),
            "decoupled_mode": "false",
            "max_num_tokens": "2048",
            "kv_cache_bytes": "1000000000",
            "kv_cache_free_gpu_mem_fraction": "0",
        },
        "postprocessing": tokenizer,
    }
    repository.assemble(TEMPLATES, values, tmp_path / "filled")
    repository.check(tmp_path / "filled")
