"""Target vllm's serving against bare vLLM: tokens/s and time to first token, in one visit to a GPU host.

``python -m benchmarks.vllm_serving make --tokenizer DIR --engine DIR`` writes an engine of Llama-2-7B's shape with
random weights, int4 or of another format, and ``warm`` its compile cache, as a build does; ``bare`` measures vLLM's own
engine on it, ``served`` the ensemble around it, ``live`` the live address in front of that. Each request has about 64
tokens of prompt and an answer of 128 tokens that no end token cuts short; median of 3 runs.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

PROMPT, ANSWER, RUNS = 64, 128, 3
AT_ONCE = (1, 8, 32, 128)
LIMITS = {"tp_size": 1, "max_batch_size": 128, "max_input_len": 1024, "max_seq_len": 2048, "max_num_tokens": 8192}
SHAPE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 4096,
    "intermediate_size": 11008, "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 32, "head_dim": 128, "vocab_size": 49152, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "torch_dtype": "float16", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def linear(rows: int, columns: int, weights: str) -> dict[str, Any]:
    """A layer's tensors, as a build writes them."""
    import torch

    from include.stages.formats.fp8 import Fp8Linear
    from include.stages.formats.int4_awq import QuantizedLinear

    if weights == "float16":
        return {"weight": torch.randn(rows, columns, dtype=torch.float16) * 0.02}
    if weights == "fp8":
        values = torch.randn(rows, columns).to(torch.float8_e4m3fn)
        made: Any = Fp8Linear(values, torch.tensor([0.02]), torch.tensor([0.05]), None)
    else:
        ints = torch.randint(-8, 8, (rows, columns), dtype=torch.int8)
        made = QuantizedLinear(ints, torch.rand(rows, columns // 128) * 0.004 + 0.001, None, None)
    return dict(made.compressed(torch.float16))


def make(tokenizer: Path, out: Path, attention: str | None, weights: str, tp_size: int) -> None:
    """Writes the engine."""
    import torch
    from safetensors.torch import save_file

    from include.stages.build_vllm.stage import engine_arguments
    from include.stages.formats import FORMATS

    size, inner, words = 4096, 11008, 49152
    shapes = {f"self_attn.{name}_proj": (size, size) for name in "qkvo"}
    shapes |= {"mlp.gate_proj": (inner, size), "mlp.up_proj": (inner, size), "mlp.down_proj": (size, inner)}
    one = {f"{name}.{part}": t for name, shape in shapes.items() for part, t in linear(*shape, weights).items()}
    tensors = {f"model.layers.{n}.{name}": t.clone() for n in range(32) for name, t in one.items()}
    norms = [f"model.layers.{n}.{norm}" for n in range(32) for norm in ("input_layernorm", "post_attention_layernorm")]
    tensors |= {f"{name}.weight": torch.ones(size, dtype=torch.float16) for name in [*norms, "model.norm"]}
    for name in ("model.embed_tokens", "lm_head"):
        tensors[f"{name}.weight"] = torch.randn(words, size, dtype=torch.float16) * 0.02
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    quantized = {"quantization_config": FORMATS[weights].quantization_config(128)} if weights in FORMATS else {}
    (out / "config.json").write_text(json.dumps({**SHAPE, **quantized}))
    arguments = engine_arguments("float16", {**LIMITS, "tp_size": tp_size}, attention)
    (out / "engine.json").write_text(json.dumps({"arguments": arguments}))
    for path in tokenizer.iterdir():
        if path.name.startswith(("tokenizer", "special", "vocab", "merges", "chat")):
            shutil.copyfile(path, out / path.name)


def warm(engine: Path) -> None:
    """Fills the engine's compile cache in the environment of a build, which is part of the cache's key."""
    from include.runners.job import inherited
    from include.settings import settings
    from include.targets.registry import get_target

    command = get_target("vllm", settings()).command("benchmarks.vllm_serving", ("fill", "--engine", str(engine)))
    begun = time.monotonic()
    subprocess.run(command.argv, env={**inherited(), **command.env}, check=True)
    print("SPEED", json.dumps({"kind": "warm", "s": round(time.monotonic() - begun, 1)}), flush=True)


def fill(engine: Path) -> None:
    """What `warm` starts."""
    from include.stages.build_vllm.proof import engine_perplexity

    arguments = json.loads((engine / "engine.json").read_text())["arguments"]
    engine_perplexity(engine, arguments, [[random.randrange(3, 31000) for _ in range(256)] for _ in range(4)])


def show(kind: str, at_once: int, runs: list[tuple[float, list[float]]]) -> None:
    """Prints the median run."""
    speed, firsts = sorted(runs, key=lambda run: run[0])[len(runs) // 2]
    facts = {"tokens/s": round(speed, 1), "first token p50 ms": round(1000 * statistics.median(firsts), 1)}
    print("SPEED", json.dumps({"kind": kind, "at once": at_once, **facts}), flush=True)


async def bare(engine_dir: Path, share: float) -> None:
    """vLLM alone."""
    os.chdir(engine_dir)
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = json.loads(Path("engine.json").read_text())["arguments"]
    start = time.monotonic()
    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments, gpu_memory_utilization=share))
    print("SPEED", json.dumps({"kind": "bare", "start s": round(time.monotonic() - start, 1)}), flush=True)
    params = SamplingParams(
        temperature=0, max_tokens=ANSWER, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA
    )

    async def one(number: int) -> float:
        ids = [random.randrange(3, 31000) for _ in range(PROMPT)]
        begun, first = time.monotonic(), 0.0
        async for _ in llm.generate({"prompt_token_ids": ids}, params, request_id=f"{time.monotonic()}-{number}"):
            first = first or time.monotonic() - begun
        return first

    async def run(at_once: int) -> tuple[float, list[float]]:
        begun = time.monotonic()
        firsts = await asyncio.gather(*(one(number) for number in range(at_once)))
        return at_once * ANSWER / (time.monotonic() - begun), list(firsts)

    for at_once in AT_ONCE:
        await run(at_once)
        show("bare", at_once, [await run(at_once) for _ in range(RUNS)])
    llm.shutdown()


def words() -> Iterator[str]:
    """Words without end."""
    while True:
        yield random.choice(["the", "cat", "river", "walks", "over", "green", "under", "house", "sings", "far"])


def ask(port: int, stream: bool, _: int) -> float:
    """One request; returns the seconds to the first token."""
    text = " ".join(word for word, _ in zip(words(), range(PROMPT), strict=False))
    body = {"text_input": text, "max_tokens": ANSWER, "end_id": -1, "stream": stream}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    begun, first = time.monotonic(), 0.0
    path = f"/v2/models/ensemble/generate{'_stream' if stream else ''}"
    connection.request("POST", path, json.dumps(body))
    for line in connection.getresponse():
        if b'"error":' in line:
            raise RuntimeError(line)
        if line.startswith(b"data:"):
            first = first or time.monotonic() - begun
    return first or time.monotonic() - begun


def some(port: int, stream: bool, count: int) -> list[float]:
    """As many requests at once."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(partial(ask, port, stream), range(count)))


def served(port: int, where: str) -> None:
    """Through Triton's ensemble, at the server itself or at the live address."""
    with ProcessPoolExecutor(8) as pool:
        for kind, stream in (("generate_stream", True), ("generate", False)):
            for at_once in AT_ONCE:
                shares = [count for n in range(8) if (count := at_once // 8 + (n < at_once % 8))]

                def run(stream: bool = stream, shares: list[int] = shares) -> tuple[float, list[float]]:
                    begun = time.monotonic()
                    firsts = [first for part in pool.map(partial(some, port, stream), shares) for first in part]
                    return sum(shares) * ANSWER / (time.monotonic() - begun), firsts

                run()
                show(f"{where} {kind}", at_once, [run() for _ in range(RUNS)])


@contextmanager
def serve(engine: Path, tokenizer: Path, work: Path, *, live: bool) -> Iterator[int]:
    """Launches the target's server on an engine, and for ``live`` the live address; gives the HTTP port."""
    from include.artifacts.kind import Kind
    from include.context import Context
    from include.live.address import LiveAddress
    from include.model.config import ModelConfig
    from include.requests.release import ReleaseRequest
    from include.settings import settings
    from include.targets import pytriton
    from include.triton import repository, servers

    context = Context(settings=settings(), log=print, dag_id="benchmark", run_id="benchmark")
    target = context.target("vllm")
    tp_size = json.loads((engine / "engine.json").read_text())["arguments"]["tensor_parallel_size"]
    fields = {**LIMITS, "tp_size": tp_size, "target": "vllm", "awq_group_size": 128, "chat_template": "off"}
    request = ReleaseRequest(**fields)  # type: ignore[arg-type]
    config = ModelConfig.parse(json.dumps(SHAPE), where="benchmark")
    (work / "checkpoint").mkdir(parents=True)
    (work / "checkpoint" / "tokenizer").symlink_to(tokenizer)
    values = target.repository_values(request, config, work / "checkpoint", engine)
    inputs = {"engine": str(engine), "work": str(work)}
    with context.store.claim(Kind.REPOSITORY, inputs, log=print) as claim:
        repository.assemble(target.templates(), values, claim.partial, target.overlay())
        claim.commit()
    pytriton.prepare(settings().vllm_python)
    begun = time.monotonic()
    if live:
        release = context.releases.open("benchmark", target="vllm", repository=claim.name, chain={}, request=fields)
        address = LiveAddress(context)
        address.promote(context.releases.judge(release, "accepted"))
        port, stop = settings().live_http_port, lambda: address.stop()
    else:
        plan = target.server(context.store.get(Kind.REPOSITORY, claim.name).path, servers.some_ports())
        record = servers.launch(plan, work / "server.json", timeout_s=300)
        port, stop = record.ports.http, lambda: servers.stop(record, work / "server.json")
    print("SPEED", json.dumps({"kind": "start", "s": round(time.monotonic() - begun, 1)}), flush=True)
    try:
        yield port
    finally:
        stop()


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("make", "warm", "fill", "bare", "served", "live"))
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--work", type=Path, help="served, live: an empty directory")
    parser.add_argument("--attention", help="vLLM's attention backend")
    parser.add_argument(
        "--weights", choices=("int4_awq", "fp8", "float16"), default="int4_awq", help="make: the format"
    )
    parser.add_argument("--tp-size", type=int, default=1, help="make: for so many GPUs")
    parser.add_argument("--share", type=float, default=0.5, help="bare: of the GPU's memory")
    options = parser.parse_args()
    if options.part == "make":
        make(options.tokenizer, options.engine, options.attention, options.weights, options.tp_size)
    elif options.part == "warm":
        warm(options.engine)
    elif options.part == "fill":
        fill(options.engine)
    elif options.part == "bare":
        asyncio.run(bare(options.engine, options.share))
    else:
        with serve(options.engine, options.tokenizer, options.work, live=options.part == "live") as port:
            served(port, options.part)


if __name__ == "__main__":
    main()
