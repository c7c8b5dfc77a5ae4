"""Calibration on one GPU host: ours against upstream's default, with the forward-pass floor, in one go.

    PYTHONPATH=. python benchmarks/calibrate.py --shape llama-2-7b --work /tmp/bench

Runs in the target's environment (torch, transformers 4.57, nvidia-modelopt 0.37) and starts the calibrate program
itself, with random float16 weights of the shape asked for: the time does not depend on their values.
The baseline is what TensorRT-LLM's quantize.py does by default: ModelOpt's search with one sample at a time through
the whole model, then ModelOpt's export (tensorrt_llm/quantization/quantize_by_modelopt.py).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch  # noqa: TID253 - runs only in the target's environment

FORWARDS = 13  # awq_lite: one to gather statistics, eleven to search alpha, one to check
LENGTH, GROUP = 512, 128

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Shape:
    """A Llama's dimensions."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int


SHAPES = {
    "llama-2-7b": Shape(4096, 11008, 32, 32, 32),
    "llama-2-13b": Shape(5120, 13824, 40, 40, 40),
    "llama-2-70b": Shape(8192, 28672, 80, 64, 8),
    "tiny": Shape(256, 512, 2, 4, 2),
}


def make_model(shape: Shape, path: Path) -> None:
    """Writes a model of that shape: random weights, and a tokenizer of single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*alphabet, "</s>"])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(path)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
        eos_token_id=len(alphabet),
        architectures=["LlamaForCausalLM"],
    )
    torch.manual_seed(0)
    config.dtype = torch.float16
    config.save_pretrained(path)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    _write_weights(model, path)


def _write_weights(model: torch.nn.Module, path: Path) -> None:
    """A file for each layer, so that never more than one layer is on the GPU."""
    from include.stages.calibrate import rank_file

    shards: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        shards.setdefault(_layer(name), []).append(name)
    for layer, names in shards.items():
        rank_file.save({n: _weight(n, model.get_parameter(n)) for n in names}, path / layer)
    files = {name: layer for layer, names in shards.items() for name in names}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def _layer(name: str) -> str:
    """The file of a weight."""
    parts = name.split(".")
    number = f"{int(parts[2]) + 1:05}" if parts[1] == "layers" else "00000"
    return f"model-{number}.safetensors"


def _weight(name: str, like: torch.Tensor) -> torch.Tensor:
    """Random float16 values of a trained model's size, made on the GPU, where it takes no time."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if "norm" in name:
        return torch.ones(like.shape, device=device, dtype=torch.float16)
    return torch.randn(like.shape, device=device, dtype=torch.float16) * 0.02


def forward_floor(model_dir: Path, device: str, samples: int) -> float:
    """Seconds of 13 forwards of the calibration set through the unquantized decoder, all samples at once."""
    model, blocks = _model_and_blocks(model_dir, device, samples)
    with torch.no_grad():
        model.get_decoder()(blocks, use_cache=False)
        start = _now(device)
        for _ in range(FORWARDS):
            model.get_decoder()(blocks, use_cache=False)
        return _now(device) - start


def upstream(model_dir: Path, out: Path, device: str, samples: int) -> dict[str, float]:
    """Seconds of upstream's default: search with batch size 1, and export."""
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_tensorrt_llm_checkpoint

    from include.stages.calibrate.quantize import compile_extension
    from include.stages.formats.int4_awq import Int4Awq

    compile_extension()
    model, blocks = _model_and_blocks(model_dir, device, samples)

    def forward(_: object) -> None:
        for sample in blocks.split(1):
            model(sample)

    with torch.no_grad():
        model(blocks[:1])
        start = _now(device)
        mtq.quantize(model, Int4Awq().modelopt_config(GROUP), forward)
        searched = _now(device)
        export_tensorrt_llm_checkpoint(model, "llama", torch.float16, export_dir=out, inference_tensor_parallel=1)
        return {"search": searched - start, "export": _now(device) - searched}


def _model_and_blocks(model_dir: Path, device: str, samples: int) -> tuple[Any, torch.Tensor]:
    """The unquantized model, over all GPUs if there are several, and token ids to feed it."""
    from transformers import AutoModelForCausalLM

    place = "auto" if torch.cuda.device_count() > 1 else device
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float16, device_map=place).eval()
    return model, torch.randint(0, 256, (samples, LENGTH), device=model.get_input_embeddings().weight.device)


def _now(device: str) -> float:
    """The time at which all that was asked of the GPUs is done."""
    if device == "cuda":
        for index in range(torch.cuda.device_count()):
            torch.cuda.synchronize(index)
    return time.perf_counter()


def elsewhere(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls ``function`` in a process of its own, so that none of its GPU memory is left."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def calibrate(model: Path, out: Path, device: str, samples: int) -> dict[str, Any]:
    """Runs the calibrate program; returns its report."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    argv = ["-m", "include.stages.calibrate", "--model", str(model), "--out", str(out), "--device", device]
    argv += ["--group-size", str(GROUP), "--calib-size", str(samples), "--calib-seq-len", str(LENGTH)]
    subprocess.run([sys.executable, *argv], check=True)
    report: dict[str, Any] = json.loads((out / "stage.json").read_text())
    return report


def show(report: dict[str, Any]) -> None:
    """One line of parts, memory and batch size."""
    parts = ", ".join(f"{part} {value:.1f} s" for part, value in report["timings_s"].items())
    peak = f"{(report['gpu_peak_bytes'] or 0) / 2**30:.1f} GiB"
    print(f"ours: batch {report['results']['batch_size']}, peak GPU memory {peak}; {parts}", flush=True)


def main() -> None:
    """Makes the model, measures, prints, and writes figures.json into the work folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder with room for the model, twice; a model there is used again"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--samples", type=int, default=32, help=f"calibration samples of {LENGTH} tokens")
    parser.add_argument("--no-baseline", action="store_true", help="leave out upstream's default")
    parser.add_argument("--hold-back-gib", type=float, default=0, help="GPU memory kept from the calibration")
    options = parser.parse_args()
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(options.work / "extensions"))
    model = options.work / "model"
    if not model.exists():
        elsewhere(_make_all_or_nothing, SHAPES[options.shape], model)
    figures: dict[str, Any] = {"shape": options.shape, "samples": options.samples}
    figures |= _ours(options, model)
    if not options.no_baseline:
        times = elsewhere(upstream, model, options.work / "upstream", options.device, options.samples)
        figures |= {"upstream": times, "ratio": sum(times.values()) / figures["search_and_export_s"]}
        print(f"upstream's default: search {times['search']:.1f} s, export {times['export']:.1f} s")
        print(f"ratio: {figures['ratio']:.1f} times faster than upstream's default")
    (options.work / "figures.json").write_text(json.dumps(figures, indent=1))


def _ours(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    """The floor, and the calibrate program with GPU memory held back if that was asked for."""
    floor = elsewhere(forward_floor, model, options.device, options.samples)
    print(f"{options.shape}: {FORWARDS} forwards of {options.samples} x {LENGTH} tokens: {floor:.1f} s", flush=True)
    held = _hold(options.hold_back_gib)
    report = calibrate(model, options.work / "ours", options.device, options.samples)
    del held
    show(report)
    spent = float(report["timings_s"]["search"] + report["timings_s"]["export"])
    print(f"search + export {spent:.1f} s; goal {1.5 * floor + 5:.1f} s (1.5 x floor + 5 s)", flush=True)
    held_back = {"held_back_gib": options.hold_back_gib}
    return {"floor_s": floor, "ours": report, "search_and_export_s": spent} | held_back


def _make_all_or_nothing(shape: Shape, model: Path) -> None:
    partial = model.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_model(shape, partial)
    partial.rename(model)


def _hold(gib: float) -> torch.Tensor | None:
    return torch.empty(int(gib * 2**30), dtype=torch.uint8, device="cuda") if gib else None


if __name__ == "__main__":
    main()
