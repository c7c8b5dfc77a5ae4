"""The check of all files of a model, before anything large is done with it: the one list of what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from include.errors import UserError
from include.model.config import ModelConfig
from include.model.files import CONFIG_FILE, GENERATION_FILE, check_small_files, read_object
from include.model.generation import check_end_ids
from include.model.kinds import check_model_type
from include.model.tokenizer import TokenizerFacts
from include.model.vocabulary import check_tokenizer
from include.model.weights import Weights


@dataclass(frozen=True)
class Model:
    """What the files of a model that can be calibrated say; ``weight_bytes`` is the size of its weights as stored."""

    folder: Path
    config: ModelConfig
    tokenizer: TokenizerFacts
    weight_bytes: int


def check_model(folder: Path) -> Model:
    """The model in ``folder``, whose files can all be read and belong to each other.

    Raises:
        UserError: names a file that is missing, damaged, no regular file, or beyond its limit, or the reason why the
            model cannot be calibrated.
    """
    check_small_files(folder)
    where = f"field model: {folder / CONFIG_FILE}"
    config = ModelConfig.read(folder)
    config.check_supported()
    check_model_type(read_object(folder / CONFIG_FILE), config.architecture, where)
    tokenizer = TokenizerFacts.read(folder)
    check_tokenizer(folder, tokenizer, config.vocab_size)
    if not check_end_ids(folder, config.vocab_size) and not tokenizer.named.get("eos_token"):
        raise UserError(
            "no file of the model names a token that ends an answer",
            where=f"field model: {folder}",
            fix=f"write its id as eos_token_id into {GENERATION_FILE}",
        )
    weights = Weights.read(folder)
    weights.check(config)
    return Model(folder, config, tokenizer, weights.size)
