"""Task ``check_request``: refuses, within seconds, a request that would fail after hours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from include import sources
from include.artifacts.store import make_directory
from include.context import Context
from include.errors import UserError
from include.files import sha256_of
from include.gates import check_tasks
from include.host.ports import check_port_free
from include.live.address import LiveAddress
from include.live.api.template import check_template
from include.model.check import check_model
from include.model.config import ModelConfig
from include.model.files import TOKENIZER_FILE
from include.model.vocabulary import read_tokenizer
from include.reading import read_lines
from include.requests.release import ReleaseRequest
from include.sources import DatasetSource, ModelSource
from include.stages import texts
from include.stages.formats import unused_fields
from include.targets.estimates import pipeline_disk_bytes
from include.targets.fields import check_fields
from include.tasks import Checked, contracts
from include.tasks.approve_release import rule_of
from include.tasks.room import check_room


def run(context: Context, params: Mapping[str, Any]) -> Checked:
    """Checks the request against its own rules, this host, the model and the disk, in that order.

    Raises:
        UserError: a field cannot be met as asked; the message names it.
        HostError: the host lacks something.
        TransientError: the Hub cannot be reached.
    """
    request = ReleaseRequest.parse(dict(params))
    _check_approval(context, request)
    check_fields(request)
    target = context.target(request.target)
    shared = context.live_gpus()
    target.check_host(request, shared)
    _check_ports(context, request)
    check_calibration_file(request)
    check_task_file(context, request)
    given = bool(request.served_name)
    context.releases.check_names(request.name, request.aliases, request.slug, given=given)
    endpoint = context.settings.hub_endpoint
    source = sources.resolve(request.model, request.revision, token=context.token, endpoint=endpoint)
    config = ModelConfig.parse(source.config, where=source.id)
    config.check_calibration(request.group_size, request.calib_seq_len, request.tp_size)
    config.check_target(request.target, request.max_seq_len, request.dtype)
    config.check_lengths(request.max_input_len, request.max_seq_len)
    with sources.look_into(source, token=context.token, endpoint=endpoint) as folder:
        found = check_model(folder)
        target.check_tokenizer(request, folder)
        if target.applies_chat_template and request.chat_template == "auto":
            check_template(found.tokenizer, source.id)
        _check_calibration_text(request, folder)
    target.check_fits(request, config, shared)
    check_room(context, target, request, config)
    dataset = resolve_dataset(context, request)
    _check_disk(context, source, config, request)
    _say_what_is_asked_for(context, request, source, config)
    if request.chat_template == "auto" and not target.applies_chat_template:
        context.log(f"target {target.name} applies no chat template: its endpoint continues the text as it is")
    contracts.check_request(context, request)
    return Checked(request=request, source=source, dataset=dataset, config=config)


def _say_what_is_asked_for(context: Context, request: ReleaseRequest, source: ModelSource, config: ModelConfig) -> None:
    context.log(f"model {source.id}")
    context.log(
        f"commit {source.commit[:12]}: {config.architecture}, {config.parameters / 1e6:.0f} M parameters, "
        f"{source.total_bytes / 1e6:.0f} MB"
    )
    context.log(
        f"target {request.target}: {request.format.describe(request.awq_group_size)}, calibrated with "
        f"{request.calib_size} x {request.calib_seq_len} tokens of {request.calib_data}"
    )
    for field in sorted(unused_fields(request.quantization).intersection(ReleaseRequest.model_fields)):
        context.log(f"field {field} is not used: {request.format.title} has no such thing")
    context.log(
        f"engine for {request.max_batch_size} requests at once, of at most {request.max_seq_len} tokens, "
        f"{request.max_input_len} of them prompt"
    )


def _check_approval(context: Context, request: ReleaseRequest) -> None:
    if rule_of(context, request).required and request.swap == "recreate":
        raise UserError(
            "swap recreate cannot be had in this deployment, which requires approval: the live address would be down "
            "until a person has decided",
            where="field swap",
            fix="use swap blue_green; the settings HF2TRITON_REQUIRE_APPROVAL and HF2TRITON_APPROVERS require approval",
        )


def _check_ports(context: Context, request: ReleaseRequest) -> None:
    if request.candidate_http_port:
        check_port_free(request.candidate_http_port)
    live = LiveAddress(context)
    live.refresh_access()  # keys or a certificate that cannot be used fail now, and not at the promotion
    if not live.is_listening():
        settings = context.settings
        for port in (settings.live_http_port, settings.live_grpc_port, settings.live_metrics_port):
            check_port_free(port)


def check_calibration_file(request: ReleaseRequest) -> None:
    """Raises `UserError` if the request names a file that cannot be calibrated with."""
    if not request.calib_data.startswith("/"):
        return
    path = Path(request.calib_data)
    if path.suffix not in {".txt", ".jsonl"} or not path.is_file():
        raise UserError(
            f"{path} is not a .txt or .jsonl file of this worker",
            where="field calib_data",
            fix="give the absolute path of a text file (a document a line) or of a .jsonl file with a text field",
        )
    if not _has_text(path):
        raise UserError(f"{path} is empty", where="field calib_data", fix="give a file with text")


def calibration_file_digest(request: ReleaseRequest) -> str:
    """The sha256 of the calibration file that the request names; raises as `check_calibration_file`."""
    check_calibration_file(request)
    return _digest_of(request.calib_data, "calib_data")


def _check_calibration_text(request: ReleaseRequest, folder: Path) -> None:
    """Raises `UserError` for text that calibration cannot read, or that is too short, as far as a file can tell it.

    A data set has to be downloaded first, and a tokenizer without a tokenizer.json to be converted.
    """
    if request.calib_data != "builtin" and not request.calib_data.startswith("/"):
        return
    found = texts.topics()[0] if request.calib_data == "builtin" else texts.texts_of(Path(request.calib_data))
    if not (folder / TOKENIZER_FILE).exists():
        for _ in found:
            pass
        return
    encode = read_tokenizer(folder).encode
    lengths = (len(encode(f"{text}\n\n", add_special_tokens=False).ids) for text in found)
    texts.check_length(lengths, request.calib_size, request.calib_seq_len, request.calib_data)


def check_task_file(context: Context, request: ReleaseRequest) -> None:
    """Raises `UserError` if the request names a file of tasks that cannot be asked or judged."""
    if request.task_data.startswith("/"):
        tasks = check_tasks(Path(request.task_data))
        context.log(f"{len(tasks)} tasks of {request.task_data}")


def task_file_digest(request: ReleaseRequest) -> str:
    """The sha256 of the file of tasks that the request names."""
    return _digest_of(request.task_data, "task_data")


def _digest_of(path: str, field: str) -> str:
    try:
        return sha256_of(Path(path))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}", where=f"field {field}", fix="put the file back"
        ) from error


def _has_text(path: Path) -> bool:
    found = False
    try:
        for line in read_lines(path):
            found = bool(line.strip()) or found
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text: {error.reason}",
            where="field calib_data",
            fix="convert it, e.g. `iconv -t UTF-8`",
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{path} cannot be read: {reason}", where="field calib_data", fix="give a text file, with its permissions"
        ) from error
    return found


def resolve_dataset(context: Context, request: ReleaseRequest) -> DatasetSource | None:
    """The calibration data set as it is now; None if the request names none."""
    if request.calib_data == "builtin" or request.calib_data.startswith("/"):
        return None
    return sources.resolve_dataset(
        request.calib_data, "main", token=context.token, endpoint=context.settings.hub_endpoint
    )


def _check_disk(context: Context, source: ModelSource, config: ModelConfig, request: ReleaseRequest) -> None:
    needed = source.total_bytes + pipeline_disk_bytes(config, request)
    make_directory(context.settings.artifacts)
    sources.require_disk(context.settings.artifacts, needed)
