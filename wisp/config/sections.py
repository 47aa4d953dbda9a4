"""What the settings of several programs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_settings import BaseSettings, SettingsConfigDict

TINY = Path(__file__).parent.parent / "models" / "tiny"
SMOLLM2 = TINY.with_name("smollm2")  # a drafter; its target is fetched
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
Dtype = Literal["float32", "bfloat16", "float16"]
EngineKind = Literal["torch", "vllm"]
LocalPath = Annotated[Path, AfterValidator(Path.expanduser)]  # `~` in a file has met no shell
HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://\S+$")]


class Settings(BaseSettings):
    """All settings of a program; it says with which prefix they stand in its environment."""

    model_config = SettingsConfigDict(
        env_nested_delimiter="__",
        extra="forbid",
        nested_model_default_partial_update=True,  # a host given alone leaves the port as it is
    )


class Section(BaseModel):
    """Settings that stand together under one key."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(Section):
    host: str = Field("127.0.0.1", description="address to bind; 0.0.0.0 for every interface")
    port: int = Field(8000, ge=0, le=65535, description="0 picks a free port")


class PaddingSettings(Section):
    message_bytes: int = Field(
        0, ge=0, le=65536, description="size of every message after the first; 0: no padding"
    )
    interval_s: float = Field(
        0.05, ge=0.005, le=1, description="between two messages, if they are padded"
    )


class ApiSettings(Section):
    tool_format: Literal["auto", "hermes", "llama3_json", "mistral"] = Field(
        "auto", description="how the target writes tool calls; auto: by its chat template"
    )
    cors_origins: list[str] = Field(
        [], description="web pages of these origins may use the endpoint; '*': all"
    )
    keep_alive_s: int = Field(
        120, ge=1, description="how long an idle HTTP connection is kept for its client"
    )


class TracingSettings(Section):
    endpoint: HttpUrl | None = Field(
        None, description="traces go to this OTLP collector: http://HOST:4318/v1/traces; null: off"
    )
    share: float = Field(
        0.01, ge=0, le=1, description="of requests that are traced, if their caller does not say"
    )


def check_pair(cert: Path | None, key: Path | None) -> None:
    if bool(cert) != bool(key):
        raise ValueError("a certificate and its key go together: give both")
