"""Gates on the server as such: is it up, and does it serve what the repository says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from httpx import codes

from include.gates.base import Gate, Trial
from include.gates.verdict import GateResult
from include.triton import repository
from include.triton.client import MODEL, Client


class Ready(Gate, name="ready", threshold=f"Triton says live and ready, and that model {MODEL} is ready"):
    """The server says that it lives and is ready, and so is the model that users ask."""

    def judge(self, trial: Trial) -> GateResult:
        """Asks the health endpoints."""
        paths = ("/v2/health/live", "/v2/health/ready", f"/v2/models/{MODEL}/ready")
        said = {path: trial.client.get(path).status_code for path in paths}
        found = ", ".join(f"{path} {status}" for path, status in said.items())
        return self.verdict(all(status == codes.OK for status in said.values()), found)


class Templates(
    Gate,
    name="templates",
    threshold="each model's batch size, decoupled mode, tensors and parameters are the repository's",
):
    """The server runs the models of its repository, each with the config that the templates were filled to."""

    def judge(self, trial: Trial) -> GateResult:
        """Compares the served configs with the files."""
        if trial.repository is None:
            return self.skip("the repository is not known")
        differences = list(_differences(trial.repository, trial.client))
        return self.verdict(not differences, "; ".join(differences) or "all models are as in the repository")


def _differences(folder: Path, client: Client) -> Iterator[str]:
    written, served = repository.read(folder), client.models()
    if unknown := sorted(served - written.keys()):
        yield f"also served: {', '.join(unknown)}"
    for name, config in written.items():
        if name not in served:
            yield f"{name} is not served"
            continue
        wanted = _facts(config) | {"decoupled mode": _is_decoupled(name, written)}
        found = _facts(client.model_config(name))
        for fact in sorted(wanted):
            if wanted[fact] != found[fact]:
                yield f"{name}: {fact} is {found[fact]}, in the repository {wanted[fact]}"


def _is_decoupled(name: str, models: Mapping[str, Any]) -> bool:
    """Triton says it of an ensemble if one of its models is, whatever stands in the ensemble's own config."""
    config = models[name]
    steps = (models[step.model_name] for step in config.ensemble_scheduling.step)
    return any(model.model_transaction_policy.decoupled for model in (config, *steps))


def _facts(config: Any) -> dict[str, object]:  # noqa: ANN401 - tritonclient's generated message class
    return {
        "backend": config.backend or config.platform,
        "max_batch_size": config.max_batch_size,
        "decoupled mode": config.model_transaction_policy.decoupled,
        "inputs": {tensor.name: tensor.data_type for tensor in config.input},
        "outputs": {tensor.name: tensor.data_type for tensor in config.output},
        "parameters": {name: parameter.string_value for name, parameter in config.parameters.items()},
    }
