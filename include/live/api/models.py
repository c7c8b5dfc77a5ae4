"""The live models as the API knows them: one JSON file, which the live address writes and the service reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from include.files import Damaged, find_record, write_atomic
from include.frozen import Frozen, Moment
from include.model.generation import end_ids
from include.triton import repository

ENGINE = "tensorrt_llm"
"""The model of every repository that takes token ids and gives token ids."""


class LiveModel(Frozen):
    """A live model. ``inputs`` are the names that its engine takes; ``streaming``: it answers token by token.

    Each of ``end_ids`` ends an answer. The engine itself ends answers at each of ``engine_ends`` if it is told one.
    """

    name: str
    aliases: tuple[str, ...] = ()
    release: str
    tokenizer: Path
    max_input_len: int = Field(gt=0)
    max_seq_len: int = Field(gt=0)
    end_ids: tuple[int, ...] = ()
    engine_ends: frozenset[int] = frozenset()
    streaming: bool
    inputs: frozenset[str]
    created: Moment


class _Published(Frozen):
    models: tuple[LiveModel, ...] = ()


def publish(path: Path, models: Iterable[LiveModel]) -> None:
    """Replaces the list of live models atomically, unless it is the same."""
    wanted = _Published(models=tuple(models))
    try:
        if find_record(path, _Published) == wanted:
            return
    except Damaged:
        pass
    write_atomic(path, wanted.model_dump_json(indent=1))


def published(path: Path) -> tuple[LiveModel, ...]:
    """The models that were published last; raises `Damaged` if the file cannot be read."""
    return (find_record(path, _Published) or _Published()).models


def served_from(
    served: Path,
    *,
    name: str,
    aliases: tuple[str, ...],
    release: str,
    max_input_len: int,
    max_seq_len: int,
    created: Moment,
) -> LiveModel:
    """A model by what its repository and its tokenizer's directory say.

    Raises:
        ToolError: the repository cannot be read, or has no engine of that name.
        UserError: a file of the tokenizer is damaged.
    """
    configs = repository.read(served)
    engine = configs[ENGINE]
    values = {name: parameter.string_value for name, parameter in engine.parameters.items()}
    tokenizer = Path(configs["preprocessing"].parameters["tokenizer_dir"].string_value)
    return LiveModel(
        name=name,
        aliases=aliases,
        release=release,
        tokenizer=tokenizer,
        max_input_len=max_input_len,
        max_seq_len=max_seq_len,
        # A checkpoint has its tokenizer in a folder of its own, and the file that names its end tokens beside that.
        end_ids=end_ids(tokenizer) or end_ids(tokenizer.parent),
        engine_ends=frozenset(map(int, values.get("end_ids", "").split())),
        streaming=engine.model_transaction_policy.decoupled,
        inputs=frozenset(tensor.name for tensor in engine.input),
        created=created,
    )
