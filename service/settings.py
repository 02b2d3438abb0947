"""What can be set, each by a flag of ``serve`` or by an environment variable ``NEXTCHUNK_…``.

Settings are built in ``__main__``'s commands, never at import. ``docs/configuration.md`` has a row
for each, and a test compares the two.
"""

import argparse
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX = "NEXTCHUNK_"
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Settings(BaseSettings):
    """Settings of the service; a flag wins over the environment, and that over the default."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="ignore", frozen=True
    )

    data: Path = Field(description="Folder of the store and its indexes.")
    checkpoint: Path | None = Field(
        None, description="Checkpoint folder; without one the service answers by retrieval."
    )
    more_checkpoints: str = Field(
        "", description="Further models as name=folder, comma-separated; requests name them."
    )
    dimension: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Dimension of an empty store; else the checkpoint's, or the first chunk's.",
    )
    rerank: bool = Field(
        True,
        description="Whether the checkpoint's re-ranker takes part; false wins over any request.",
    )
    index_memory_bytes: int = Field(
        0,
        ge=0,
        description="Most memory of all indexes together, in bytes; 0 is as much as is fastest.",
    )
    index_url: str = Field(
        "",
        description="Milvus that keeps the chunks, milvus://HOST:PORT/DATABASE; empty is data.",
    )
    index_token: SecretStr = Field(
        SecretStr(""), description="user:password or API key of that Milvus; empty is none."
    )
    index_consistency: Literal["bounded", "strong", "eventually"] = Field(
        "bounded", description="Which writes a question to that Milvus waits for."
    )
    index_timeout_s: float = Field(
        5.0, gt=0, le=600, description="Most seconds that one call to that Milvus may take."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    tls_certificate: Path | None = Field(
        None, description="PEM file of the certificate chain; with it the service speaks HTTPS."
    )
    tls_key: Path | None = Field(None, description="PEM file of the certificate's private key.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="What the encoders of window and bag compute in."
    )
    workers: int = Field(2, ge=1, le=64, description="Batches that are computed at once.")
    torch_threads: int = Field(
        0,
        ge=0,
        le=64,
        description="Threads that the batches share (torch and FAISS); 0 is one a core, up to 4.",
    )
    queue_limit: int = Field(
        256, ge=0, le=10_000, description="Requests that may wait for a worker before 429."
    )
    write_queue_limit: int = Field(
        64, ge=0, le=10_000, description="Writes that may wait for the writer before 429."
    )
    retry_after_s: int = Field(
        1,
        ge=1,
        le=3600,
        description="Retry-After of a 429, or of a 503 as the service stops, in seconds.",
    )
    rate_limit: float = Field(
        0.0, ge=0, description="Requests a second for each API key or address; 0 is no limit."
    )
    rate_burst: int = Field(
        100, ge=1, description="Requests that may come at once before the rate counts."
    )
    deadline_ms: float = Field(
        2000.0, gt=0, description="Milliseconds after which auto answers by DIRECT, p8 by 504."
    )
    deadline_limit_ms: float = Field(
        60_000.0, gt=0, description="Most milliseconds that X-Request-Timeout may ask for."
    )
    drain_s: int = Field(
        10, ge=0, le=3600, description="Seconds that running requests get to finish at the end."
    )
    body_limit_bytes: int = Field(
        16 * 1024 * 1024, ge=1024, description="Greatest request body, in bytes, before 413."
    )
    batch_limit: int = Field(
        64, ge=1, le=10_000, description="Most queries or pairs in one request."
    )
    top_k_limit: int = Field(1000, ge=1, le=10_000, description="Most results of one query.")
    candidates_limit: int = Field(
        1000, ge=1, le=100_000, description="Most explicit candidates in one query."
    )
    sequence_limit: int = Field(
        256, ge=2, le=1000, description="Most chunks in a bag to be put into order."
    )
    upsert_limit: int = Field(
        1000, ge=1, le=100_000, description="Most chunks written, or ids deleted, by one request."
    )
    text_limit: int = Field(
        100_000, ge=1, description="Most characters of one text, in a chunk or a context."
    )
    metadata_limit_bytes: int = Field(
        65_536, ge=2, description="Most bytes of one chunk's metadata, as JSON."
    )
    embedder: str = Field(
        "", description="Embedding model for texts; empty is the one recorded in the store."
    )
    api_keys: Path | None = Field(
        None, description="File of API keys, read again when it changes; without it all may call."
    )
    cors_origins: str = Field(
        "", description="Origins whose pages may call, comma-separated; empty is none."
    )
    metrics: bool = Field(True, description="Whether /metrics answers.")
    docs: bool = Field(False, description="Whether /docs shows the API in a browser.")
    otlp_endpoint: str = Field(
        "", description="Where traces go (OTLP over HTTP); empty is nowhere. Needs the otel extra."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line that is written."
    )

    @property
    def further_checkpoints(self) -> dict[str, Path]:
        """Folder of each further model, by its name."""
        pairs = (item.partition("=") for item in self.more_checkpoints.split(",") if item.strip())
        return {name.strip(): Path(folder.strip()) for name, _, folder in pairs}

    @field_validator("more_checkpoints")
    @classmethod
    def _names_and_folders(cls, value: str) -> str:
        names = []
        for item in filter(str.strip, value.split(",")):
            name, sign, folder = (part.strip() for part in item.partition("="))
            if not (sign and folder and MODEL_NAME.fullmatch(name)):
                raise ValueError(f"expected name=folder, got {item.strip()!r}")
            names.append(name)
        if len({*names, "default"}) <= len(names):
            raise ValueError("expected names that differ from each other and from 'default'")
        return value


class SettingsError(ValueError):
    """A setting is missing or out of range; the message has one line for each."""


def flag_of(name: str) -> str:
    """Flag that sets a field."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """Environment variable that sets a field."""
    return ENV_PREFIX + name.upper()


def add_flags(parser: argparse.ArgumentParser, names: tuple[str, ...] | None = None) -> None:
    """Give a parser one flag for each setting, or for those named."""
    for name, field in Settings.model_fields.items():
        if names is not None and name not in names:
            continue
        default = "required" if field.is_required() else f"default {field.default!r}"
        parser.add_argument(
            flag_of(name),
            dest=name,
            default=argparse.SUPPRESS,
            metavar=name.rpartition("_")[2].upper(),
            help=f"{field.description} ({default}; environment {variable_of(name)})".replace(
                "%", "%%"
            ),
        )


def settings_from(args: argparse.Namespace) -> Settings:
    """Build settings from parsed flags, the environment and the defaults.

    Raises:
        SettingsError: If one is missing or out of range.
    """
    given: dict[str, Any] = {
        name: value for name, value in vars(args).items() if name in Settings.model_fields
    }
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = str(problem["loc"][0])
            got = "nothing" if problem["type"] == "missing" else repr(problem["input"])
            lines.append(f"{flag_of(name)} ({variable_of(name)}): {problem['msg']}, got {got}")
        raise SettingsError("\n".join(lines)) from error
