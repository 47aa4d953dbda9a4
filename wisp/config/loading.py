"""Settings as they are given: built-in default < file < environment (WISP_SERVER_*) < flag.

Unknown keys are refused wherever they stand. `configs/*.yaml` lists every key with its default.
"""

from __future__ import annotations

import difflib
import os
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from wisp.config.sections import Settings
from wisp.errors import ConfigError
from wisp.flags import spelled, with_mappings

# Of the programs that read an environment: each leaves the others' alone.
_PREFIXES = ("WISP_SERVER_", "WISP_EDGE_", "WISP_TOP_", "WISP_CHAT_", "WISP_DEMO_")
# How alike the name of a setting must be to be suggested; and how alike a variable of no program
# must be to be taken for one misspelt. Chosen: the standard library's own bound, and one that a
# letter too many or too few in `WISP_SERVER_HTTP` keeps.
_LIKE, _MISSPELT = 0.6, 0.9

Config = TypeVar("Config", bound=Settings)


def load(kind: type[Config], arguments: Sequence[str], program: str) -> Config:
    """Settings from `--config FILE`, the environment and flags (`--http.port 0`).

    Raises ConfigError with one sentence for each fault.
    """
    path, flags = _take_config_flag(spelled(arguments))
    settings = dict(_fields(kind))
    mappings = {key for key, field in settings.items() if get_origin(field.annotation) is dict}
    flags = with_mappings(flags, mappings)
    _check_environment(kind)
    in_file = _read(path) if path else {}
    if "config" in in_file:
        raise ConfigError("unknown key 'config': one file is read, that of --config")

    class Layered(_with_file(kind)):  # type: ignore[misc]
        """"""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[Any],
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
        faults = [_sentence(fault, sorted(settings)) for fault in error.errors()]
        raise ConfigError("; ".join(faults)) from error
    except SettingsError as error:
        raise ConfigError(str(error).removeprefix("error parsing CLI: ")) from error
    # Of the public class, not the local one, so that other processes can unpickle it.
    values = {name: getattr(layered, name) for name in kind.model_fields}
    return cast(Config, kind.model_construct(**values))


def flags_of(kind: type[Settings], program: str) -> ArgumentParser:
    """The parser of its flags, for those who want to know their names."""
    parser: ArgumentParser = _flags(_with_file(kind), program, None).root_parser
    return parser


def _with_file(kind: type[Config]) -> type[Config]:
    class WithFile(kind):  # type: ignore[misc, valid-type]
        model_config = SettingsConfigDict(env_parse_none_str="null")
        config: Path | None = Field(None, description="file with settings (YAML)")  # for --help

    return WithFile


def _flags(kind: type[Settings], program: str, flags: list[str] | None) -> Any:
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


def _fields(kind: type[BaseModel], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """All its settings by their keys, its sections and theirs included."""
    for name, field in kind.model_fields.items():
        yield above + name, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{above}{name}.")


def _check_environment(kind: type[Settings]) -> None:
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


def _sentence(fault: Any, known: list[str]) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, known, 1, _LIKE)
        hint = f"did you mean '{near[0]}'?" if near else "see configs/ for those that exist"
        return f"unknown key '{key}': {hint}"
    message = fault["msg"].removeprefix("Value error, ")  # pydantic's word for one of our own
    return f"'{key}' is {fault['input']!r}: {message[:1].lower()}{message[1:]}"
