"""Every setting of hourglass-serve, once: flag, HOURGLASS_ environment variable, TOML key and help text."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from service import remote
from service.start import StartError

ENV_PREFIX = "HOURGLASS_"
_OTHERS = {"HOURGLASS_SERVER", "HOURGLASS_DATA"}  # the hourglass program's and the benchmarks'
_PORT = Field(ge=0, le=65535)


class Settings(BaseSettings):
    """Serve the autoencoders of a folder over gRPC.

    Every option is also an environment variable (--grpc-port: HOURGLASS_GRPC_PORT) and a key of the TOML file given
    with --config (grpc_port). A flag beats the environment, which beats the file. Secrets are given as file paths.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,  # templates leave variables empty
        extra="forbid",
        frozen=True,
        cli_prog_name="hourglass-serve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )

    exported: Annotated[
        str,
        Field(description="folder of published models, <name>/<version>/; or its URL: https://, s3://, gs://"),
    ]
    cache: Annotated[
        Path | None,
        Field(
            description="where --exported is a URL: folder that its models are fetched into; shared only by servers "
            "of the same URL, --versions and --model-control poll"
        ),
    ] = None
    config: Annotated[Path | None, Field(description="TOML file with any of these settings")] = None
    host: Annotated[str, Field(description="address to listen on; 0.0.0.0 for every interface")] = "127.0.0.1"
    grpc_port: Annotated[int, _PORT, Field(description="port of the gRPC API; 0 takes a free one")] = 8001
    metrics_port: Annotated[int, _PORT, Field(description="port of /metrics; 0 takes a free one")] = 8002
    device: Annotated[
        str,
        Field(
            pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$",
            description="where models run: auto, cpu, cuda or cuda:N, the GPU with this number; cuda refuses to start "
            "without one, auto falls back to the CPU",
        ),
    ] = "auto"
    gpu_instances: Annotated[
        int,
        Field(ge=1, le=16, description="on a GPU: sessions of each graph, some 70 MiB each, that compute at once"),
    ] = 2
    gpu_memory_bytes: Annotated[
        int,
        Field(
            ge=0,
            description="on a GPU: most bytes that one such session may compute with; larger batches are run in parts; "
            "0 for no limit",
        ),
    ] = 0
    tf32: Annotated[
        bool,
        Field(description="on a GPU: round the factors of products to 10 bits, for speed; scores move by about 1e-3"),
    ] = False
    versions: Annotated[str, Field(description="versions of each model to load: latest:N, or all")] = "latest:2"
    poll_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=86400,
            allow_inf_nan=False,
            description="time between two looks for new, changed and removed versions; 0: never",
        ),
    ] = 5
    model_control: Annotated[
        Literal["poll", "explicit"],
        Field(description="poll: serve all models of the folder; explicit: those that RepositoryModelLoad names"),
    ] = "poll"
    allow_empty: Annotated[
        bool, Field(description="start though there are no models, or some that cannot be served, and wait for them")
    ] = False
    max_batch_rows: Annotated[
        int, Field(ge=1, le=2**20, description="most rows that are run together, and that one request may carry")
    ] = 1024
    max_queue_rows: Annotated[
        int, Field(ge=1, le=2**30, description="most rows that may wait for one graph of a model; others are refused")
    ] = 16384
    max_queue_bytes: Annotated[
        int,
        Field(ge=1, description="most bytes that these rows may have; a message in memory takes about twice its rows"),
    ] = 128 * 2**20
    max_message_bytes: Annotated[
        int, Field(ge=65536, le=2**31 - 1, description="largest message a caller may send")
    ] = 16 * 2**20
    max_connection_age_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="connections are asked to reconnect after this time, spreading load over replicas",
        ),
    ] = 30
    drain_seconds: Annotated[
        float,
        Field(ge=0, le=86400, description="after SIGTERM: time to go on serving while health says NOT_SERVING"),
    ] = 35
    drift_window_rows: Annotated[
        int,
        Field(
            ge=0, le=2**30, description="rows of traffic that are compared with a model's calibration rows; 0: none are"
        ),
    ] = 2000
    processes: Annotated[
        int,
        Field(
            ge=1,
            le=256,
            description="server processes on the one port, each with models, queues, drift windows and a share of the "
            "cores of its own",
        ),
    ] = 1
    threads: Annotated[
        int,
        Field(
            ge=1,
            le=1024,
            description="threads one batch is computed on; on the CPU so many batches of a model run at once that all "
            "of the cgroup's cores are used",
        ),
    ] = 1
    batch_delay_ms: Annotated[
        float,
        Field(ge=0, le=1000, description="how long a batch that is not full waits for more rows; 0: not at all"),
    ] = 0
    traces_endpoint: Annotated[
        str | None,
        Field(
            pattern=r"^https?://",
            description="collector that traces of calls are sent to, by OTLP over gRPC: http://collector:4317; without "
            "it there are none",
        ),
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="least severe log lines to write")
    ] = "info"
    tls_cert: Annotated[Path | None, Field(description="PEM certificate chain: the gRPC port speaks TLS")] = None
    tls_key: Annotated[Path | None, Field(description="PEM private key of the certificate")] = None
    tls_client_ca: Annotated[
        Path | None, Field(description="PEM authorities: clients must show a certificate of theirs")
    ] = None
    auth_token_file: Annotated[
        Path | None,
        Field(description="file with the bearer tokens, one a line, of which callers must show one"),
    ] = None
    reflection: Annotated[bool, Field(description="offer gRPC server reflection")] = True
    triton_metrics: Annotated[
        bool, Field(description="offer Triton's metric names, nv_inference_*, beside our own on /metrics")
    ] = False

    @field_validator("versions")
    @classmethod
    def _versions(cls, value: str) -> str:
        if value != "all" and not re.fullmatch(r"latest:[1-9][0-9]{0,5}", value):
            raise ValueError("give latest:N with N of at least 1, or all")
        return value

    @field_validator("exported")
    @classmethod
    def _exported(cls, value: str) -> str:
        if remote.is_url(value):
            remote.check(value)
        return value

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.max_queue_rows < self.max_batch_rows:
            raise ValueError("--max-queue-rows is smaller than --max-batch-rows: no full request could wait")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key come together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("--tls-client-ca needs --tls-cert and --tls-key")
        if remote.is_url(self.exported) != (self.cache is not None):
            raise ValueError("--cache and a URL in --exported come together")
        if self.cache is not None and self.model_control == "explicit" and self.processes > 1:
            raise ValueError("--cache with --model-control explicit is one process's: others know of other models")
        return self

    @property
    def folder(self) -> Path:
        """Of the models, on this machine."""
        return self.cache or Path(self.exported)

    @property
    def newest(self) -> int | None:
        """How many versions of each model to load; None for all."""
        return None if self.versions == "all" else int(self.versions.removeprefix("latest:"))

    def with_absolute_paths(self) -> Settings:
        """The same settings, independent of the working directory."""
        paths = {name: value.absolute() for name, value in self if isinstance(value, Path)}
        if self.cache is None:
            return self.model_copy(update={**paths, "exported": str(self.folder.absolute())})
        return self.model_copy(update=paths)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # init_settings carries the parsed flags, and through them the name of the file.
        file = init_settings().get("config") or env_settings().get("config")
        sources = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, Path(file))) if file else sources


def load(arguments: list[str]) -> Settings:
    """Read flags, environment and file. Raises StartError with one line naming the setting and what is wrong."""
    flags = CliSettingsSource(Settings, cli_parse_args=arguments)()
    file = flags.get("config") or os.environ.get(f"{ENV_PREFIX}CONFIG")
    if file and not Path(file).is_file():
        raise StartError(f"--config {file}: not a file")
    try:
        return Settings(**flags)
    except ValidationError as error:
        first = error.errors()[0]
        setting = ".".join(str(part) for part in first["loc"])
        flag = f"--{setting.replace('_', '-')} ({ENV_PREFIX}{setting.upper()}): " if setting else ""
        if first["type"] == "extra_forbidden":
            raise StartError(f"{file}: there is no setting {setting!r}") from None
        if first["type"] == "missing":
            raise StartError(f"{flag}this setting is required") from None
        raise StartError(f"{flag}{first['msg'].removeprefix('Value error, ')}") from None
    except (SettingsError, ValueError, OSError) as error:
        raise StartError(f"{file or 'settings'}: {error}") from None


def unknown_environment() -> list[str]:
    """HOURGLASS_ variables that are no setting: probably misspelt."""
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields} | _OTHERS
    return sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in known)
