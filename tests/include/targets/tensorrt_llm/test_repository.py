"""Values for templates that have every variable of TensorRT-LLM 1.2.1, filled and checked by our own filler."""

from __future__ import annotations

import itertools
import json
from contextlib import nullcontext
from operator import itemgetter
from pathlib import Path

import pytest
from google.protobuf import text_format
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tritonclient.grpc import model_config_pb2  # noqa: TID253

from include.errors import ToolError, UserError
from include.model.config import ModelConfig
from include.releases.contract import Contract
from include.requests.release import ReleaseRequest
from include.settings import Settings
from include.targets.tensorrt_llm import TensorRTLLMTarget, engines, templates
from include.targets.tensorrt_llm.settings import TensorRTLLMSettings
from include.triton import repository

TEMPLATES = Path(__file__).parents[3] / "fixtures" / "tensorrt_llm" / "templates"
OVERLAY = Path(templates.__file__).parent / "repository"
SETTINGS = TensorRTLLMSettings()
BARE = {
    "ensemble": {"triton_max_batch_size", "logits_datatype"},
    "preprocessing": {
        "triton_max_batch_size",
        "preprocessing_instance_count",
        "max_queue_size",
        "max_queue_delay_microseconds",
    },
    "postprocessing": {"triton_max_batch_size", "postprocessing_instance_count"},
    "tensorrt_llm": {
        "triton_max_batch_size",
        "decoupled_mode",
        "max_queue_delay_microseconds",
        "max_queue_size",
        "encoder_input_features_data_type",
        "logits_datatype",
        "prompt_embedding_table_data_type",
    },
}
MANDATORY = {
    "preprocessing": {"tokenizer_dir"},
    "postprocessing": {"tokenizer_dir"},
    "tensorrt_llm": {"triton_backend", "engine_dir", "batching_strategy"},
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store" / "engine").mkdir(parents=True)
    (tmp_path / "store" / "checkpoint" / "tokenizer").mkdir(parents=True)
    return tmp_path / "store"


def values(
    store: Path, settings: TensorRTLLMSettings = SETTINGS, ends: tuple[int, ...] = (), **fields: object
) -> dict[str, dict[str, str]]:
    request = ReleaseRequest.parse({"target": "tensorrt_llm", **fields})
    return templates.values(
        request,
        settings,
        tokenizer=store / "checkpoint" / "tokenizer",
        engine=store / "engine",
        templates=TEMPLATES,
        ends=ends,
    )


def model_config(path: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def local(store: Path, path: str) -> Path:
    return Path(path) if path.startswith(str(store)) else Path("/")


@pytest.mark.parametrize("model", templates.MODELS)
def test_the_fixture_has_the_bare_and_quoted_variables_of_upstream(model: str) -> None:
    found = templates.variables((TEMPLATES / model / "config.pbtxt").read_text())
    assert {name for name, bare in found.items() if bare} == BARE[model]
    assert {name for name, bare in found.items() if not bare} >= MANDATORY.get(model, set())


@pytest.mark.parametrize("model", templates.MODELS)
def test_every_variable_gets_a_value_and_bare_or_mandatory_ones_not_an_empty_one(store: Path, model: str) -> None:
    given = values(store)[model]
    assert given.keys() == templates.variables((TEMPLATES / model / "config.pbtxt").read_text()).keys()
    assert all(given[name] for name in BARE[model] | MANDATORY.get(model, set()))


@pytest.mark.parametrize(
    ("streaming", "batch", "tokens", "policy", "limit"),
    list(itertools.product((False, True), (1, 256), (16, 8192), ("guaranteed_no_evict", "max_utilization"), (None, 9))),
)
def test_every_combination_makes_a_repository_that_passes_its_checks(
    store: Path, tmp_path: Path, streaming: bool, batch: int, tokens: int, policy: str, limit: int | None
) -> None:
    settings = TensorRTLLMSettings.model_validate(
        {"batch_scheduler_policy": policy, "max_tokens_in_paged_kv_cache": limit}
    )
    given = values(store, settings, streaming=streaming, max_batch_size=batch, max_num_tokens=tokens)
    out = tmp_path / "repository"
    repository.assemble(TEMPLATES, given, out)
    repository.check(out, path_map=lambda path: local(store, path))
    assert sorted(path.name for path in out.iterdir()) == sorted(templates.MODELS)
    engine = model_config(out / "tensorrt_llm" / "config.pbtxt")
    parameters = {name: value.string_value for name, value in engine.parameters.items()}
    assert engine.model_transaction_policy.decoupled is streaming
    assert engine.max_batch_size == batch
    assert engine.backend == "tensorrtllm"
    assert parameters["batch_scheduler_policy"] == policy
    assert parameters["max_tokens_in_paged_kv_cache"] == ("" if limit is None else str(limit))
    assert parameters["gpt_model_path"] == str(store / "engine")
    assert parameters["enable_chunked_context"] == str(tokens < 1024).lower()


def test_the_seeds_options_have_their_place(store: Path) -> None:
    given = values(store, kv_cache_memory_fraction=0.6, max_batch_size=12, streaming=True)
    engine = given["tensorrt_llm"]
    assert (engine["kv_cache_free_gpu_mem_fraction"], engine["decoupled_mode"]) == ("0.6", "true")
    assert engine["engine_dir"] == str(store / "engine")
    assert {m: v["triton_max_batch_size"] for m, v in given.items()} == dict.fromkeys(templates.MODELS, "12")
    assert given["preprocessing"]["tokenizer_dir"] == str(store / "checkpoint" / "tokenizer")


@pytest.mark.parametrize(("streaming", "count"), [(False, "4"), (True, "1")])
def test_pieces_of_a_streamed_answer_stay_in_order(store: Path, streaming: bool, count: str) -> None:
    given = values(store, streaming=streaming, max_batch_size=64)
    assert given["postprocessing"]["postprocessing_instance_count"] == count
    assert given["preprocessing"]["preprocessing_instance_count"] == "4"


@pytest.mark.parametrize("name", ["with:colon", "with,comma", "with:both,of:them"])
def test_a_path_with_a_separator_of_upstreams_filler_arrives_as_it_is(tmp_path: Path, name: str) -> None:
    for part in ("engine", "checkpoint/tokenizer"):
        (tmp_path / name / part).mkdir(parents=True)
    repository.assemble(TEMPLATES, values(tmp_path / name), tmp_path / "out")
    config = model_config(tmp_path / "out" / "tensorrt_llm" / "config.pbtxt")
    assert config.parameters["gpt_model_path"].string_value == str(tmp_path / name / "engine")


def test_a_filled_repository_cannot_be_filled_again_with_other_values(store: Path, tmp_path: Path) -> None:
    repository.assemble(TEMPLATES, values(store, max_batch_size=4), tmp_path / "first")
    with pytest.raises(ToolError, match="no variable is named"):
        repository.assemble(tmp_path / "first", values(store, max_batch_size=8), tmp_path / "second")


def test_a_variable_of_a_comment_is_filled_too(store: Path, tmp_path: Path) -> None:
    repository.assemble(TEMPLATES, values(store), tmp_path / "out")
    assert "enable_trt_overlap" in values(store)["tensorrt_llm"]
    assert "${" not in (tmp_path / "out" / "tensorrt_llm" / "config.pbtxt").read_text()


def _other_templates(tmp_path: Path, line: str) -> Path:
    for model in templates.MODELS:
        (tmp_path / "other" / model).mkdir(parents=True)
        text = (TEMPLATES / model / "config.pbtxt").read_text()
        (tmp_path / "other" / model / "config.pbtxt").write_text(f"{text}{line}\n" if model == "ensemble" else text)
    return tmp_path / "other"


def _values_of(store: Path, where: Path) -> dict[str, dict[str, str]]:
    request = ReleaseRequest.parse({"target": "tensorrt_llm"})
    return templates.values(request, SETTINGS, tokenizer=store, engine=store, templates=where)


def test_a_new_bare_variable_of_another_image_is_an_error(store: Path, tmp_path: Path) -> None:
    other = _other_templates(tmp_path, "max_batch_size: ${new_limit}")
    with pytest.raises(ToolError, match="needs a value for new_limit"):
        _values_of(store, other)


def test_a_new_quoted_variable_of_another_image_is_left_to_the_backend(store: Path, tmp_path: Path) -> None:
    other = _other_templates(tmp_path, 'parameters { key: "x" value: { string_value: "${new_option}" } }')
    assert _values_of(store, other)["ensemble"]["new_option"] == ""


def test_a_missing_template_is_an_error(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no template ensemble"):
        _values_of(store, tmp_path)


def test_a_tokenizer_with_code_is_refused(tmp_path: Path) -> None:
    engines.check_tokenizer(tmp_path)
    (tmp_path / "tokenization_x.py").touch()
    with pytest.raises(UserError, match=r"own code \(tokenization_x\.py\)"):
        engines.check_tokenizer(tmp_path)


def test_the_repository_tells_its_contract(store: Path, tmp_path: Path) -> None:
    request = ReleaseRequest(target="tensorrt_llm", max_batch_size=4)
    repository.assemble(TEMPLATES, values(store, max_batch_size=4), tmp_path / "repository")
    found = Contract.stored(tmp_path / "repository", request.model_dump(mode="json"))
    assert (found.streaming, found.max_batch_size, found.max_input_len) == (True, 4, request.max_input_len)
    assert found.outputs == {"text_output": "STRING", "context_logits": "FP32", "generation_logits": "FP32"}
    assert found.chat_template == "", "NVIDIA's preprocessing applies none"


def write_tokenizer(folder: Path, *, sentencepiece: bool) -> None:
    """A tokenizer as Llama 2's, whose decoder drops a text's first space, or as Llama 3's, which keeps it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace() if sentencepiece else pre_tokenizers.ByteLevel()
    dropping = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.decoder = dropping if sentencepiece else decoders.ByteLevel()
    tokenizer.train_from_iterator(["One, two and three."] * 3, trainers.BpeTrainer(vocab_size=300))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "e"}')


@pytest.mark.parametrize(
    ("sentencepiece", "streaming", "refused"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_streaming_is_refused_where_pieces_would_lose_their_spaces(
    tmp_path: Path, sentencepiece: bool, streaming: bool, refused: bool
) -> None:
    write_tokenizer(tmp_path, sentencepiece=sentencepiece)
    target = TensorRTLLMTarget(Settings(artifacts=tmp_path / "store", runner="docker"))
    with pytest.raises(UserError, match="field streaming") if refused else nullcontext():
        target.check_tokenizer(ReleaseRequest(target="tensorrt_llm", streaming=streaming), tmp_path)


SMALL = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 2,
    "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 256, "max_position_embeddings": 512,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "group", "tp", "words"),
    [
        pytest.param({}, 128, 1, None, id="one rank"),
        pytest.param({}, 128, 4, None, id="four ranks"),
        pytest.param(
            {"head_dim": 72},
            128,
            4,
            "value 1728 is no multiple of 512, .* 1152 is no multiple of 512(?s:.*)awq_group_size 64 with tp_size 1",
            id="narrow heads",
        ),
        pytest.param({"hidden_size": 576, "head_dim": 64}, 64, 2, "hidden size 576 .* 128", id="hidden size by ranks"),
        pytest.param({"hidden_size": 576, "head_dim": 64}, 64, 1, None, id="hidden size"),
        pytest.param({"intermediate_size": 4128}, 64, 1, "MLP 4128(?s:.*)target vllm or openvino", id="nothing fits"),
    ],
)
def test_dimensions_are_shared_as_upstream_asserts_it(
    changes: dict[str, int], group: int, tp: int, words: str | None
) -> None:
    config = ModelConfig.parse(json.dumps(SMALL | changes), where="org/model")
    request = ReleaseRequest(target="tensorrt_llm", awq_group_size=group, tp_size=tp)
    with pytest.raises(UserError, match=words) if words else nullcontext():
        engines.check_dimensions(request, config)


def test_a_format_without_groups_is_shared_whatever_the_group_size_says() -> None:
    config = ModelConfig.parse(json.dumps(SMALL | {"hidden_size": 576, "head_dim": 64}), where="org/model")
    request = ReleaseRequest(target="tensorrt_llm", quantization="fp8", awq_group_size=128)
    engines.check_dimensions(request, config)
    with pytest.raises(UserError, match="hidden size 576"):
        engines.check_dimensions(request.model_copy(update={"quantization": "int4_awq"}), config)


def test_a_vocabulary_with_gaps_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, sentencepiece=False)
    path = tmp_path / "tokenizer.json"
    fields = json.loads(path.read_text())
    last = max(fields["model"]["vocab"].items(), key=itemgetter(1))
    fields["model"]["vocab"][last[0]] = last[1] + 8
    path.write_text(json.dumps(fields))
    target = TensorRTLLMTarget(Settings(artifacts=tmp_path / "store", runner="docker"))
    with pytest.raises(UserError, match=f"8 ids .* no token, {last[1]} for instance") as refused:
        target.check_tokenizer(ReleaseRequest(target="tensorrt_llm"), tmp_path)
    assert "vllm or openvino" in str(refused.value)


def test_an_end_token_beyond_the_tokenizer_leaves_a_gap(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, sentencepiece=False)
    size = len(json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"])
    for end, refused in ((size, False), (size + 2, True)):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, end]}))
        with pytest.raises(UserError, match=f"2 ids .* no token, {size} ") if refused else nullcontext():
            engines.check_vocabulary(tmp_path)


@pytest.mark.parametrize(
    ("file", "fields", "refused"),
    [
        pytest.param("tokenizer_config.json", {}, True, id="nowhere"),
        pytest.param("tokenizer_config.json", {"eos_token": "e"}, False, id="tokenizer"),
        pytest.param("generation_config.json", {"eos_token_id": [1, 2]}, False, id="generation config"),
        pytest.param("config.json", {"eos_token_id": 2}, False, id="config"),
    ],
)
def test_a_model_without_an_end_token_is_refused(
    tmp_path: Path, file: str, fields: dict[str, object], refused: bool
) -> None:
    (tmp_path / file).write_text(json.dumps(fields))
    with pytest.raises(UserError, match="no token that ends a text") if refused else nullcontext():
        engines.check_end(tmp_path)


def test_a_model_without_a_tokenizer_json_is_left_to_the_gate(tmp_path: Path) -> None:
    engines.check_pieces(tmp_path)
