"""The calibrate stage from start to end."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - runs only in a target's environment

from include.errors import HostError, UserError
from include.model import generation
from include.model.config import ModelConfig
from include.stages.calibrate import data, memory
from include.stages.calibrate.export import export
from include.stages.calibrate.foldable import make_foldable
from include.stages.calibrate.loading import compute_dtype, device_map, load_model, load_tokenizer
from include.stages.calibrate.parser import Options
from include.stages.calibrate.quantize import (
    Slot,
    compile_extension,
    is_out_of_memory,
    quantize_within_memory,
)
from include.stages.calibrate.reference import Measurement, end_ids, measure, prompts, write_reference
from include.stages.calibrate.source import SourceModel
from include.stages.checkpoint import Checkpoint, DeviceMap
from include.stages.common import StageReport, log
from include.stages.quality import HeldOut
from include.stages.vocabulary import Vocabulary, silenced


@dataclass(frozen=True)
class Subject:
    """A model before any weight of it is loaded, and the text to measure it on."""

    source: SourceModel
    tokenizer: Any
    vocabulary: Vocabulary
    held_out: HeldOut

    @classmethod
    def read(cls, folder: Path, device: str) -> Subject:
        """Reads the small files; raises `UserError` for a model that cannot be measured, `HostError` for no GPU."""
        device_map(device)  # refuses a GPU that is not there
        source = SourceModel.read(folder)
        tokenizer = load_tokenizer(folder, source.config.vocab_size)
        held_out = HeldOut.builtin(tokenizer, source.config.max_position_embeddings)
        asked = max(max(prompt.ids) for prompt in prompts(tokenizer, held_out))
        _check_vocabulary(source, max(asked, int(held_out.blocks.max())))
        vocabulary = Vocabulary.of(tokenizer, source.config.vocab_size, generation.end_ids(source.folder))
        return cls(source, tokenizer, vocabulary, held_out)

    def load(self, device: str, dtype: torch.dtype) -> Any:  # noqa: ANN401
        """The model with its weights, without those of ids beyond the vocabulary."""
        return self.vocabulary.cut(load_model(self.source, device, dtype))

    def measure(self, model: Any) -> Measurement:  # noqa: ANN401
        """Perplexity and greedy answers of ``model``, which is this one or was made from it."""
        with silenced(model, self.vocabulary.missing):
            return measure(model, self.tokenizer, self.held_out)


@dataclass(frozen=True)
class Inputs(Subject):
    """A model with the tokens to calibrate it on."""

    blocks: torch.Tensor


def calibrate(options: Options, report: StageReport) -> None:
    """Writes checkpoint, tokenizer and reference into ``options.out``.

    Raises:
        UserError: a mistake in the request or the model, before any weight is loaded.
        HostError: there is no GPU, or too little memory.
        ToolError: ModelOpt or the checkpoint it wrote is not as expected.
    """
    with within_memory(options.device):
        _calibrate(options, report)


@contextmanager
def within_memory(device: str) -> Iterator[None]:
    """Makes a `HostError` of memory that runs out within the block."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        # The search halves its batch; exporting and measuring have nothing to halve.
        raise HostError(
            f"out of memory: {str(error).splitlines()[0]}",
            where=f"device {device}",
            fix="stop what else uses the device, or use more or larger ones",
        ) from error


def _calibrate(options: Options, report: StageReport) -> None:
    with report.part("check"):
        inputs = check(options)
    before, devices = _quantize_and_export(options, report, inputs)
    with report.part("measure after"):
        after = _measure_checkpoint(options, inputs, devices)
    inputs.held_out.save(options.out)
    _save_tokenizer(inputs.tokenizer, options.out)
    write_reference(options.out, inputs.tokenizer, inputs.held_out, before, after)
    _describe(options, report, inputs.source)
    report.results |= {"perplexity_before": before.perplexity, "perplexity_after": after.perplexity}
    log.info("perplexity %.3f before, %.3f after", before.perplexity, after.perplexity)


def check(options: Options) -> Inputs:
    """Reads the small files and refuses a request that cannot be met; see `calibrate` for its exceptions."""
    group = options.format.group(options.group_size)
    ModelConfig.read(options.model).check_calibration(group, options.calib_seq_len, options.tp_size)
    subject = Subject.read(options.model, options.device)
    blocks = data.calibration_blocks(options.calib_data, subject.tokenizer, options.calib_size, options.calib_seq_len)
    _check_vocabulary(subject.source, int(blocks.max()))
    return Inputs(**vars(subject), blocks=blocks)


def _check_vocabulary(source: SourceModel, highest: int) -> None:
    """Raises `UserError` if the model does not know the token ``highest`` of its tokenizer."""
    if highest >= source.config.vocab_size:
        raise UserError(
            f"the tokenizer knows token {highest}, the model only {source.config.vocab_size} tokens",
            where=f"field model: {source.folder}",
            fix="use the tokenizer that belongs to the model",
        )


def _quantize_and_export(options: Options, report: StageReport, inputs: Inputs) -> tuple[Measurement, DeviceMap]:
    """Everything that needs the source model in memory, which is free again afterwards; returns its device map, too."""
    dtype = compute_dtype(options.device, options.dtype)
    batch = _prepare(options, report, inputs.source, dtype.itemsize)
    slot = Slot(lambda: inputs.load(options.device, dtype))
    with report.part("load"):
        slot.model()
    with report.part("measure before"):
        before = _before(options) or inputs.measure(slot.model())
    with report.part("search"):
        batch = quantize_within_memory(slot, inputs.blocks, options.group_size, batch, options.format)
    with report.part("export"):
        if options.smoothing == "foldable" and "smoothing" in options.format.fields:
            make_foldable(slot.model(), inputs.source.config)
        export(slot.model(), inputs.source, options.dtype, options.tp_size, options.out)
        _write_generation_config(slot.model(), inputs, options.out)
    devices = dict(slot.model().hf_device_map)
    slot.release()
    report.results |= {
        "calibration_tokens": inputs.blocks.numel(),
        "calibration_data_sha256": data.digest(inputs.blocks),
        "batch_size": batch,
        "compute_dtype": str(dtype).removeprefix("torch."),
    }
    return before, devices


def _before(options: Options) -> Measurement | None:
    """The measurement of `include.stages.calibrate.original`, if it was made."""
    return Measurement.load(options.original) if options.original else None


def _prepare(options: Options, report: StageReport, source: SourceModel, element_size: int) -> int:
    """Makes the device ready; returns the batch size to begin with."""
    batch = options.batch_size or options.calib_size
    if options.device == "cuda":
        if options.format.searches:
            with report.part("compile extension"):
                compile_extension()
        return batch
    memory.check_model_fits(source, torch.float32.itemsize)
    return memory.batch_that_fits(source.config, batch, options.calib_seq_len, element_size)


def _measure_checkpoint(options: Options, inputs: Inputs, devices: DeviceMap) -> Measurement:
    """Measures the weights as written, which proves the files, in the type that the engine computes in.

    In another one greedy answers part at near ties, and a faithful engine would not agree with its reference.
    """
    from transformers import GenerationConfig

    dtype = compute_dtype(options.device, options.dtype) if options.device == "cuda" else torch.float32
    model = Checkpoint(options.out).model(dtype, devices)
    # Else it would have the end token that transformers' configuration of its architecture defaults to.
    model.generation_config = GenerationConfig.from_pretrained(options.out)
    return inputs.measure(model)


def _write_generation_config(model: Any, inputs: Inputs, out: Path) -> None:  # noqa: ANN401
    """The tokens that end an answer, and those that none may have: a TensorRT-LLM checkpoint does not hold them."""
    from transformers import GenerationConfig

    GenerationConfig(
        bos_token_id=inputs.tokenizer.bos_token_id,
        eos_token_id=end_ids(model, inputs.tokenizer) or None,
        suppress_tokens=list(inputs.vocabulary.missing) or None,
    ).save_pretrained(out)


def _save_tokenizer(tokenizer: Any, out: Path) -> None:  # noqa: ANN401
    """The tokenizer, which names an end token if the checkpoint has one: NVIDIA's preprocessing needs it."""
    if tokenizer.eos_token is None:
        named = tokenizer.convert_ids_to_tokens(list(generation.end_ids(out)))
        tokenizer.eos_token = next(filter(None, named), None)
    tokenizer.save_pretrained(out / "tokenizer")


def _describe(options: Options, report: StageReport, source: SourceModel) -> None:
    import modelopt

    describe(options.device, report)
    report.versions |= {"modelopt": modelopt.__version__}
    report.results |= {
        "architecture": source.config.architecture,
        "quantization": options.quantization,
    }
    own = {"awq_group_size": ("group_size", options.group_size), "smoothing": ("smoothing", options.smoothing)}
    report.results |= dict(own[name] for name in options.format.fields)


def describe(device: str, report: StageReport) -> None:
    """Writes versions and GPUs into the report."""
    import transformers

    report.versions |= {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if device == "cuda":
        count = torch.cuda.device_count()
        report.gpu = f"{count} x {torch.cuda.get_device_name(0)}" if count > 1 else torch.cuda.get_device_name(0)
        report.gpu_peak_bytes = max(torch.cuda.max_memory_allocated(i) for i in range(count))
