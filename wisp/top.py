"""`wisp top`: a running server in the terminal, drawn from its /v1/stats."""

from __future__ import annotations

import contextlib
import os
import select
import ssl
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx
import msgspec
from pydantic import Field
from pydantic_settings import SettingsConfigDict
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from wisp.config import LocalPath, Settings, load
from wisp.errors import ConfigError, Unavailable
from wisp.stats import Stats

# The rows of a table that are drawn. Chosen: three tables of it are more than a terminal shows.
_MAX_ROWS = 30
# How long the server's answer is waited for. Chosen: beyond the ten seconds that the server itself
# waits for its engine.
_TIMEOUT_S = 15.0

Cells = Sequence[str]


class TopConfig(Settings):
    """wisp top: what a running wisp-server does, in the terminal."""

    model_config = SettingsConfigDict(env_prefix="WISP_TOP_")

    server: str = Field("http://127.0.0.1:8000", description="the server's HTTP address")
    key_file: LocalPath | None = Field(None, description="holds an operator's key; null: none")
    ca: LocalPath | None = Field(
        None, description="authority of the server's certificate (PEM); null: those of the system"
    )
    interval_s: float = Field(1.0, ge=0.1, description="time between two looks")
    once: bool = Field(False, description="look once and leave")
    as_json: bool = Field(
        False, validation_alias="json", description="print JSON, an object a line"
    )


def run(arguments: Sequence[str]) -> int:
    """Look until `q` or an interrupt, or once. Raises Unavailable if there is no server."""
    config = load(TopConfig, arguments, "wisp top")
    with _client(config) as client:
        if config.as_json:
            return _print_json(client, config)
        stats = look(client, config.server)
        if config.once:
            Console().print(draw(stats))
            return 0
        with (
            _keys() as keys,
            Live(draw(stats), screen=sys.stdout.isatty(), auto_refresh=False) as live,
        ):
            while not quits(keys, config.interval_s):
                live.update(draw(look(client, config.server)), refresh=True)
        return 0


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """The terminal's descriptor, which tells each key at once; None: there is no terminal."""
    if not sys.stdin.isatty():
        yield None
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        yield terminal
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def quits(keys: int | None, timeout_s: float) -> bool:
    """Whether a `q` comes in `timeout_s` seconds from the descriptor `keys`; None: no keys do."""
    end_s = time.monotonic() + timeout_s
    while (left_s := end_s - time.monotonic()) > 0:
        if keys is None:
            time.sleep(left_s)
        elif select.select([keys], [], [], left_s)[0]:
            pressed = os.read(keys, 1)
            if pressed in (b"q", b"Q"):
                return True
            if not pressed:  # it was closed: there is nothing to wait for any more
                keys = None
    return False


def _client(config: TopConfig) -> httpx.Client:
    headers = {}
    try:
        if config.key_file:
            headers["authorization"] = f"Bearer {config.key_file.read_text().strip()}"
        trusted = ssl.create_default_context(cafile=config.ca) if config.ca else True
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from error
    return httpx.Client(timeout=_TIMEOUT_S, headers=headers, verify=trusted)


def _print_json(client: httpx.Client, config: TopConfig) -> int:
    while True:
        print(msgspec.json.encode(look(client, config.server)).decode(), flush=True)
        if config.once:
            return 0
        time.sleep(config.interval_s)


def look(client: httpx.Client, server: str) -> Stats:
    """`server`: an HTTP address, with its scheme or without.

    Raises Unavailable with a sentence that says what to do.
    """
    server = server if "://" in server else f"http://{server}"
    try:
        response = client.get(f"{server.rstrip('/')}/v1/stats")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(
            f"no wisp-server answers at {server} ({error}): start one or name its HTTP address "
            "with --server"
        ) from error
    if response.status_code == 503:
        raise Unavailable(f"the wisp-server at {server} is out of order: {response.text}")
    try:
        return msgspec.json.decode(response.content, type=Stats)
    except msgspec.MsgspecError as error:
        raise Unavailable(
            f"what answers at {server} is no wisp-server of this version: name the HTTP address "
            "of one with --server"
        ) from error


# Columns that a narrow terminal does without, the first ones first; never the first of a table.
_DISPENSABLE = (
    "first attained", "buffer", "prio", "shed", "idle", "class", "window", "promised", "goodput",
    "sessions", "acceptance",
)  # fmt: skip


def draw(stats: Stats) -> Group:
    return Group(_headline(stats), _classes(stats), _devices(stats), _sessions(stats))


def _headline(stats: Stats) -> Text:
    lines = [
        f"{stats.model}  policy {stats.policy}  up {stats.uptime_s:.0f} s  "
        f"sessions {len(stats.sessions)}/{stats.max_sessions}"
        f"{f', {stats.num_parked} parked' if stats.num_parked else ''}",
        f"goodput {stats.goodput_per_s:.1f} tok/s of {stats.committed_per_s:.1f} committed  "
        f"marginal cost {_number(stats.marginal_cost, '.3f')}  "
        f"interference {_number(stats.interference, '.2f')} x",
    ]
    if batch := stats.batch:
        lines.append(
            f"step {batch.step_time_s * 1000:.1f} ms, {batch.steps_per_s:.1f}/s, busy "
            f"{batch.busy_share:.0%}: {batch.num_sessions:.1f} sessions, {batch.num_tokens:.1f} "
            f"tokens ({sum(batch.num_drafted.values()):.1f} drafts, {batch.num_prefill:.1f} prompt)"
        )
    else:
        lines.append("no step in 10 s")
    if estimator := stats.estimator:
        lines.append(
            f"estimator error {estimator.error_ratio:.1%}, over its bound "
            f"{estimator.over_upper_share:.1%}, drift {estimator.drift:.2f}"
        )
    return Text("\n".join(lines))


def _classes(stats: Stats) -> _Fitted:
    return _table(
        "classes",
        ["class", "prio", "promised", "sessions", "tok/s", "goodput", "in time", "rate attained",
         "first attained", "shed", "window"],
        [
            [
                kind.name,
                str(kind.priority),
                _number(kind.tokens_per_s, "g"),
                str(kind.num_sessions),
                f"{kind.committed_per_s:.1f}",
                f"{kind.goodput_per_s:.1f}",
                _share(kind.num_in_time, kind.num_tokens),
                _share(kind.num_rate_attained, kind.num_ended),
                _share(kind.num_first_token_attained, kind.num_ended),
                str(kind.num_shed),
                _number(kind.window, ".1f"),
            ]
            for kind in stats.classes
        ],
    )  # fmt: skip


def _devices(stats: Stats) -> _Fitted:
    return _table(
        "devices",
        ["device", "sessions", "tok/s", "acceptance", "coverage", "round trip", "window", "idle"],
        [
            [
                device.name,
                str(device.num_sessions),
                f"{device.committed_per_s:.1f}",
                _number(device.acceptance, ".0%"),
                _number(device.coverage, ".0%"),
                _millis(device.round_trip_s),
                _number(device.window, ".1f"),
                f"{device.idle_s:.0f} s",
            ]
            for device in sorted(stats.devices, key=lambda device: -device.committed_per_s)
        ],
    )


def _sessions(stats: Stats) -> _Fitted:
    return _table(
        "sessions",
        ["id", "device", "class", "state", "tok/s", "promised", "in time", "acceptance",
         "window", "buffer", "round trip", "slack"],
        [
            [
                str(session.id),
                session.device or "-",
                session.slo_class,
                session.state,
                f"{session.committed_per_s:.1f}",
                f"{session.promised_per_s:g}",
                _number(session.share_in_time, ".0%"),
                _number(session.acceptance, ".0%"),
                str(session.window),
                str(session.num_buffered),
                _millis(session.round_trip_s),
                _millis(session.slack_s),
            ]
            for session in sorted(stats.sessions, key=lambda session: session.slack_s)
        ],
    )  # fmt: skip


@dataclass(frozen=True)
class _Fitted:
    """A table with the columns that the terminal has room for, so that what is shown is whole."""

    title: str
    columns: Cells
    rows: Sequence[Cells]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        kept = list(range(len(self.columns)))
        for name in _DISPENSABLE:
            if sum(map(self._width, kept)) > options.max_width and name in self.columns[1:]:
                kept.remove(self.columns.index(name))
        table = Table(title=self.title, title_justify="left", box=None)
        for index in kept:
            name = self.columns[index]
            left = name in ("class", "device", "state")
            table.add_column(name, justify="left" if left else "right", no_wrap=True)
        for row in self.rows:  # Text: a device's name is no markup
            table.add_row(*(Text(row[index]) for index in kept))
        yield table

    def _width(self, index: int) -> int:
        """With the space on both sides of it."""
        return 2 + max(len(cells[index]) for cells in (self.columns, *self.rows))


def _table(title: str, columns: Cells, rows: Sequence[Cells]) -> _Fitted:
    more = f", {len(rows) - _MAX_ROWS} more below" if len(rows) > _MAX_ROWS else ""
    return _Fitted(f"{title} ({len(rows)}{more})", columns, rows[:_MAX_ROWS])


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _millis(time_s: float | None) -> str:
    return "-" if time_s is None else f"{time_s * 1000:.0f} ms"
