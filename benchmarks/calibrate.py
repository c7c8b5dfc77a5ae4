"""Calibration on one GPU host: ours against upstream's default, with the forward-pass floor, in one go.

    PYTHONPATH=. python benchmarks/calibrate.py --shape llama-2-7b --work /tmp/bench

Runs in the target's environment (torch, transformers 4.57, nvidia-modelopt 0.37) and starts the calibrate program
itself, with random float16 weights of the shape asked for: the time does not depend on their values.
Upstream's quantize.py calibrates AWQ with batch size 1; so does the baseline, with the same program.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - runs only in the target's environment

FORWARDS = 13  # awq_lite: one to gather statistics, eleven to search alpha, one to check
LENGTH, GROUP = 512, 128


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
    """A file for each layer, so that never more than one layer is in memory."""
    from safetensors.torch import save_file

    shards: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        shards.setdefault(_layer(name), []).append(name)
    for layer, names in shards.items():
        save_file({n: _weight(n, model.get_parameter(n)) for n in names}, path / layer, {"format": "pt"})
    files = {name: layer for layer, names in shards.items() for name in names}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def _layer(name: str) -> str:
    """The file of a weight."""
    parts = name.split(".")
    number = f"{int(parts[2]) + 1:05}" if parts[1] == "layers" else "00000"
    return f"model-{number}.safetensors"


def _weight(name: str, like: torch.Tensor) -> torch.Tensor:
    """Random float16 values of a trained model's size, made on the GPU, where it takes no time."""
    if "norm" in name:
        return torch.ones(like.shape, dtype=torch.float16)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return (torch.randn(like.shape, device=device, dtype=torch.float16) * 0.02).cpu()


def forward_floor(model_dir: Path, device: str, samples: int) -> float:
    """Seconds of 13 forwards of the calibration set through the unquantized decoder, all samples at once."""
    from transformers import AutoModelForCausalLM

    place = "auto" if torch.cuda.device_count() > 1 else device
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float16, device_map=place).eval()
    blocks = torch.randint(0, 256, (samples, LENGTH), device=model.get_input_embeddings().weight.device)
    with torch.no_grad():
        model.get_decoder()(blocks, use_cache=False)
        _wait(device)
        start = time.perf_counter()
        for _ in range(FORWARDS):
            model.get_decoder()(blocks, use_cache=False)
        _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device == "cuda":
        for index in range(torch.cuda.device_count()):
            torch.cuda.synchronize(index)


def calibrate(model: Path, out: Path, device: str, samples: int, batch_size: int) -> dict[str, Any]:
    """Runs the calibrate program; returns its report."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    argv = ["-m", "include.stages.calibrate", "--model", str(model), "--out", str(out), "--device", device]
    argv += ["--group-size", str(GROUP), "--calib-size", str(samples), "--calib-seq-len", str(LENGTH)]
    subprocess.run([sys.executable, *argv, "--batch-size", str(batch_size)], check=True)
    report: dict[str, Any] = json.loads((out / "stage.json").read_text())
    return report


def seconds(report: dict[str, Any]) -> float:
    """What calibration itself took: the search and the export."""
    return float(report["timings_s"]["search"] + report["timings_s"]["export"])


def show(name: str, report: dict[str, Any]) -> None:
    """One line of parts, memory and batch size."""
    parts = ", ".join(f"{part} {value:.1f} s" for part, value in report["timings_s"].items())
    peak = f"{(report['gpu_peak_bytes'] or 0) / 2**30:.1f} GiB"
    print(f"{name}: batch {report['results']['batch_size']}, peak GPU memory {peak}; {parts}", flush=True)


def main() -> None:
    """Makes the model, measures, prints, and writes figures.json into the work folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder with room for the model, twice; a model there is used again"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--samples", type=int, default=32, help=f"calibration samples of {LENGTH} tokens")
    parser.add_argument("--no-baseline", action="store_true", help="leave out the run with batch size 1")
    parser.add_argument("--hold-back-gib", type=float, default=0, help="GPU memory kept from the calibration")
    options = parser.parse_args()
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(options.work / "extensions"))
    model = options.work / "model"
    if not model.exists():
        _make_all_or_nothing(SHAPES[options.shape], model)
    floor = _floor_in_a_process_of_its_own(model, options.device, options.samples)
    held = _hold(options.hold_back_gib)
    figures: dict[str, Any] = {
        "shape": options.shape,
        "floor_s": floor,
        "held_back_gib": options.hold_back_gib,
        "samples": options.samples,
    }
    print(
        f"{options.shape}: floor, {FORWARDS} forwards of {options.samples} x {LENGTH} tokens: {floor:.1f} s", flush=True
    )
    figures["ours"] = calibrate(model, options.work / "ours", options.device, options.samples, 0)
    show("ours", figures["ours"])
    print(f"search + export {seconds(figures['ours']):.1f} s; goal {1.5 * floor + 5:.1f} s (1.5 x floor + 5 s)")
    if not options.no_baseline:
        figures["batch_1"] = calibrate(model, options.work / "batch-1", options.device, options.samples, 1)
        show("upstream's default", figures["batch_1"])
        figures["ratio"] = seconds(figures["batch_1"]) / seconds(figures["ours"])
        print(f"ratio: {figures['ratio']:.1f} times faster than batch size 1")
    del held
    (options.work / "figures.json").write_text(json.dumps(figures, indent=1))


def _make_all_or_nothing(shape: Shape, model: Path) -> None:
    partial = model.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_model(shape, partial)
    partial.rename(model)


def _floor_in_a_process_of_its_own(model: Path, device: str, samples: int) -> float:
    """So that none of its memory is left when the calibration runs."""
    code = f"from calibrate import *; print(forward_floor(Path({str(model)!r}), {device!r}, {samples}))"
    folder = Path(__file__).parent
    asked = subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True)
    return float(asked.stdout.split()[-1])


def _hold(gib: float) -> torch.Tensor | None:
    return torch.empty(int(gib * 2**30), dtype=torch.uint8, device="cuda") if gib else None


if __name__ == "__main__":
    main()
