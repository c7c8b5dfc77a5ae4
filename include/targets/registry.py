"""The targets by name."""

from __future__ import annotations

from include.errors import HostError
from include.host.docker.registry import FindLogin, no_login
from include.settings import Settings
from include.targets.base import Target


def get_target(name: str, settings: Settings, find_login: FindLogin = no_login) -> Target:
    """The target of that name; its image is pulled with the login that ``find_login`` finds.

    Raises:
        HostError: this deployment does not have it.
    """
    if name == "openvino":
        from include.targets.openvino import OpenVinoTarget

        return OpenVinoTarget(settings, find_login)
    if name == "tensorrt_llm":
        from include.targets.tensorrt_llm import TensorRTLLMTarget

        return TensorRTLLMTarget(settings, find_login=find_login)
    if name == "vllm":
        from include.targets.vllm import VllmTarget

        return VllmTarget(settings, find_login=find_login)
    raise HostError(
        f"target {name!r} is not available on this host",
        where="field target",
        fix="choose target openvino",
    )
