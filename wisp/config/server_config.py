"""The settings of wisp-server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from wisp.config.sections import (
    TINY,
    ApiSettings,
    Dtype,
    EngineKind,
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
from wisp.scheduler.tuning import MAX_WINDOW, PolicyName, Tuning

DrafterMethod = Literal["draft_model", "eagle3", "mtp"]
AdapterName = Annotated[str, StringConstraints(pattern=r"^\S{1,128}$")]
ClassName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]

_TUNING = Tuning()


class ServerTls(Section):
    cert: LocalPath | None = Field(
        None, description="certificate chain of both fronts (PEM); null: plain text"
    )
    key: LocalPath | None = Field(None, description="its private key (PEM)")
    http: bool = Field(True, description="false: of gRPC alone; HTTP stays plain text")
    client_ca: LocalPath | None = Field(
        None, description="edges must show a certificate of this authority (PEM); null: none"
    )

    @model_validator(mode="after")
    def _belong_together(self) -> ServerTls:
        check_pair(self.cert, self.key)
        if self.client_ca and not self.cert:
            raise ValueError("client_ca needs cert and key: edges show theirs over TLS alone")
        return self


class Admin(Section):
    host: str = Field("127.0.0.1", description="address to bind")
    port: int | None = Field(
        None, ge=0, le=65535, description="null: operators use the HTTP port, with a key"
    )


class OwnDrafterSettings(Section):
    method: DrafterMethod | None = Field(
        None,
        description="the server drafts itself where no edge does: draft_model; vllm also: eagle3, "
        "mtp; null: it does not",
    )
    model: LocalPath | None = Field(
        None,
        description="Hugging Face directory: of a small model with the target's tokenizer, or of "
        "the eagle3 head; mtp: null",
    )
    max_tokens: int = Field(
        4, ge=1, le=16, description="own drafts of a session in one step, at most"
    )

    @model_validator(mode="after")
    def _belong_together(self) -> OwnDrafterSettings:
        if self.method == "mtp":
            if self.model is not None:
                raise ValueError("method mtp has its layers in the target: leave model out")
        elif (self.method is None) != (self.model is None):
            raise ValueError("method and model go together: give both")
        return self

    @property
    def max_drafts(self) -> int:
        """Own drafts of a session; 0: there is no drafter."""
        return self.max_tokens if self.method else 0


class EngineSettings(Section):
    kind: EngineKind = Field("torch", description="the verifier behind the engine: torch or vllm")
    options: dict[str, Any] = Field(
        {}, description="vllm: further engine arguments, e.g. {gpu_memory_utilization: 0.8}"
    )
    lora_modules: dict[AdapterName, LocalPath] = Field(
        {}, description="vllm: served beside the target: PEFT directories of adapters by name"
    )
    drafter: OwnDrafterSettings = OwnDrafterSettings()
    overlap: bool = Field(True, description="vllm: launch a step while the one before still runs")
    device: str = Field("cpu", description="torch device, e.g. cpu or cuda:0")
    dtype: Dtype | None = Field(None, description="null: float32 on the CPU, bfloat16 on a GPU")
    num_threads: int = Field(1, ge=1, description="CPU threads of the target")
    max_sessions: int = Field(32, ge=1, description="sessions open at once; more are refused")
    num_slots: int | None = Field(
        None, ge=1, description="torch: sessions whose KV has room at once; null: max_sessions"
    )
    host_kv_gib: float = Field(
        0.0, ge=0, description="host memory for the KV of sessions that have time; 0: none"
    )
    patience_s: float = Field(
        60.0, gt=0, description="an engine that says nothing for so long is given up"
    )
    max_model_len: int | None = Field(
        None, ge=2, description="prompt and answer in tokens; null: what the model can"
    )


class SpeculationSettings(Section):
    window: int = Field(
        _TUNING.window, ge=0, description="draft tokens an edge may be ahead; 0: no drafts"
    )
    threshold: float = Field(
        _TUNING.threshold,
        ge=0,
        le=1,
        description="an edge drafts on while cumulative acceptance is at least this",
    )
    block_tokens: int = Field(
        _TUNING.block_tokens, ge=1, description="drafts that are worth a step"
    )
    max_ngram: int = Field(
        8, ge=0, description="policy wisp: n-gram drafts while no edge's are there; 0: none"
    )
    max_window: int = Field(
        MAX_WINDOW, ge=1, description="more waiting drafts than this are an error"
    )
    max_forks: int = Field(
        8, ge=0, description="forks of a session's drafts that may wait; 0: none"
    )

    @model_validator(mode="after")
    def _window_fits(self) -> SpeculationSettings:
        if self.window > self.max_window:
            raise ValueError(f"window {self.window} exceeds max_window {self.max_window}")
        return self


class SchedulingSettings(Section):
    policy: PolicyName = Field(
        "wisp", description="who is verified next: wisp, wisp-paper, sled, fcfs or centralized"
    )
    max_step_tokens: int = Field(
        _TUNING.max_step_tokens, ge=1, description="tokens in one step, prefill included"
    )
    batch_size: int = Field(
        _TUNING.batch_size, ge=1, description="sled: sessions of one static batch"
    )
    batch_wait_s: float = Field(
        _TUNING.batch_wait_s, ge=0, description="sled: longest wait for a full batch"
    )
    switchable: bool = Field(
        False, description="operators may POST another policy to /v1/policy while it runs"
    )


class EstimatorSettings(Section):
    state_dir: LocalPath | None = Field(
        Path("~/.cache/wisp"),
        description="where step times are kept between runs; null: nowhere",
        validate_default=True,
    )
    profile_s: float | None = Field(
        None,
        ge=0,
        description="time to profile a target not seen before; null: 60 on a GPU, 2 on a CPU",
    )


class SloClass(Section):
    tokens_per_s: float = Field(10.0, gt=0, description="rate that a session is promised")
    first_token_s: float = Field(2.0, gt=0, description="time to the first token")
    priority: int = Field(0, description="sessions of a lower one are shed for those of a higher")


class ServerConfig(Settings):
    """wisp-server: verifies the drafts of many edges with the target model."""

    model_config = SettingsConfigDict(env_prefix="WISP_SERVER_")

    target: LocalPath = Field(TINY / "target", description="Hugging Face directory of the target")
    model: str | None = Field(None, description="name to serve it under; null: the directory's")
    http: Listen = Listen()
    grpc: Listen = Listen(port=8001)
    admin: Admin = Admin()
    tls: ServerTls = ServerTls()
    padding: PaddingSettings = PaddingSettings()
    keys: LocalPath | None = Field(
        None, description="file of keys that `wisp keys` makes; null: nobody is asked for one"
    )
    insecure: bool = Field(False, description="allow plain text beyond this machine")
    api: ApiSettings = ApiSettings()
    engine: EngineSettings = EngineSettings()
    scheduling: SchedulingSettings = SchedulingSettings()
    speculation: SpeculationSettings = SpeculationSettings()
    estimator: EstimatorSettings = EstimatorSettings()
    slo: SloClass = SloClass()
    slo_classes: dict[ClassName, SloClass] = Field(
        {
            "interactive": SloClass(tokens_per_s=20.0, first_token_s=0.5, priority=1),
            "batch": SloClass(tokens_per_s=2.0, first_token_s=30.0, priority=-1),
        },
        description="further classes by name, for requests to choose from",
    )
    drain_s: float = Field(30.0, ge=0, description="time running sessions get after SIGTERM")
    tracing: TracingSettings = TracingSettings()
    log_level: LogLevel = "INFO"
    log_format: LogFormat = Field("text", description="lines for people, or JSON: text or json")

    @field_validator("slo_classes")
    @classmethod
    def _names_are_free(cls, classes: dict[str, SloClass]) -> dict[str, SloClass]:
        for name in ("default", "custom"):
            if name in classes:
                raise ValueError(f"the class name '{name}' is taken: choose another")
        return classes


class ProfileConfig(ServerConfig):
    """wisp profile: measures the target's steps for wisp-server, with its settings.

    `estimator.profile_s` null is 60 on a GPU and 10 on a CPU here.
    """

    as_json: bool = Field(
        False, validation_alias="json", description="print one JSON object and nothing else"
    )
