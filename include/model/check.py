"""The check of all files of a model, before anything large is done with it."""

from __future__ import annotations

from pathlib import Path

from include.model.files import check_small_files
from include.model.generation import end_ids
from include.model.tokenizer import TokenizerFacts
from include.model.weights import check_weights


def check_model(folder: Path) -> int:
    """The bytes of all weights of the model in ``folder``, whose files can all be read.

    Raises:
        UserError: names a file that is missing, damaged, no regular file, or beyond its limit.
    """
    check_small_files(folder)
    TokenizerFacts.read(folder)
    end_ids(folder)
    return check_weights(folder)
