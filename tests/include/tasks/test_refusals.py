"""Models that cannot become a release are refused by their small files and headers, in a directory and on the Hub."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from include.context import Context
from include.errors import UserError
from include.settings import Settings
from include.stages.calibrate.source import SourceModel
from include.tasks import check_request
from tests.include.tasks.test_check_request import SMALL
from tests.support import tiny_files as tiny
from tests.support.hub_server import HubServer, Repo

WEIGHTS, CONFIG, SETTINGS = "model.safetensors", "config.json", "tokenizer_config.json"
INDEX = "model.safetensors.index.json"
LAYER = "model.layers.0.mlp.up_proj"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
SENTENCEPIECE = b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02"
TIKTOKEN = b"".join(base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(200))

Files = dict[str, bytes]
Spoil = Callable[[Files], Any]


def config(**fields: Any) -> Spoil:
    """Changes fields of config.json; None takes one away."""
    changed = {name: value for name, value in {**tiny.CONFIG, **fields}.items() if value is not None}
    return lambda files: files.update({CONFIG: json.dumps(changed).encode()})


def put(**content: bytes) -> Spoil:
    return lambda files: files.update({name.replace("__", "."): text for name, text in content.items()})


def only(*keep: str, **more: bytes) -> Spoil:
    """The files ``keep`` alone, and others of these names."""

    def change(files: Files) -> None:
        for name in files.keys() - set(keep):
            del files[name]
        put(**more)(files)

    return change


def settings(**fields: Any) -> Spoil:
    return put(tokenizer_config__json=json.dumps(fields).encode())


def tensors(without: tuple[str, ...] = (), dtypes: dict[str, str] | None = None, **shapes: tuple[int, ...]) -> Spoil:
    """Weights with other tensors; ``__`` in a name stands for a dot."""
    changed = {name: shape for name, shape in tiny.SHAPES.items() if name not in without}
    changed |= {name.replace("__", "."): shape for name, shape in shapes.items()}
    return lambda files: files.update({WEIGHTS: tiny.safetensors(changed, dtypes or {})})


def quantized(*parts: str, dtype: str) -> Spoil:
    names = [f"{LAYER}.{part}" for part in parts]
    shapes = dict.fromkeys(names, (64, 16))
    return tensors((f"{LAYER}.weight",), dict.fromkeys(names, dtype), **shapes)


def both(*changes: Spoil) -> Spoil:
    return lambda files: [change(files) for change in changes]


def sharded(change: Spoil) -> Spoil:
    def all_of(files: Files) -> None:
        files.clear()
        files.update(tiny.sharded_model())
        change(files)

    return all_of


def tokenizer_model(content: bytes, **fields: Any) -> Spoil:
    return both(lambda files: files.pop("tokenizer.json"), put(tokenizer__model=content), settings(**fields))


def named(form: str) -> Spoil:
    """The same weights under other names."""
    shapes = {form.format(name.removeprefix("model.")): shape for name, shape in tiny.SHAPES.items()}
    return lambda files: files.update({WEIGHTS: tiny.safetensors(shapes)})


def of_framework(name: bytes) -> Spoil:
    written = (b'"format":"%s"' % name).ljust(14)
    return lambda files: files.update({WEIGHTS: files[WEIGHTS].replace(b'"format": "pt"', written)})


def index(**fields: Any) -> Spoil:
    """Changes fields of the index; None takes one away."""

    def change(files: Files) -> None:
        known = {**json.loads(files[INDEX]), **fields}
        files[INDEX] = json.dumps({name: value for name, value in known.items() if value is not None}).encode()

    return sharded(change)


def bias_of(architecture: str, bias: str = "model__layers__0__self_attn__o_proj__bias") -> Spoil:
    name = architecture.removesuffix("ForCausalLM").lower()
    fields = {"architectures": [architecture], "model_type": name, "attention_bias": True, "mlp_bias": True}
    fields |= {"max_window_layers": 0, "head_dim": 16}
    return both(config(**fields), tensors(**{bias: (64,)}))


UNQUANTIZED, MERGE = "name the unquantized model", "merge it into its base model"
SAVE_JSON = "save its tokenizer with a tokenizer.json"

BY_WEIGHTS = {
    "FP8": (tensors(dtypes={f"{LAYER}.weight": "F8_E4M3"}), r"quantized already \(FP8\)", UNQUANTIZED),
    "FP8 E5M2": (tensors(dtypes={f"{LAYER}.weight": "F8_E5M2"}), r"quantized already \(FP8\)", UNQUANTIZED),
    "FP8 with scales": (quantized("weight", "weight_scale_inv", dtype="F8_E4M3"), "quantized already", UNQUANTIZED),
    "NVFP4": (quantized("weight", "weight_scale", "weight_scale_2", dtype="U8"), "quantized already", UNQUANTIZED),
    "FP4": (tensors(dtypes={f"{LAYER}.weight": "U8"}, without=()), r"quantized already \(four bits", UNQUANTIZED),
    "GPTQ": (quantized("qweight", "qzeros", "scales", "g_idx", dtype="I32"), r"\(GPTQ or AWQ\)", UNQUANTIZED),
    "AWQ": (quantized("qweight", "qzeros", "scales", dtype="I32"), r"\(GPTQ or AWQ\)", UNQUANTIZED),
    "AWQ scales first": (quantized("scales", "qweight", dtype="F16"), r"\(GPTQ or AWQ\)", UNQUANTIZED),
    "INT8": (tensors(dtypes={f"{LAYER}.weight": "I8"}), r"quantized already \(INT8\)", UNQUANTIZED),
    "bitsandbytes 4": (
        quantized("weight", "weight.absmax", "weight.quant_state.bitsandbytes__nf4", dtype="U8"),
        "quantized already",
        UNQUANTIZED,
    ),
    "bitsandbytes 8": (quantized("weight", "SCB", dtype="I8"), "quantized already", UNQUANTIZED),
    "compressed": (quantized("weight_packed", "weight_shape", dtype="I32"), "compressed-tensors", UNQUANTIZED),
    "an adapter's weights": (quantized("lora_A.weight", "lora_B.weight", dtype="F32"), "adapter", MERGE),
    "an adapter not merged": (quantized("base_layer.weight", dtype="F16"), "adapter", MERGE),
    "stale vocab_size": (config(vocab_size=250), "256 x 64 .* it has 250 x 64", "vocab_size"),
    "vocab_size too large": (config(vocab_size=320), "256 x 64 .* it has 320 x 64", "vocab_size"),
    "stale MLP": (config(intermediate_size=192), "128 .* it has .*192", "intermediate_size"),
    "stale heads": (config(num_key_value_heads=4), "32 x 64 .* it has 64 x 64", "num_key_value_heads"),
    "no output layer": (tensors(("lm_head.weight",)), "lack the output layer", "tie_word_embeddings"),
    "no layer": (tensors((f"{LAYER}.weight",)), f"lack 1 weights, {LAYER}", "download"),
    "another layer": (config(num_hidden_layers=1), "does not speak of", "of one save"),
    "biases": (tensors(model__layers__0__self_attn__q_proj__bias=(64,)), "does not speak of", "attention_bias"),
    "biases that a Mistral never has": (bias_of("MistralForCausalLM"), "does not speak of", "has no such bias"),
    "a norm of another size": (
        tensors(model__layers__1__input_layernorm__weight=(65,)),
        "shape 65 .* it has 64",
        "correct hidden_size",
    ),
    "a scalar as norm": (tensors(model__norm__weight=()), "shape of a single number", "correct hidden_size"),
    "a bias of another size": (
        both(
            config(attention_bias=True),
            tensors(
                **{
                    f"model__layers__{layer}__self_attn__{name}_proj__bias": (32 if name in "kv" else 64 + layer,)
                    for layer in (0, 1)
                    for name in "qkvo"
                }
            ),
        ),
        "shape 65 .* it has 64",
        "num_attention_heads",
    ),
    "the bare decoder": (named("{}"), "begin with '' in place of 'model.'", "AutoModelForCausalLM"),
    "a wrapped model": (named("module.model.{}"), "begin with 'module.model.' in place", "what wraps it"),
    "a part of a larger model": (named("language_model.model.{}"), "begin with 'language_model.model.'", "wraps it"),
    "of another framework": (of_framework(b"np"), "format np, and transformers needs pt", "save the model again"),
    "a tensor in two shards": (
        sharded(lambda files: files.update({"model-00002-of-00002.safetensors": tiny.safetensors(tiny.SHAPES)})),
        "00002.safetensors holds the tensor lm_head.weight that .* does not name for it",
        "of one save",
    ),
    "a tensor that the index does not name": (
        index(
            weight_map={
                name: f"model-0000{1 if name == 'lm_head.weight' else 2}-of-00002.safetensors"
                for name in tiny.SHAPES
                if name != f"{LAYER}.weight"
            }
        ),
        f"00002.safetensors holds the tensor {LAYER}.weight that .* does not name",
        "of one save",
    ),
    "an index without metadata": (index(metadata=None), "no object metadata", "repair the model's index"),
    "a pointer": (put(model__safetensors=POINTER), "Git LFS pointer", "git lfs pull"),
    "pointers as shards": (
        sharded(lambda files: files.update(dict.fromkeys([n for n in files if "-of-" in n], POINTER))),
        "Git LFS pointer",
        "git lfs pull",
    ),
    "empty": (put(model__safetensors=b""), "not a valid safetensors file", "get the file again"),
    "truncated": (lambda files: files.update({WEIGHTS: files[WEIGHTS][:-9]}), "not a valid safetensors", "again"),
    "a page": (put(model__safetensors=b"<html>" + b"." * 200), "not a valid safetensors file", "again"),
}
BY_CONFIG = {
    "awq config": (config(quantization_config={"quant_method": "awq"}), r"already \(awq\)", UNQUANTIZED),
    "bitsandbytes config": (
        config(quantization_config={"load_in_4bit": True, "quant_method": "bitsandbytes"}),
        r"already \(bitsandbytes\)",
        UNQUANTIZED,
    ),
    "no model_type": (config(model_type=None), 'no "model_type"', '"model_type": "llama"'),
    "custom model_type": (config(model_type="my_llama"), "model_type 'my_llama'", '"model_type": "llama"'),
    "custom code": (
        config(architectures=["MyForCausalLM"], model_type="my", auto_map={"AutoModelForCausalLM": "m.My"}),
        "code of its own in the repository, which is never run",
        "a class that transformers has",
    ),
    "longrope": (config(rope_scaling={"type": "longrope", "factor": 4.0}), "longrope is not supported", "yarn"),
    "llama3 rope in part": (
        config(rope_scaling={"rope_type": "llama3", "factor": 8.0}),
        "needs .*low_freq_factor",
        "complete",
    ),
    "a rope without a type": (config(rope_scaling={"factor": 8.0}), "a factor and no rope_type", "complete"),
    "a reward model's head": (
        tensors(score__weight=(1, 64)),
        "does not speak of, score.weight|score.weight",
        "of one save",
    ),
    "su rope": (config(rope_scaling={"type": "su", "factor": 4.0}), "su is not supported", "yarn"),
    "mrope": (config(rope_scaling={"type": "mrope", "mrope_section": [1]}), "mrope is not supported", "yarn"),
    "rope for each kind of layer": (
        config(rope_parameters={"full_attention": {"rope_type": "yarn", "factor": 4.0}}),
        "each kind of layer",
        "yarn",
    ),
    "encoder-decoder": (
        config(architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True),
        "an encoder-decoder",
        "decoder-only",
    ),
    "images": (
        config(architectures=["LlavaForConditionalGeneration"], text_config={}, vision_config={}),
        "for images or sound",
        "text model",
    ),
    "experts": (config(architectures=["MixtralForCausalLM"], num_local_experts=8), "mixture of experts", "dense"),
    "experts of DeepSeek": (config(n_routed_experts=64), "mixture of experts", "dense"),
    "a classifier": (config(architectures=["LlamaForSequenceClassification"]), "generates text", "ForCausalLM"),
    "an embedding model": (config(architectures=["MistralModel"]), "generates text", "ForCausalLM"),
    "a list": (put(config__json=b"[]"), "config.json", "config.json|model directory|repair"),
    "empty": (put(config__json=b""), "config.json", "config.json|model directory|repair"),
    "no UTF-8": (put(config__json=b'{"a": "\xff"}'), "config.json", "config.json|model directory|repair"),
    "a pointer": (put(config__json=POINTER), "config.json", "git lfs pull|config.json"),
    "end ids as strings": (put(generation_config__json=b'{"eos_token_id": "2"}'), "eos_token_id", "repair"),
    "a list of them": (put(generation_config__json=b'{"eos_token_id": ["2"]}'), "eos_token_id", "repair"),
    "in config.json": (config(eos_token_id="2"), "eos_token_id", "repair"),
    "beyond the model": (put(generation_config__json=b'{"eos_token_id": [0, 256]}'), "beyond the 256", "repair"),
    "no end token": (
        put(generation_config__json=b"{}"),
        "no file of the model names a token that ends",
        "eos_token_id",
    ),
}
BY_FILES = {
    "an adapter": (only(adapter_config__json=b"{}", adapter_model__safetensors=b""), "no config.json", "PEFT"),
    "an adapter with a config": (
        only(CONFIG, "tokenizer.json", adapter_config__json=b"{}", adapter_model__safetensors=b""),
        "no safetensors weights",
        "PEFT",
    ),
    "GGUF": (only(**{"model-Q4_K_M__gguf": b"GGUF"}), "no config.json", "GGUF"),
    "NeMo": (only(**{"model__nemo": b"x"}), "no config.json", "archive of NeMo"),
    "ONNX": (only(CONFIG, "tokenizer.json", model__onnx=b"x"), "no safetensors weights", "exported from"),
    "TensorFlow": (only(CONFIG, "tokenizer.json", tf_model__h5=b"x"), "no safetensors weights", "from_tf=True"),
    "Flax": (only(CONFIG, "tokenizer.json", flax_model__msgpack=b"x"), "no safetensors", "from_flax=True"),
    "a model further down": (only(**{"hf/config__json": b"{}"}), "no config.json", "there is one in hf: name that"),
    "a cache of the Hub": (
        only(**{"snapshots/0a/config__json": b"{}"}),
        "no config.json",
        "there is one in snapshots/0a: name that",
    ),
    "GGUF with a config": (only(CONFIG, "tokenizer.json", a__gguf=b"GGUF"), "no safetensors weights", "GGUF"),
    "Meta's form": (only(params__json=b"{}", consolidated__00__pth=b"x"), "no config.json", "convert"),
    "Mistral's form": (
        only(CONFIG, "tokenizer.json", consolidated__safetensors=b"x", params__json=b"{}"),
        "no safetensors weights",
        "convert",
    ),
    "pickled": (only(CONFIG, "tokenizer.json", pytorch_model__bin=b"x"), "no safetensors", "safe_serialization"),
    "pickled shards": (
        only(CONFIG, "tokenizer.json", **{"pytorch_model-00001-of-00002__bin": b"x"}),
        "no safetensors",
        "safe_serialization",
    ),
    "shards without an index": (
        sharded(lambda files: files.pop("model.safetensors.index.json")),
        "no safetensors weights",
        "lack their model.safetensors.index.json",
    ),
    "a missing shard": (
        sharded(lambda files: files.pop("model-00002-of-00002.safetensors")),
        "names shards that are not there: model-00002-of-00002",
        "complete the upload",
    ),
    "an adapter beside the model": (
        put(adapter_config__json=b"{}", adapter_model__safetensors=b"x"),
        "an adapter lies beside the model",
        MERGE,
    ),
    "a model of embeddings": (
        put(config_sentence_transformers__json=b"{}", modules__json=b"[]"),
        "makes vectors of texts",
        "text generation",
    ),
    "an absolute shard": (
        index(weight_map={"lm_head.weight": "/etc/model.safetensors"}),
        "not a path inside",
        "repair",
    ),
    "a shard above": (index(weight_map={"lm_head.weight": "../model.safetensors"}), "not a path inside", "repair"),
    "a shard without a name": (
        sharded(lambda files: files.update({"model-00003-of-00002.safetensors": b""})),
        "does not name model-00003-of-00002",
        "of one save",
    ),
    "quantized, by a file": (put(quantize_config__json=b"{}"), "has a quantize_config.json", UNQUANTIZED),
    "quantized by ModelOpt": (put(hf_quant_config__json=b"{}"), "has a hf_quant_config.json", UNQUANTIZED),
    "tekken": (only(CONFIG, WEIGHTS, tekken__json=b"{}"), "no tokenizer", "tekken.json only"),
    "a pointer as tokenizer": (put(tokenizer__json=POINTER), "tokenizer.json is a Git LFS pointer", "git lfs pull"),
    "a damaged tokenizer": (put(tokenizer__json=b'{"model": {}}'), "tokenizer.json cannot be read", "again"),
    "a larger tokenizer": (
        put(
            tokenizer__json=tiny.TOKENIZER.replace(
                b'"word"', b",".join(b'"w%d": %d' % (i, i) for i in range(2, 300)) + b', "word"'
            )
        ),
        "the tokenizer has 300 tokens, the model only 256",
        "belongs to the model",
    ),
    "an unknown end token": (settings(eos_token="</s>"), "eos_token '</s>' is no token", "repair"),
    "a tokenizer of its own": (
        tokenizer_model(SENTENCEPIECE, auto_map={"AutoTokenizer": ["t.T", None]}),
        "code in the repository, which is never run",
        SAVE_JSON,
    ),
    "an unknown tokenizer": (tokenizer_model(SENTENCEPIECE, tokenizer_class="MyTokenizer"), "MyTokenizer", SAVE_JSON),
    "tiktoken of transformers 5": (
        tokenizer_model(TIKTOKEN, tokenizer_class="TokenizersBackend"),
        "tokenizer_config.json is of transformers 5",
        SAVE_JSON,
    ),
    "SentencePiece of transformers 5": (
        tokenizer_model(SENTENCEPIECE, tokenizer_class="LlamaTokenizer", extra_special_tokens=["<x>"]),
        "tokenizer_config.json is of transformers 5",
        SAVE_JSON,
    ),
    "neither form": (tokenizer_model(b"\x00 what is this"), "neither a SentencePiece model nor tiktoken", "again"),
    "a pointer as tokenizer.model": (tokenizer_model(POINTER), "Git LFS pointer", "git lfs pull"),
    "no merges": (both(lambda files: files.pop("tokenizer.json"), put(vocab__json=b"{}")), "merges.txt", SAVE_JSON),
}
BY_TEMPLATE = {
    "named": (
        settings(chat_template=[{"name": "rag", "template": "x"}]),
        "the chat templates rag, and none named default",
    ),
    "named, in a folder": (
        lambda files: files.update({"additional_chat_templates/tool_use.jinja": b"x"}),
        "the chat templates tool_use, and none named default",
    ),
    "no Jinja": (put(chat_template__jinja=b"{% for m in %}"), "makes no prompt of a user's message"),
    "refuses": (put(chat_template__jinja=b"{{ raise_exception('a system prompt first') }}"), "a system prompt first"),
    "unknown filter": (settings(chat_template="{{ messages | nothing }}"), "makes no prompt"),
    "fails": (settings(chat_template="{{ messages[3].content.x }}"), "makes no prompt"),
    "of parts of a message": (
        settings(chat_template="{% for part in messages[0].content %}{{ part.text }}{% endfor %}"),
        "the message is not in its text",
    ),
    "no end": (settings(chat_template="{% for i in range(99999999) %}{{ i * 'x' }}{% endfor %}"), "makes no prompt"),
}


def cases(**kinds: dict[str, Any]) -> Any:
    params = [pytest.param(*row, id=f"{kind}: {name}") for kind, rows in kinds.items() for name, row in rows.items()]
    return pytest.mark.parametrize(("spoil", "what", "fix"), params)


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    server = HubServer()
    yield server
    server.close()


@pytest.fixture
def online(context: Context, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Context:
    hub.requests.clear()
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    return replace(context, settings=Settings())


def refused(context: Context, model: Path | str, **params: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        check_request.run(context, {"model": str(model), **SMALL, **params})
    assert not list(context.settings.artifacts.rglob("*"))
    return caught.value


@cases(weights=BY_WEIGHTS, config=BY_CONFIG, files=BY_FILES)
def test_what_the_files_say_is_refused_in_a_directory_and_on_the_hub(
    online: Context, hub: HubServer, tmp_path: Path, spoil: Spoil, what: str, fix: str
) -> None:
    files = tiny.model()
    spoil(files)
    here = refused(online, tiny.write(files, tmp_path / "model"))
    hub.add(Repo("org/name", files))
    there = refused(online, "org/name")
    for error in (here, there):
        assert re.search(what, error.what), error
        assert re.search(fix, error.fix), error
        assert error.where.startswith("field model")


@cases(weights=BY_WEIGHTS, config=BY_CONFIG)
def test_calibrate_refuses_the_same_before_it_loads_weights(tmp_path: Path, spoil: Spoil, what: str, fix: str) -> None:
    files = tiny.model()
    spoil(files)
    with pytest.raises(UserError, match=what):
        SourceModel.read(tiny.write(files, tmp_path / "model"))


@pytest.mark.parametrize(("spoil", "what"), BY_TEMPLATE.values(), ids=BY_TEMPLATE)
def test_a_chat_template_that_makes_no_prompt_is_refused_if_it_is_used(
    context: Context, tmp_path: Path, spoil: Spoil, what: str
) -> None:
    files = tiny.model()
    spoil(files)
    model = tiny.write(files, tmp_path / "model")
    error = refused(context, model)
    assert what in error.what
    assert "set chat_template to off" in error.fix
    checked = check_request.run(context, {"model": str(model), **SMALL, "chat_template": "off"})
    assert checked.source.id == str(model)


ACCEPTED = {
    "merged, with what was left of its adapter": put(adapter_config__json=b"{}"),
    "a model for text that makes vectors, too": put(config_sentence_transformers__json=b"{}"),
    "SentencePiece alone": tokenizer_model(SENTENCEPIECE, tokenizer_class="LlamaTokenizer", add_prefix_space=True),
    "tiktoken alone": tokenizer_model(TIKTOKEN, tokenizer_class="PreTrainedTokenizerFast"),
    "a class that nobody knows, with a tokenizer.json": settings(
        tokenizer_class="MyTokenizer", auto_map={"AutoTokenizer": ["my.MyTokenizer", None]}
    ),
    "other files beside the model": put(
        consolidated__safetensors=b"x", pytorch_model__bin=b"x", a__gguf=b"x", tekken__json=b"{}"
    ),
    "another set of shards": put(**{"model-00001-of-00004__safetensors": b"x"}),
    "shards": sharded(lambda files: None),
    "tied without an output layer": both(config(tie_word_embeddings=True), tensors(("lm_head.weight",))),
    "an end token of the tokenizer": both(
        put(generation_config__json=b"{}"), settings(eos_token={"content": "<end>", "lstrip": False})
    ),
    "an end token of config.json": both(put(generation_config__json=b"{}"), config(eos_token_id=0)),
    "code that is not needed": config(auto_map={"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"}),
    "a default template among others": both(
        settings(chat_template=[{"name": "default", "template": "{{ messages[0].content }}"}]),
        lambda files: files.update({"additional_chat_templates/rag.jinja": b"{% broken"}),
    ),
    "a field for biases that its class has not": config(
        architectures=["MistralForCausalLM"], model_type="mistral", attention_bias=True, mlp_bias=True
    ),
    "weights that MLX wrote": of_framework(b"mlx"),
    "null for false": put(
        config__json=json.dumps(
            {**tiny.CONFIG, "tie_word_embeddings": None, "attention_bias": None, "use_sliding_window": None}
        ).encode()
    ),
    "old buffers": tensors(
        dtypes={"model.layers.0.self_attn.rotary_emb.inv_freq": "F32"},
        **{"model.layers.0.self_attn.rotary_emb.inv_freq": (8,)},
    ),
}


@pytest.mark.parametrize("spoil", ACCEPTED.values(), ids=ACCEPTED)
def test_a_model_that_can_be_calibrated_is_accepted_from_both(
    online: Context, hub: HubServer, tmp_path: Path, spoil: Spoil
) -> None:
    files = tiny.model()
    spoil(files)
    here = check_request.run(online, {"model": str(tiny.write(files, tmp_path / "model")), **SMALL})
    hub.add(Repo("org/name", files))
    there = check_request.run(online, {"model": "org/name", **SMALL})
    assert [file.path for file in here.source.files] == [file.path for file in there.source.files]


def test_a_long_header_is_read_to_its_end_and_no_weights_are(
    online: Context, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("include.sources.hub_headers._FIRST", 1 << 10)
    hub.add(Repo("org/name", tiny.model()))
    check_request.run(online, {"model": "org/name", **SMALL})
    length = 8 + int.from_bytes(tiny.model()[WEIGHTS][:8], "little")
    asked = [
        request.range for request in hub.requests if request.path.endswith(WEIGHTS) and "/storage/" in request.path
    ]
    assert asked == ["bytes=0-1023", f"bytes=1024-{length - 1}"]
