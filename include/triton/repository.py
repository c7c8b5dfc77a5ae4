"""Triton model repositories: filled strictly from unmodified templates, and checked before a server loads them.

Upstream's ``fill_template.py`` leaves variables without a value in place, keeps the old values of a file that is
filled already, and takes ``:`` and ``,`` in values for separators. This module raises or avoids all of these.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from include.errors import ToolError, UserError

CONFIG_FILE = "config.pbtxt"

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_BARE = re.compile(r"[\w.+-]+")
_BREAKS_OUT = re.compile(r'["\\\x00-\x1f\x7f]|\$\{')
_PATH_PARAMETER = re.compile(r"_(dir|path)$")

Values = Mapping[str, str]
PathMap = Callable[[str], Path]
ModelConfig = Any  # tritonclient's generated message class has no type stubs


def fill(text: str, values: Values, *, where: str = "template") -> str:
    """Replaces the ``${name}`` variables of ``text`` by ``values``, unchanged.

    Raises:
        ToolError: a variable has no value, or a value has no variable (as in a text that is filled already).
        UserError: a value is not valid at its place in the text.
    """
    names = set(_VARIABLE.findall(text))
    if unknown := sorted(values.keys() - names):
        raise ToolError(
            f"no variable is named {', '.join(unknown)}", where=where, fix="fill pristine templates, with their names"
        )
    if missing := sorted(names - values.keys()):
        raise ToolError(f"no value for {', '.join(missing)}", where=where, fix="name it; an optional one as ''")
    filled = _VARIABLE.sub(lambda match: _checked(match, values[match[1]], where), text)
    if "${" in filled:
        raise ToolError(f"not a variable: {_line_with(filled, '${')}", where=where)
    return filled


def assemble(templates: Path, values: Mapping[str, Values], into: Path, overlay: Path | None = None) -> None:
    """Writes the models that ``values`` names (model -> variable -> value) from ``templates`` into ``into``.

    A model without variables has an empty mapping; a model that is not in ``values`` is left out. Files of ``overlay``,
    which has folders of models, too, are added to those of the templates or replace them; a model may stand there
    alone. Git and artifact stores may drop empty folders, so a missing version folder is created here.

    Raises:
        ToolError: a model has no template, exists already, or its values do not match its variables.
        UserError: a value is not valid at its place in the text.
    """
    for name, model_values in values.items():
        source, model = templates / name, into / name
        if overlay and (overlay / name / CONFIG_FILE).is_file():
            source = overlay / name
        if not (source / CONFIG_FILE).is_file():
            raise ToolError(f"no template for model {name}", where=str(source))
        if model.exists():
            raise ToolError(f"model {name} is there already", where=str(model), fix="assemble into an empty folder")
        config = fill((source / CONFIG_FILE).read_text(), model_values, where=str(source / CONFIG_FILE))
        shutil.copytree(source, model, ignore=shutil.ignore_patterns("__pycache__"))
        if overlay and (overlay / name).is_dir():
            shutil.copytree(overlay / name, model, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        (model / CONFIG_FILE).write_text(config)
        if not _versions(model):
            (model / "1").mkdir()


def check(repository: Path, *, path_map: PathMap = Path) -> None:
    """Checks ``repository``; raises `ToolError` for mistakes that would otherwise show only when Triton loads it.

    ``path_map`` gives the local path of a path in a config, for servers that see another file system.
    """
    models = read(repository)
    for name, config in models.items():
        _check_model(repository / name, config, path_map)
        for step in config.ensemble_scheduling.step:
            _check_step(step, models, where=str(repository / name / CONFIG_FILE))
        if config.ensemble_scheduling.step:
            _check_wiring(config, models, where=str(repository / name / CONFIG_FILE))


def paths(repository: Path) -> frozenset[Path]:
    """The files and directories that a server of ``repository`` reads: those in its models' parameters.

    Raises:
        ToolError: a config cannot be read, or there is none.
    """
    return frozenset(Path(value) for model in read(repository).values() for _, value in _path_parameters(model))


def read(repository: Path) -> dict[str, ModelConfig]:
    """The configs of ``repository`` by model name.

    Raises:
        ToolError: a config cannot be read, or there is none.
    """
    models = {path.parent.name: _parse(path) for path in sorted(repository.glob(f"*/{CONFIG_FILE}"))}
    if not models:
        raise ToolError("no model in the repository", where=str(repository))
    return models


def _checked(match: re.Match[str], value: str, where: str) -> str:
    """The value, if it cannot change the meaning of the text around it."""
    line_start = match.string.rfind("\n", 0, match.start()) + 1
    quoted = match.string.count('"', line_start, match.start()) % 2 == 1
    if quoted and _BREAKS_OUT.search(value):
        raise UserError(f"{match[1]} has a quote, backslash, control character or '${{' in {value!r}", where=where)
    if not quoted and not _BARE.fullmatch(value):
        raise UserError(f"{match[1]} must be one word or number, not {value!r}", where=where)
    return value


def _line_with(text: str, what: str) -> str:
    return next(line.strip() for line in text.splitlines() if what in line)


def _parse(path: Path) -> ModelConfig:
    from tritonclient.grpc import model_config_pb2

    text = path.read_text()
    if "${" in text:
        raise ToolError(f"a variable was not filled: {_line_with(text, '${')}", where=str(path))
    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ToolError(f"not a model configuration: {error}", where=f"{path}:{error.GetLine()}") from error


def _check_model(model: Path, config: ModelConfig, path_map: PathMap) -> None:
    where = str(model / CONFIG_FILE)
    if config.name != model.name:
        raise ToolError(f"the model is named {config.name!r} in a folder named {model.name!r}", where=where)
    versions = _versions(model)
    if not versions:
        raise ToolError("no version folder", where=str(model))
    if config.backend == "python":
        for version in versions:
            if not (version / "model.py").is_file():
                raise ToolError("no model.py", where=str(version))
    for key, value in _path_parameters(config):
        if not value.startswith("/"):
            raise ToolError(f"{key} is {value}, which is not absolute", where=where)
        if not path_map(value).exists():
            raise ToolError(f"{key} is {value}, which does not exist", where=where)


def _path_parameters(config: ModelConfig) -> Iterator[tuple[str, str]]:
    for key, parameter in config.parameters.items():
        if _PATH_PARAMETER.search(key) and parameter.string_value:
            yield key, parameter.string_value


def _versions(model: Path) -> list[Path]:
    return sorted(path for path in model.iterdir() if path.is_dir() and path.name.isdigit())


def _check_step(step: ModelConfig, models: Mapping[str, ModelConfig], where: str) -> None:
    """Raises if an ensemble's step uses an unknown model or tensor, or leaves a tensor out."""
    if step.model_name not in models:
        raise ToolError(f"a step needs model {step.model_name!r}, which is not in the repository", where=where)
    model = models[step.model_name]
    for kind, mapped, declared in (
        ("input", step.input_map, model.input),
        ("output", step.output_map, model.output),
    ):
        names = {tensor.name for tensor in declared}
        if unknown := sorted(mapped.keys() - names):
            raise ToolError(f"model {model.name!r} has no {kind} {', '.join(unknown)}", where=where)
    needed = {tensor.name for tensor in model.input if not tensor.optional}
    if missing := sorted(needed - step.input_map.keys()):
        raise ToolError(f"a step gives model {model.name!r} no {', '.join(missing)}", where=where)


def _check_wiring(ensemble: ModelConfig, models: Mapping[str, ModelConfig], where: str) -> None:
    """Raises if an ensemble's tensor is used but never produced, or is used as another type."""
    made = {tensor.name: tensor.data_type for tensor in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        types = {tensor.name: tensor.data_type for tensor in models[step.model_name].output}
        made |= {tensor: types[name] for name, tensor in step.output_map.items()}
    for user, tensor, data_type in _uses(ensemble, models):
        if tensor not in made:
            raise ToolError(f"{user} needs {tensor!r}, which no step makes", where=where)
        if made[tensor] != data_type:
            raise ToolError(f"{user} takes {tensor!r} as another type than it is made", where=where)


def _uses(ensemble: ModelConfig, models: Mapping[str, ModelConfig]) -> Iterator[tuple[str, str, int]]:
    for step in ensemble.ensemble_scheduling.step:
        types = {tensor.name: tensor.data_type for tensor in models[step.model_name].input}
        for name, tensor in step.input_map.items():
            yield f"input {name} of model {step.model_name!r}", tensor, types[name]
    for tensor in ensemble.output:
        yield "the ensemble's output", tensor.name, tensor.data_type
