"""The settings of wisp-edge."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import SettingsConfigDict

from wisp.config.sections import (
    TINY,
    ApiSettings,
    Dtype,
    Listen,
    LocalPath,
    LogLevel,
    PaddingSettings,
    Section,
    Settings,
    TracingSettings,
    check_pair,
)
from wisp.logs import LogFormat

DraftDtype = Literal[Dtype, "int8"]
DraftEngine = Literal["transformers", "llama", "vllm"]


def server_addresses(addresses: str) -> list[str]:
    """Each of those with commas between."""
    return [name.strip() for name in addresses.split(",") if name.strip()]


def _check_servers(addresses: str) -> str:
    names = server_addresses(addresses)
    if not names or not all(re.fullmatch(r"\S+:\d+", name) for name in names):
        raise ValueError("give HOST:PORT of each wisp-server, with commas between")
    return addresses


class EdgeTls(Section):
    ca: LocalPath | None = Field(
        None, description="authority of the server's certificate (PEM); null: those of the system"
    )
    cert: LocalPath | None = Field(None, description="the edge's own certificate (PEM)")
    key: LocalPath | None = Field(None, description="its private key (PEM)")
    http_cert: LocalPath | None = Field(
        None, description="certificate of its own HTTP endpoint (PEM); null: plain text"
    )
    http_key: LocalPath | None = Field(None, description="the private key of that (PEM)")

    @model_validator(mode="after")
    def _belong_together(self) -> EdgeTls:
        check_pair(self.cert, self.key)
        check_pair(self.http_cert, self.http_key)
        return self


class DrafterSettings(Section):
    device: str = Field(
        "cpu", description="torch device, e.g. cpu or cuda:0; vllm: cuda:1 is the second card"
    )
    dtype: DraftDtype | None = Field(
        None, description="null: int8 weights on the CPU, bfloat16 on a GPU"
    )
    num_threads: int | None = Field(
        1, ge=1, description="CPU threads of the drafter; null: llama.cpp's by a short timing, or 1"
    )
    max_model_len: int | None = Field(
        None,
        ge=2,
        description="longest text drafted behind; null: the model's; GGUF: 4096",
    )
    max_sessions: int = Field(8, ge=1, description="generations drafted at once")
    max_branches: int = Field(
        4, ge=1, description="branches of drafts in one step, if that pays; 1: one"
    )
    host_kv_gib: float = Field(
        0.25, ge=0, description="memory for the KV of conversations that may come back; 0: none"
    )
    memory_share: float = Field(
        0.5, gt=0, le=1, description="vllm: share of the card's memory, KV included"
    )
    options: dict[str, Any] = Field({}, description="vllm: further engine arguments")
    block_tokens: int = Field(1, ge=1, description="draft tokens gathered in one message")


class PowerSettings(Section):
    min_battery: float = Field(
        0.0, ge=0, le=1, description="on battery, rest below this share of its charge; 0: never"
    )
    max_share: float = Field(
        1.0, gt=0, le=1, description="share of the time that the drafter may compute"
    )
    max_celsius: float | None = Field(
        None, gt=0, description="draft less while the device is hotter; null: whatever it is"
    )
    min_chance: float | None = Field(
        None,
        gt=0,
        le=1,
        description="least chance of being used of what is drafted; null: by where the server is",
    )


class EdgeConfig(Settings):
    """wisp-edge: drafts with a small model for a wisp-server, serves applications here."""

    model_config = SettingsConfigDict(env_prefix="WISP_EDGE_")

    server: Annotated[str, AfterValidator(_check_servers)] = Field(
        "127.0.0.1:8001",
        description="gRPC address of the wisp-server; of several, with commas between",
    )
    draft: LocalPath = Field(
        TINY / "draft", description="the drafter: a Hugging Face directory, or a GGUF file"
    )
    engine: DraftEngine | None = Field(
        None,
        description="what runs the drafter: transformers, llama, or vllm for many users of a site; "
        "null: llama for a GGUF file, else transformers",
    )
    tokenizer: LocalPath | None = Field(
        None, description="directory of the target's tokenizer; null: what comes with the drafter"
    )
    http: Listen = Listen(port=8010)
    tls: EdgeTls = EdgeTls()
    padding: PaddingSettings = PaddingSettings()
    allowed_hosts: list[str] = Field(
        [], description="names that its endpoint answers to, beside addresses and its own"
    )
    keys: LocalPath | None = Field(
        None, description="file of keys for its own endpoint; null: nobody is asked for one"
    )
    key_file: LocalPath | None = Field(
        None, description="holds the key that the server knows this edge by; null: none"
    )
    insecure: bool = Field(False, description="allow plain text beyond this machine")
    api: ApiSettings = ApiSettings()
    drafter: DrafterSettings = DrafterSettings()
    power: PowerSettings = PowerSettings()
    state_dir: LocalPath | None = Field(
        None, description="keeps what the edge learns of target and draft; null: nowhere"
    )
    log_rounds: LocalPath | None = Field(
        None, description="writes what became of each draft here, for train-predictor; null: off"
    )
    log_rounds_mib: float = Field(64.0, gt=0, description="size that the log may grow to")
    device_name: str | None = Field(
        None, description="what the server's operators see; null: the host's name"
    )
    reconnect_s: float = Field(30.0, ge=0, description="how long a lost server is tried again")
    drain_s: float = Field(30.0, ge=0, description="time running requests get after SIGTERM")
    tracing: TracingSettings = TracingSettings()
    log_level: LogLevel = "INFO"
    log_format: LogFormat = Field("text", description="lines for people, or JSON: text or json")
