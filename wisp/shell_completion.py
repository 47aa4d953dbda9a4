"""`wisp completion SHELL`: prints what completes the names of commands and flags there."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import shtab

from wisp.config import EdgeConfig, ServerConfig, Settings, flags_of

# Where the flags of each command are: a settings class, or what makes a parser.
_FLAGS = {
    "demo": "wisp.demo.main:DemoConfig",
    "server": "wisp.config:ServerConfig",
    "profile": "wisp.config:ProfileConfig",
    "chat": "wisp.chat:ChatConfig",
    "top": "wisp.top:TopConfig",
    "edge": "wisp.config:EdgeConfig",
    "edge-bench": "wisp.edge.bench:BenchConfig",
    "certs": "wisp.certs_command:parser",
    "models": "wisp.models_command:parser",
    "keys": "wisp.keys_command:parser",
    "train-predictor": "wisp.edge.predictor.train:parser",
    "completion": "wisp.shell_completion:parser",
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "wisp completion",
        description="Completion of commands and flags: put it into the start-up file of your shell "
        'as eval "$(wisp completion bash)".',
    )
    made.add_argument("shell", choices=("bash", "zsh"))
    return made


def run(arguments: Sequence[str], commands: Mapping[str, str]) -> int:
    """`commands`: one line of help for each."""
    shell = parser().parse_args(arguments).shell
    whole = argparse.ArgumentParser("wisp")
    below = whole.add_subparsers()
    for name, about in commands.items():
        found = _flags(name)
        below.add_parser(name, help=about, parents=[found] if found else [], add_help=not found)
    programs = flags_of(ServerConfig, "wisp-server"), flags_of(EdgeConfig, "wisp-edge")
    for program in (whole, *programs):
        print(shtab.complete(_with_files(program), shell=shell))
    return 0


def _flags(name: str) -> argparse.ArgumentParser | None:
    """None where a library is missing that the command needs anyway."""
    module, _, what = _FLAGS[name].partition(":")
    try:
        found = getattr(importlib.import_module(module), what)
    except ModuleNotFoundError:
        return None
    if isinstance(found, type) and issubclass(found, Settings):
        return flags_of(found, f"wisp {name}")
    made: argparse.ArgumentParser = found()
    return made


def _with_files(program: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Flags that name a file or a directory complete those."""
    for action in program._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _with_files(command)
        elif action.type is Path or "Path" in str(action.metavar):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return program
