"""The one place for paths, ports and names. Each can be set by an environment variable ``HF2TRITON_<NAME>``."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PROJECT = Path(__file__).resolve().parent.parent


def _names(value: object) -> object:
    """The names in a text, with commas between them."""
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def _without_slash(value: object) -> object:
    return value.rstrip("/") if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]


class Settings(BaseSettings):
    """The settings of one deployment of hf2triton."""

    model_config = SettingsConfigDict(env_prefix="HF2TRITON_", frozen=True, extra="ignore")

    artifacts: Path = Field(
        default=PROJECT / ".local" / "artifacts",
        description="Root of the artifact store: one absolute path, the same on every worker and in containers.",
    )
    runner: Literal["process", "docker"] = Field(
        default="process", description="How stage programs start: a process on the worker, or a container."
    )
    docker_connection: str | None = Field(
        default=None, description="Airflow Connection of type docker: the login that images of its registry need."
    )
    openvino_image: str | None = Field(
        default=None,
        description="Where a registry has the openvino target's image, without its tag. None: it is built on the host.",
    )
    gpu_lease_dir: Path = Field(
        default=Path(tempfile.gettempdir()) / "hf2triton-gpus",
        description="Locks of this host's GPUs: one directory for all workers of a host, and of no other host.",
    )
    gpu_pool: str = Field(
        default="default_pool",
        description="Airflow pool of the stages that use GPUs: give it one slot for each that may run at once.",
    )
    serve_queue: str = Field(
        default="gpu",
        description="Airflow queue of what talks to servers, which are on one host: its worker alone listens to it.",
    )
    openvino_python: Path = Field(
        default=PROJECT / ".venvs" / "openvino" / "bin" / "python",
        description="Interpreter of the openvino target's own environment.",
    )
    vllm_python: Path = Field(
        default=PROJECT / ".venvs" / "vllm" / "bin" / "python",
        description="Interpreter of the vllm target's own environment, for runner process.",
    )
    vllm_modelopt: Path = Field(
        default=PROJECT / ".local" / "modelopt",
        description="The folder of ModelOpt, by which target vllm calibrates; make setup-vllm fills it.",
    )
    bind_address: str = Field(
        default="127.0.0.1",
        description="Address that the live endpoint and Airflow listen on; Triton itself is on loopback only.",
    )
    default_model: str | None = Field(
        default=None,
        description="Served name of the model that requests without a name go to. None: the one that went live first.",
    )
    public_url: Annotated[str, BeforeValidator(_without_slash)] | None = Field(
        default=None,
        pattern=r"^https?://[^/\s?#]+(/[^\s?#]*)?$",
        description="URL at which clients reach the live endpoint, in results and pages. None: this host's address.",
    )
    live_http_port: int = Field(default=8000, description="Triton's HTTP port of the live release.")
    live_grpc_port: int = Field(default=8001, description="Its gRPC port.")
    live_metrics_port: int = Field(default=8002, description="Its Prometheus metrics.")
    max_body_bytes: int = Field(
        default=1_000_000, gt=0, description="Longest body of a request to the live endpoint; more is answered by 413."
    )
    max_requests_in_flight: int = Field(
        default=512, gt=0, description="Requests to one live model at once, by HTTP or gRPC; more are answered by 429."
    )
    header_timeout_s: float = Field(
        default=10, gt=0, description="Longest time that a request's headers may take to arrive."
    )
    request_timeout_s: float = Field(
        default=60,
        gt=0,
        description="Longest time that a whole request may take to arrive; its answer may take longer.",
    )
    api_keys_file: Path | None = Field(
        default=None,
        description="File of mode 0600 with the API keys of the live endpoint's clients. None: everyone may ask it.",
    )
    tls_certificate_file: Path | None = Field(
        default=None, description="Certificate chain (PEM) of the live endpoint. None: it has no TLS."
    )
    tls_key_file: Path | None = Field(
        default=None, description="The certificate's private key (PEM), a file of mode 0600."
    )
    airflow_home: Path = Field(
        default=PROJECT / ".local" / "airflow", description="Database, logs and password of the embedded Airflow."
    )
    airflow_port: int = Field(default=8080, description="Airflow's web UI and REST API.")
    hub_endpoint: str | None = Field(
        default=None, validation_alias="HF_ENDPOINT", description="A mirror of the Hugging Face Hub."
    )
    hub_connection: str = Field(
        default="huggingface_default", description="Airflow Connection whose password is the Hub token."
    )
    catalogue: Path = Field(
        default=PROJECT / "include" / "requests" / "catalogue.yaml",
        description="The models that are followed: a YAML file, or a directory of them. See schedules.md.",
    )
    require_approval: bool = Field(
        default=False, description="Whether a person must approve every release and rollback, whatever a request says."
    )
    approvers: Names = Field(
        default=(), description="Ids of the users who may approve. Naming them requires approval. Empty: no limit."
    )
    four_eyes: bool = Field(
        default=False, description="Whether the user who triggered a run may not be the one who approves it."
    )
    refuse_breaking_changes: bool = Field(
        default=False, description="Whether a release that would break clients of the live release is refused."
    )
    drain_timeout_s: float = Field(
        default=120, description="Longest time that a server's last requests may take before it is stopped."
    )
    prune_dry_run: bool = Field(
        default=True, description="Whether the scheduled pruning only tells what it would remove."
    )
    signing_key: Path | None = Field(
        default=None,
        description="Private EC key (PEM) that signs model repositories. None: keys/signing.pem in the store, made "
        "at first use.",
    )
    require_signature: bool = Field(
        default=False, description="Whether a model repository without a signature is refused."
    )
    image_digests: tuple[str, ...] = Field(
        default=(),
        description='Accepted digests of images from a registry, a JSON list: ["sha256:..."]. Empty: any.',
    )
    launch_timeout_s: float = Field(default=600, description="Longest time a server may take to be ready.")
    server_logs: Path | None = Field(
        default=None, description="Directory of the logs of servers, proxy, API and supervisor. None: beside the store."
    )
    start_supervisor: bool = Field(
        default=True, description="Whether tasks start supervisor and API; not where these are services of their own."
    )

    @property
    def log_directory(self) -> Path:
        """The directory of the logs of servers; by default ``<artifacts>-logs``."""
        return self.server_logs or self.artifacts.with_name(f"{self.artifacts.name}-logs")


@cache
def settings() -> Settings:
    """The settings of this process, read from the environment once."""
    return Settings()
