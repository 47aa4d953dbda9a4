"""What is logged: one line for each event, with the id of the request that it belongs to."""

from __future__ import annotations

import contextvars
import json
import logging
import re
import secrets
from typing import Literal

LogFormat = Literal["text", "json"]

REQUEST_ID_HEADER = "x-request-id"
REQUEST_ID: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")

_TEXT = "%(asctime)s %(name)s %(levelname)s %(request)s%(message)s"
# What a client may choose as its id. Chosen: any UUID or trace id fits, and nothing that breaks a
# line of a log or a header.
_VALID_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
# How much of what a client chose is shown in a line of the log. Chosen: every path of ours fits.
_MAX_SHOWN = 200
# Bytes of an id that is made here: unique by the standard RFC 9562, which has 122 random bits.
_ID_BYTES = 16


def request_id(asked: str | None) -> str:
    """The client's own, if it is one; else a new one."""
    return asked if asked and _VALID_ID.fullmatch(asked) else secrets.token_hex(_ID_BYTES)


def shown(chosen: str) -> str:
    """What a client chose, so that it neither begins a line of its own nor fills the log."""
    return "".join(char if char.isprintable() else "?" for char in chosen[:_MAX_SHOWN])


def log_to_stderr(level: str, form: LogFormat = "text") -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form == "json" else _Text(_TEXT))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        found = REQUEST_ID.get()
        record.request = f"[{found}] " if found else ""
        return super().format(record)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json_line(record)


def json_line(record: logging.LogRecord) -> str:
    """One object: what every line has, then the `fields` that were logged with it."""
    form = logging.Formatter(datefmt="%Y-%m-%dT%H:%M:%S%z")
    data = {
        "time": form.formatTime(record, form.datefmt),
        "level": record.levelname,
        "logger": record.name,
        "message": record.getMessage(),
        **getattr(record, "fields", {}),
    }
    if found := REQUEST_ID.get():
        data["request_id"] = found
    if record.exc_info:
        data["exception"] = form.formatException(record.exc_info)
    return json.dumps(data, ensure_ascii=False)
