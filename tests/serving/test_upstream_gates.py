"""The command that tries NVIDIA's own models, as far as it goes without them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from include.errors import UserError
from include.requests.release import ReleaseRequest
from include.triton import repository
from tests.include.targets.tensorrt_llm.test_repository import TEMPLATES, write_tokenizer
from tests.serving.upstream_gates import assemble, find_templates


@pytest.mark.parametrize("place", ["", "all_models/inflight_batcher_llm"])
def test_finds_the_models_in_a_checkout(tmp_path: Path, place: str) -> None:

    checkout = tmp_path / "checkout"
    (checkout / place).parent.mkdir(parents=True, exist_ok=True)
    (checkout / place).symlink_to(TEMPLATES)
    assert find_templates(checkout).resolve() == TEMPLATES


def test_refuses_what_has_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="inflight_batcher_llm"):
        find_templates(tmp_path)


def test_puts_the_stand_in_where_the_engine_would_be(tmp_path: Path) -> None:
    checkpoint, engine, out = (tmp_path / name for name in ("checkpoint", "engine", "repository"))
    (checkpoint / "tokenizer").mkdir(parents=True)
    engine.mkdir()
    write_tokenizer(checkpoint / "tokenizer", sentencepiece=False)
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    assemble(TEMPLATES, checkpoint, engine, ReleaseRequest(target="tensorrt_llm"), out)
    models = repository.read(out)
    assert sorted(models) == ["end_tokens", "ensemble", "postprocessing", "preprocessing", "tensorrt_llm"]
    assert models["tensorrt_llm"].backend == "python"
    assert models["tensorrt_llm"].parameters["gpt_model_path"].string_value == str(engine)
    assert (out / "tensorrt_llm" / "1" / "engine.py").is_file()
