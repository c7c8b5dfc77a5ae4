"""Models and tokenizers from a local directory, never with code of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - runs only in a target's environment

from include.errors import HostError, UserError
from include.model.architectures import ARCHITECTURES, Architecture
from include.model.files import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from include.model.generation import end_ids
from include.model.tokenizer import TokenizerFacts
from include.model.vocabulary import read_tokenizer
from include.stages.calibrate.source import SourceModel
from include.stages.common import has_native_bfloat16


def compute_dtype(device: str, dtype: str) -> torch.dtype:
    """The type to calibrate in: as asked on a GPU; on a CPU bfloat16 where it is native, else float32.

    float16 runs ten times slower than bfloat16 on CPUs without instructions for it.
    """
    if device == "cuda" or dtype == "float32":
        return getattr(torch, dtype)
    return torch.bfloat16 if has_native_bfloat16() else torch.float32


def load_model(source: SourceModel, device: str, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """The `transformers` model in evaluation mode, over all visible GPUs if there is more than one.

    Raises:
        HostError: there is no GPU, or too little memory.
        UserError: the files lack weights of the model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    row = ARCHITECTURES[source.config.architecture]
    try:
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
        # transformers 4.57 does not see the base in a config of transformers 5 and would use 10000.
        config.rope_theta, config.rope_scaling = source.config.rope_theta, source.config.rope_scaling
        config.max_position_embeddings = source.config.max_position_embeddings
        if source.config.local_rope_theta is not None:
            config.rope_local_base_freq = source.config.local_rope_theta
        # No answer depends on it, and one beyond the vocabulary would make no embedding.
        config.pad_token_id = None
        model, found = AutoModelForCausalLM.from_pretrained(
            source.folder,
            output_loading_info=True,
            config=config,
            dtype=dtype,
            device_map=device_map(device),
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="eager" if row.caps_scores else None,
            # Not the model's own: its penalties and bans, which no endpoint applies, would change greedy answers, too.
            generation_config=GenerationConfig(eos_token_id=list(end_ids(source.folder)) or None),
        )
    except torch.OutOfMemoryError as error:
        raise _too_large(source) from error
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        # Those of PyTorch besides are of the device; those of transformers of a field that only it reads.
        if isinstance(error, RuntimeError) and "size mismatch" not in str(error):
            raise
        raise UserError(
            f"transformers cannot load the model: {type(error).__name__}: {error}",
            where=f"field model: {source.folder}",
            fix="get config.json and the weights of one save, as transformers writes them",
        ) from error
    if lost := sorted(found["missing_keys"]):
        raise UserError(
            f"transformers finds no weights for {lost[0]}, and would take random ones",
            where=f"field model: {source.folder}",
            fix="get the weights and their index of one save",
        )
    # With "auto", what the GPUs cannot hold goes to the host, where a calibration would take hours.
    if device == "cuda" and {"cpu", "disk"} & {str(place) for place in model.hf_device_map.values()}:
        raise _too_large(source)
    return (_unfused(model, row) if row.fused else model).eval()


def _unfused(model: Any, row: Architecture) -> Any:  # noqa: ANN401
    """The model as the class without fused layers that computes the same; its weights are views of the old ones."""
    import transformers
    from accelerate import dispatch_model, init_empty_weights

    model_class = getattr(transformers, row.exported_as)
    known = model_class.config_class().to_dict().keys() - {"model_type", "architectures"}
    fields = {name: value for name, value in model.config.to_dict().items() if name in known}
    with init_empty_weights(include_buffers=False):
        plain = model_class(model_class.config_class(architectures=[row.exported_as], **fields))
    rows = {name: len(parameter) for name, parameter in plain.named_parameters()}
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        fused = next((fused for fused in row.fused if name.endswith(f".{fused}.weight")), "")
        names = [name.replace(fused, part) for part in row.fused.get(fused, ("",))]
        state |= dict(zip(names, tensor.split([rows.get(part, len(tensor)) for part in names]), strict=True))
    plain.load_state_dict(state, assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return dispatch_model(plain, dict(model.hf_device_map))


def device_map(device: str) -> str:
    """The device map for `from_pretrained`; raises `HostError` when there is no GPU but one is asked for."""
    if device == "cuda":
        if not torch.cuda.is_available():
            raise HostError("PyTorch sees no GPU", where="device cuda", fix="run on a GPU host, or use device cpu")
        return "auto" if torch.cuda.device_count() > 1 else "cuda:0"
    return "cpu"


def _too_large(source: SourceModel) -> HostError:
    return HostError(
        f"the model ({source.weight_bytes / 2**30:.1f} GiB of weights) does not fit the visible GPUs' memory",
        where="device cuda",
        fix="stop what else uses the GPUs, make more of them visible, or use a smaller model",
    )


def load_tokenizer(folder: Path, vocab_size: int | None = None) -> Any:  # noqa: ANN401
    """The tokenizer of a model directory, all of it in its ``tokenizer.json`` and of the class that adds nothing.

    So whoever serves it needs neither SentencePiece nor tiktoken, and cannot tokenize in another way. Added tokens
    from ``vocab_size`` on, which the model has no weights for, and those that only a setting names are left out: a
    text that has one is a text.

    Raises:
        UserError: there is none that can be read.
    """
    try:
        facts = TokenizerFacts.read(folder)
        read = _by_its_class(folder) if _is_known(facts) else _by_its_file(folder, facts)
        tokenizer = _plain(read, _unlearned(read, folder, facts, vocab_size))
    except Exception as error:  # tokenizers has no class of its own, transformers fails as it goes through the fields
        raise UserError(
            f"the tokenizer cannot be read: {error.what if isinstance(error, UserError) else error}",
            where=f"field model: {folder}",
            fix=f"the model directory needs {TOKENIZER_FILE} and {TOKENIZER_CONFIG_FILE}",
        ) from error
    _check_added(
        tokenizer, {n: token for n, token in facts.added.items() if not _is_beyond(int(n), vocab_size)}, folder
    )
    return tokenizer


def _is_known(facts: TokenizerFacts) -> bool:
    """False for a class of transformers 5, or of the repository's own code."""
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    named = facts.tokenizer_class
    known = named is None or any(tokenizer_class_from_name(name) for name in (named, f"{named}Fast"))
    return known and not facts.of_transformers_5


def _by_its_class(folder: Path) -> Any:  # noqa: ANN401
    """As transformers reads it; it converts what has no tokenizer.json, and what asks for a space in front."""
    from transformers import AutoTokenizer

    # Left over from training, where texts end: nothing can follow a prompt that does.
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, add_eos_token=False)
    if not tokenizer.is_fast:
        raise ValueError(f"no {TOKENIZER_FILE} can be made of a {type(tokenizer).__name__}")
    return tokenizer


def _by_its_file(folder: Path, facts: TokenizerFacts) -> Any:  # noqa: ANN401
    """The tokenizer.json says how to tokenize; the rest are names of tokens."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / TOKENIZER_FILE),
        additional_special_tokens=list(facts.extra_special_tokens),
        **facts.named,
    )


def _plain(tokenizer: Any, without: set[str]) -> Any:  # noqa: ANN401
    """The same tokens, names and templates without a class that would do more than its tokenizer.json says."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = tokenizer.backend_tokenizer
    fields = json.loads(backend.to_str())
    if without:
        fields["added_tokens"] = [one for one in fields["added_tokens"] if one["content"] not in without]
        backend = Tokenizer.from_str(json.dumps(fields))
    named = {
        name: [one for one in token if one not in without] if isinstance(token, list) else token
        for name, token in tokenizer.special_tokens_map.items()
        if isinstance(token, list) or token not in without
    }
    splitter = fields["pre_tokenizer"] or {}
    # The class would take the space away that its pre-tokenizer puts in front.
    space = {"add_prefix_space": True} if splitter.get("add_prefix_space") else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        # Servers decode by tokenizer.json alone: transformers' own clean-up, which Llama 3 asks for, would take spaces
        # out of what the reference says, and the answers of a right engine would not be equal.
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        chat_template=tokenizer.chat_template,
        **space,
        **named,
    )


def _unlearned(tokenizer: Any, folder: Path, facts: TokenizerFacts, vocab_size: int | None) -> set[str]:  # noqa: ANN401
    """The added tokens that the model has no weights for, or that transformers made because a setting names them."""
    file = folder / TOKENIZER_FILE
    known = {*read_tokenizer(folder).get_vocab(), *facts.added.values()} if file.exists() else None
    added: dict[str, int] = tokenizer.get_added_vocab()
    return {
        token
        for token, number in added.items()
        if _is_beyond(number, vocab_size) or (known is not None and token not in known)
    }


def _is_beyond(number: int, vocab_size: int | None) -> bool:
    return vocab_size is not None and number >= vocab_size


def _check_added(tokenizer: Any, added: Mapping[str, str], folder: Path) -> None:  # noqa: ANN401
    """Raises `UserError` where a token has another id than the model learned it by."""
    for number, token in added.items():
        if (found := tokenizer.convert_tokens_to_ids(token)) != int(number):
            raise UserError(
                f"the token {token!r} gets the id {found}, by {TOKENIZER_CONFIG_FILE} it has {number}",
                where=f"field model: {folder}",
                fix=f"get {TOKENIZER_FILE} (or tokenizer.model) and {TOKENIZER_CONFIG_FILE} of one save",
            )
