"""The command line of `wisp keys`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from wisp.access.keys import KeyRecord, add, read, revoke
from wisp.errors import ConfigError

# Sessions at once of a key that is given no number. Chosen: as many as an edge drafts for.
MAX_SESSIONS = 8


def run(arguments: Sequence[str]) -> int:
    """Raises ConfigError."""
    asked = parser().parse_args(arguments)
    if asked.command == "add":
        record = KeyRecord(
            name=asked.name,
            operator=asked.operator,
            max_sessions=asked.max_sessions or None,
            requests_per_minute=asked.requests_per_minute,
            tokens_per_minute=asked.tokens_per_minute,
            slo_classes=asked.slo_class,
            max_priority=asked.max_priority,
        )
        print(add(asked.file, record))
    elif asked.command == "revoke":
        if asked.name not in read(asked.file).by_name and not asked.certificate:
            raise ConfigError(
                f"there is no key '{asked.name}': say --certificate if it is the name in one"
            )
        revoke(asked.file, asked.name)
    else:
        for record in read(asked.file).by_name.values():
            print(_line(record))
    return 0


def _line(record: KeyRecord) -> str:
    quota = record.quota
    limits = [
        f"{field}={value}"
        for field in quota.__struct_fields__
        if (value := getattr(quota, field)) is not None
    ]
    kind = "revoked" if record.revoked else "operator" if record.operator else "user"
    return "  ".join([record.name, kind, *limits])


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("wisp keys", description="Who may use a server.")
    commands = made.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="make a key, and print it this once")
    revoking = commands.add_parser("revoke", help="let nobody in by this name any more")
    for command in (adding, revoking):
        command.add_argument("name")
    for command in (adding, revoking, commands.add_parser("list", help="names and limits")):
        command.add_argument(
            "--file", type=Path, required=True, help="the server's file of keys (--keys)"
        )
    revoking.add_argument(
        "--certificate", action="store_true", help="it is the name in an edge's certificate"
    )
    adding.add_argument(
        "--max-sessions", type=int, default=MAX_SESSIONS, help="at once; 0: no limit (8)"
    )
    adding.add_argument("--operator", action="store_true", help="may see and set what operators do")
    for name, what in (
        ("--requests-per-minute", "requests"),
        ("--tokens-per-minute", "tokens of prompts and answers"),
        ("--max-priority", "priority of its SLO class at most"),
    ):
        adding.add_argument(name, type=int, help=what)
    adding.add_argument(
        "--slo-class", action="append", help="one that it may ask for; may be repeated"
    )
    return made
