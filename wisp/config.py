"""Settings: built-in default < file < environment (WISP_SERVER_*, WISP_EDGE_*) < flag.

Unknown keys are refused wherever they stand. `configs/*.yaml` lists every key with its default.
"""

from __future__ import annotations

import difflib
import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from wisp.errors import ConfigError
from wisp.flags import spelled, with_mappings
from wisp.logs import LogFormat
from wisp.scheduler.tuning import MAX_WINDOW, PolicyName, Tuning

TINY = Path(__file__).parent / "models" / "tiny"
SMOLLM2 = TINY.with_name("smollm2")  # a drafter; its target is fetched
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
Dtype = Literal["float32", "bfloat16", "float16"]
DraftDtype = Literal[Dtype, "int8"]

EngineKind = Literal["torch", "vllm"]
DraftEngine = Literal["transformers", "llama", "vllm"]
DrafterMethod = Literal["draft_model", "eagle3", "mtp"]
LocalPath = Annotated[Path, AfterValidator(Path.expanduser)]  # `~` in a file has met no shell
HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://\S+$")]
AdapterName = Annotated[str, StringConstraints(pattern=r"^\S{1,128}$")]


_TUNING = Tuning()
# Of the programs that read an environment: each leaves the others' alone.
_PREFIXES = ("WISP_SERVER_", "WISP_EDGE_", "WISP_TOP_", "WISP_CHAT_", "WISP_DEMO_")
# How alike the name of a setting must be to be suggested; and how alike a variable of no program
# must be to be taken for one misspelt. Chosen: the standard library's own bound, and one that a
# letter too many or too few in `WISP_SERVER_HTTP` keeps.
_LIKE, _MISSPELT = 0.6, 0.9


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(_Section):
    host: str = Field("127.0.0.1", description="address to bind; 0.0.0.0 for every interface")
    port: int = Field(8000, ge=0, le=65535, description="0 picks a free port")


class ServerTls(_Section):
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
        _check_pair(self.cert, self.key)
        if self.client_ca and not self.cert:
            raise ValueError("client_ca needs cert and key: edges show theirs over TLS alone")
        return self


class EdgeTls(_Section):
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
        _check_pair(self.cert, self.key)
        _check_pair(self.http_cert, self.http_key)
        return self


def _check_pair(cert: Path | None, key: Path | None) -> None:
    if bool(cert) != bool(key):
        raise ValueError("a certificate and its key go together: give both")


class PaddingSettings(_Section):
    message_bytes: int = Field(
        0, ge=0, le=65536, description="size of every message after the first; 0: no padding"
    )
    interval_s: float = Field(
        0.05, ge=0.005, le=1, description="between two messages, if they are padded"
    )


class Admin(_Section):
    host: str = Field("127.0.0.1", description="address to bind")
    port: int | None = Field(
        None, ge=0, le=65535, description="null: operators use the HTTP port, with a key"
    )


class OwnDrafterSettings(_Section):
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
    def most(self) -> int:
        """Own drafts of a session; 0: there is no drafter."""
        return self.max_tokens if self.method else 0


class EngineSettings(_Section):
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


class SpeculationSettings(_Section):
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


class SchedulingSettings(_Section):
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


class EstimatorSettings(_Section):
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


class ApiSettings(_Section):
    tool_format: Literal["auto", "hermes", "llama3_json", "mistral"] = Field(
        "auto", description="how the target writes tool calls; auto: by its chat template"
    )
    cors_origins: list[str] = Field(
        [], description="web pages of these origins may use the endpoint; '*': all"
    )
    keep_alive_s: int = Field(
        120, ge=1, description="how long an idle HTTP connection is kept for its client"
    )


class TracingSettings(_Section):
    endpoint: HttpUrl | None = Field(
        None, description="traces go to this OTLP collector: http://HOST:4318/v1/traces; null: off"
    )
    share: float = Field(
        0.01, ge=0, le=1, description="of requests that are traced, if their caller does not say"
    )


class SloClass(_Section):
    tokens_per_s: float = Field(10.0, gt=0, description="rate that a session is promised")
    first_token_s: float = Field(2.0, gt=0, description="time to the first token")
    priority: int = Field(0, description="sessions of a lower one are shed for those of a higher")


ClassName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class DrafterSettings(_Section):
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


class PowerSettings(_Section):
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


class ServerConfig(BaseSettings):
    """wisp-server: verifies the drafts of many edges with the target model."""

    model_config = SettingsConfigDict(
        env_prefix="WISP_SERVER_",
        env_nested_delimiter="__",
        extra="forbid",
        nested_model_default_partial_update=True,  # a host given alone leaves the port as it is
    )

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


class EdgeConfig(BaseSettings):
    """wisp-edge: drafts with a small model for a wisp-server, serves applications here."""

    model_config = SettingsConfigDict(
        env_prefix="WISP_EDGE_",
        env_nested_delimiter="__",
        extra="forbid",
        nested_model_default_partial_update=True,
    )

    server: str = Field(
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


Config = TypeVar("Config", bound=BaseSettings)


def load(kind: type[Config], arguments: Sequence[str], program: str) -> Config:
    """Settings from `--config FILE`, the environment and flags (`--http.port 0`).

    Raises ConfigError with one sentence for each fault.
    """
    path, flags = _take_config_flag(spelled(arguments))
    flags = with_mappings(flags, _mappings(kind))
    _check_environment(kind)
    in_file = _read(path) if path else {}
    if "config" in in_file:
        raise ConfigError("unknown key 'config': one file is read, that of --config")

    class Layered(_with_file(kind)):  # type: ignore[misc]
        """"""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return _flags(settings_cls, program, flags), env_settings, init_settings

    prefix = kind.model_config["env_prefix"]
    Layered.__doc__ = f"{kind.__doc__} Also: environment {prefix}*."
    try:
        layered = Layered(**in_file)
    except ValidationError as error:
        known = sorted(_keys(kind))
        raise ConfigError("; ".join(_sentence(fault, known) for fault in error.errors())) from error
    except SettingsError as error:
        raise ConfigError(str(error).removeprefix("error parsing CLI: ")) from error
    # Of the public class, not the local one, so that other processes can unpickle it.
    values = {name: getattr(layered, name) for name in kind.model_fields}
    return cast(Config, kind.model_construct(**values))


def flags_of(kind: type[BaseSettings], program: str) -> ArgumentParser:
    """The parser of its flags, for those who want to know their names."""
    parser: ArgumentParser = _flags(_with_file(kind), program, None).root_parser
    return parser


def _with_file(kind: type[Config]) -> type[Config]:
    class WithFile(kind):  # type: ignore[misc, valid-type]
        model_config = SettingsConfigDict(env_parse_none_str="null")
        config: Path | None = Field(None, description="file with settings (YAML)")  # for --help

    return WithFile


def _flags(kind: type[BaseSettings], program: str, flags: list[str] | None) -> Any:
    return CliSettingsSource(
        kind,
        cli_parse_args=flags,
        cli_prog_name=program,
        cli_hide_none_type=True,
        cli_parse_none_str="null",
        cli_avoid_json=True,
        cli_implicit_flags=True,
        cli_exit_on_error=False,
    )


def _mappings(kind: type[BaseModel], above: str = "") -> set[str]:
    """The flags whose values are dictionaries."""
    found = set()
    for name, field in kind.model_fields.items():
        if get_origin(field.annotation) is dict:
            found.add(above + name)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= _mappings(field.annotation, f"{above}{name}.")
    return found


def _check_environment(kind: type[BaseSettings]) -> None:
    """Raises ConfigError for a variable of this program that is no setting, or nearly one."""
    prefix = str(kind.model_config["env_prefix"])
    names = {f"{prefix}{name}".upper() for name in kind.model_fields}
    links = _service_links()
    for variable in sorted(os.environ):
        name, _, below = variable.upper().partition("__")
        if name in names or (name.startswith(links) and not below):
            continue
        is_ours = name.startswith(prefix)
        if not is_ours and not (name.startswith("WISP_") and not name.startswith(_PREFIXES)):
            continue
        near = difflib.get_close_matches(name, names, 1, _LIKE if is_ours else _MISSPELT)
        if near or is_ours:
            hint = f": did you mean {near[0]}?" if near else ": see configs/ for those that exist"
            raise ConfigError(f"the environment has '{variable}', which is no setting{hint}")


def _service_links() -> tuple[str, ...]:
    """What Kubernetes tells each pod of a Service, which may be named `wisp-server`, begins so."""
    ending = "_SERVICE_HOST"
    services = [name.removesuffix(ending) for name in os.environ if name.endswith(ending)]
    return tuple(f"{name}_{what}" for name in services for what in ("SERVICE_", "PORT"))


def _take_config_flag(arguments: list[str]) -> tuple[Path | None, list[str]]:
    for index, argument in enumerate(arguments):
        if argument == "--config":
            if index + 1 == len(arguments):
                raise ConfigError("--config needs a file")
            return Path(arguments[index + 1]), arguments[:index] + arguments[index + 2 :]
        if argument.startswith("--config="):
            return Path(argument.partition("=")[2]), arguments[:index] + arguments[index + 1 :]
    return None, arguments


# Not pydantic-settings' own source of YAML: that passes over a file that is missing, and raises
# whatever its reader does. Its sub-commands are one class with the settings of all commands, so
# that each command would load the libraries of every other one.
def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: save it in that encoding") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold keys and values")
    return content


def _keys(kind: type[BaseModel], above: str = "") -> set[str]:
    """Of all its settings, those of its sections included."""
    found = set()
    for name, field in kind.model_fields.items():
        found.add(above + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= _keys(field.annotation, f"{above}{name}.")
    return found


def _sentence(fault: Any, known: list[str]) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, known, 1, _LIKE)
        hint = f"did you mean '{near[0]}'?" if near else "see configs/ for those that exist"
        return f"unknown key '{key}': {hint}"
    return f"'{key}' is {fault['input']!r}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"
