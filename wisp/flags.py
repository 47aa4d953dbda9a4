"""Flags as people write them, put into the one spelling that the settings read."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, Literal

import yaml

from wisp.errors import ConfigError


def spelled(arguments: Sequence[str], word: Literal["-", "_"] = "_") -> list[str]:
    """Hyphens and underscores are alike in the names of flags: all become `word`."""
    return [_spelled(argument, word) for argument in arguments]


def _spelled(argument: str, word: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    negated = "no-" if name.startswith(("no-", "no_")) else ""
    name = name[len(negated) :].replace("_", word).replace("-", word)
    return f"--{negated}{name}{equals}{value}"


def with_mappings(arguments: Sequence[str], names: Collection[str]) -> list[str]:
    """Of each of the flags `names`, all values together, as one of JSON.

    A value is a mapping in JSON or YAML, or `key=value` with the value in YAML, so that 4 is a
    number; several pairs with commas between. Raises ConfigError for anything else.
    """
    others: list[str] = []
    found: dict[str, dict[str, Any]] = {}
    left = iter(arguments)
    for argument in left:
        flag, equals, value = argument.partition("=")
        name = flag.removeprefix("--")
        if not flag.startswith("--") or name not in names:
            others.append(argument)
            continue
        if not equals:
            value = next(left, "")
        found.setdefault(name, {}).update(_mapping(name, value))
    return others + [
        f"--{name}={json.dumps(mapping, default=str)}" for name, mapping in found.items()
    ]


def _mapping(name: str, text: str) -> dict[str, Any]:
    try:
        key, equals, value = text.partition("=")
        if equals and not set(key) & set("{:"):
            pairs = [part.partition("=") for part in text.split(",")]
            if all(equals for _, equals, _ in pairs):
                return {key.strip(): yaml.safe_load(value) for key, _, value in pairs}
            return {key.strip(): yaml.safe_load(value)}
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--{name} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--{name} is a mapping, as key=value or {{key: value}}, not {text!r}")
    return content
