"""How long the GPU waits for the host between two steps, and which part of the host's work it is.

    python -m benchmarks.host_gap [--shape 32b] [--sessions 64,128] [--policies wisp,fixed]
                                  [--steps 100] [--functions FILE] [--csv FILE] [--json]

The engine of a wisp-server in this process, its loop, its socket and its messages; in the front's
place a process that keeps each session's draft buffer full of right drafts, so that every session
can be in every step with drafts. `fixed` verifies 4 drafts of each, whatever they cost. Steps are
taken one by one (`--overlap`: as by default). `idle_ms` is the GPU's own word, from the end of a
step to the next forward; `host_ms` the host's, from the arrival of the choices until the forward is
submitted, and the sum of the parts (`host_parts`). `step_ms` is from one forward to the next.
`--functions` adds what cProfile finds, which makes everything slower.
"""

from __future__ import annotations

import argparse
import cProfile
import csv
import gc
import io
import json
import multiprocessing
import pstats
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import zmq

from benchmarks.host_parts import Gap, HostParts, summary
from benchmarks.load.loader import LOAD_FORMAT, build
from benchmarks.load.servers import MAX_MODEL_LEN, MAX_STEP_TOKENS, MAX_WINDOW, vllm_options
from benchmarks.load.target import OWN_SHAPES, config, write_config
from benchmarks.load.users import chain
from benchmarks.setting import describe, setting
from benchmarks.shapes import SHAPES
from wisp.config import ServerConfig, load
from wisp.core.batch import Batch, Seat
from wisp.core.drafts import Directive, DraftBlock, Verdict
from wisp.core.request import Request, Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.engine.build import policy_choice
from wisp.engine.engine import Engine
from wisp.engine.messages import (
    Close,
    Draft,
    Open,
    SwitchPolicy,
    ToEngine,
    Verdicts,
    decode_from_engine,
    encode,
)
from wisp.engine.process import Pipe
from wisp.estimator.base import Estimator
from wisp.scheduler.base import Policy, Situation
from wisp.scheduler.tuning import PolicyChoice

SEED = 11
PROMPT_TOKENS = 32  # short: what the host does hardly depends on it, and it leaves room in the KV
SLO = Slo(tokens_per_s=1.0, first_token_s=60.0)  # nobody is refused, nobody is in a hurry
_CONFIDENCE = 0.9  # what the drafts say of themselves: worth verifying at any price seen
_WARM_STEPS = 8
_NEARLY = 0.9  # a policy may leave out a few
_MAX_EPISODES = 20  # then what was found has to do
_FIXED_DRAFTS = 4  # the k of most rows of `vllm_steps`


class Fixed(Policy):
    """Every session in every step, with so many drafts: it decides nothing."""

    def __init__(self, estimator: Estimator, max_step_tokens: int) -> None:
        super().__init__(estimator)
        self._max_step_tokens = max_step_tokens

    def directive(self, session: Session) -> Directive:
        return Directive(MAX_WINDOW, 0.0)

    def schedule(self, situation: Situation) -> Batch:
        room = self._max_step_tokens
        batch = Batch()
        for session in situation.sessions:
            seat = Seat(session, min(session.num_missing, room))
            if seat.chooses:
                most = min(_FIXED_DRAFTS, session.max_drafts, room - seat.num_context)
                seat.draft = session.buffer[:most]
            room -= seat.num_tokens
            if seat.num_tokens:
                batch.seats.append(seat)
        return batch

    def wake_s(self, situation: Situation) -> float | None:
        return situation.now if situation.sessions else None


class Front:
    """In a process of its own: opens sessions, and answers each verdict with drafts."""

    def __init__(self, socket: zmq.Socket[bytes], vocab_size: int) -> None:
        self._socket = socket
        self._vocab_size = vocab_size
        self._ends: dict[int, int] = {}  # of each session's drafts: the position behind them

    def open(self, first_id: int, number: int, max_tokens: int) -> None:
        for session_id in range(first_id, first_id + number):
            sampling = Sampling(max_tokens=max_tokens, seed=0, temperature=0.0)
            self._ends[session_id] = PROMPT_TOKENS
            prompt = chain(session_id, PROMPT_TOKENS, self._vocab_size)
            self._send(
                Open(
                    session_id=session_id,
                    request=Request(prompt=prompt, sampling=sampling),
                    slo=SLO,
                    has_edge=True,
                )
            )

    def answer(self, message: bytes) -> None:
        match decode_from_engine(message):
            case Verdicts(verdicts, _):
                for session_id, verdict in verdicts:
                    if verdict.finish_reason is None:
                        self._draft(session_id, verdict)

    def _draft(self, session_id: int, verdict: Verdict) -> None:
        """Right tokens, as many as the server may hold for a session."""
        known = verdict.position + len(verdict.tokens)
        start = max(known, self._ends[session_id])
        count = known + MAX_WINDOW - start
        if count > 0:
            self._ends[session_id] = start + count
            tokens = chain(session_id + start, count, self._vocab_size)
            block = DraftBlock(0, start, tokens, [_CONFIDENCE] * count, 0.005 * count)
            self._send(Draft(session_id, block, time.monotonic()))

    def _send(self, message: ToEngine) -> None:
        self._socket.send(encode(message))


def front(address: str, commands: Connection, vocab_size: int) -> None:
    """The body of the process; ends when the other end of `commands` does."""
    context = zmq.Context()
    socket: zmq.Socket[bytes] = context.socket(zmq.PAIR)
    socket.set_hwm(0)
    socket.bind(address)
    commands.send("ready")
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(commands.fileno(), zmq.POLLIN)
    speaker = Front(socket, vocab_size)
    try:
        while True:
            ready = dict(poller.poll())
            if socket in ready:
                speaker.answer(socket.recv())
            if commands.fileno() in ready:
                speaker.open(*commands.recv())
    except EOFError:
        context.destroy(linger=0)


class Runner:
    """The engine loop, as `wisp.engine.process.serve` runs it, for so many steps."""

    def __init__(self, pipe: Pipe, engine: Engine, commands: Connection, parts: HostParts) -> None:
        self._pipe = pipe
        self._engine = engine
        self._commands = commands
        self._parts = parts
        self._last_id = 0

    def measure(self, number: int, num_steps: int, kv_tokens: int | None) -> list[Gap]:
        """Steps with all sessions; they are opened anew whenever their KV would not fit."""
        room = MAX_MODEL_LEN if kv_tokens is None else min(MAX_MODEL_LEN, kv_tokens // number)
        max_tokens = room - PROMPT_TOKENS - MAX_WINDOW - 16  # blocks of KV are whole
        if max_tokens < 1:
            raise SystemExit(f"{number} sessions do not fit into {kv_tokens} tokens of KV")
        found: list[Gap] = []
        for _ in range(_MAX_EPISODES):
            if len(found) < num_steps:
                found += self._episode(number, max_tokens, num_steps - len(found))
        return found

    def switch(self, choice: PolicyChoice, policy: str) -> None:
        if policy == "fixed":
            estimator = self._engine._policy.estimator
            self._engine._policy = Fixed(estimator, choice.max_step_tokens)
        else:
            self._engine.turn([SwitchPolicy(msgspec.structs.replace(choice, policy=policy))])

    def _episode(self, number: int, max_tokens: int, num_steps: int) -> list[Gap]:
        ids = range(self._last_id + 1, self._last_id + 1 + number)
        self._last_id += number
        self._commands.send((ids[0], number, max_tokens))
        while len(self._engine.sessions) < number:
            self._turn()
        self._parts.gaps.clear()
        most = num_steps + 2 * _WARM_STEPS
        while len(self._engine.sessions) == number and len(self._parts.gaps) < most:
            self._turn()
        found = self._full(number)
        self._engine.turn([Close(session_id) for session_id in ids])
        return found

    def _turn(self) -> None:
        engine = self._engine
        self._pipe.send(engine.turn(self._pipe.receive(engine.wait_s())))
        engine.rest()

    def _full(self, number: int) -> list[Gap]:
        """Of the steps in which (nearly) all sessions take part, those behind the first ones."""
        gaps = self._parts.gaps
        full = [g for g in gaps if g.num_seats >= _NEARLY * number and not g.num_prefill]
        return full[_WARM_STEPS:] if len(full) > 2 * _WARM_STEPS else full[len(full) // 2 :]


def main() -> None:
    options = _arguments()
    with tempfile.TemporaryDirectory(prefix="wisp-gap-") as name, engine(options, Path(name)) as it:
        rows = list(_rows(options, *it))
    if options.csv:
        _write(options.csv, rows)
    found = setting(SEED, shape=options.shape, overlap=options.overlap)
    if options.json:
        print(json.dumps({"setting": found, "rows": rows}))
        return
    print(describe(found))
    for row in rows:
        print(describe(row))


def _rows(
    options: argparse.Namespace, server: ServerConfig, runner: Runner
) -> Iterator[dict[str, Any]]:
    for policy in options.policies:
        runner.switch(policy_choice(server), policy)
        for number in options.sessions:
            start_s = time.perf_counter()
            gaps = runner.measure(number, options.steps, options.kv_tokens)
            if not gaps:
                print(f"{policy}: hardly a step had all {number} sessions in it", file=sys.stderr)
                continue
            time_s = time.perf_counter() - start_s
            row = {"policy": policy, "sessions": number, **summary(gaps)}
            row["turns_s"] = round(time_s, 2)
            print(row, file=sys.stderr, flush=True)
            yield row
            if options.functions:
                profile = cProfile.Profile()
                profile.runcall(runner.measure, number, options.steps // 2, options.kv_tokens)
                _keep_functions(options.functions, profile, f"{policy}, {number} sessions")


def _keep_functions(path: Path, profile: cProfile.Profile, title: str) -> None:
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(60)
    with path.open("a") as file:
        file.write(f"{title}\n{text.getvalue()}\n")


@contextmanager
def engine(options: argparse.Namespace, folder: Path) -> Iterator[tuple[ServerConfig, Runner]]:
    target = write_config(folder / "target", options.shape)
    extra = vllm_options(options.kv_tokens, shape=options.shape) | {"load_format": LOAD_FORMAT}
    flags = [
        f"--target={target}",
        "--engine.kind=vllm",
        f"--engine.max_sessions={max(options.sessions)}",
        f"--engine.max_model_len={MAX_MODEL_LEN}",
        f"--engine.options={json.dumps(extra)}",
        "--engine.overlap" if options.overlap else "--no-engine.overlap",
        f"--scheduling.max_step_tokens={options.max_step_tokens}",
        f"--speculation.max_window={MAX_WINDOW}",
        f"--estimator.profile_s={options.profile_s}",
        "--scheduling.switchable",
    ]
    server = load(ServerConfig, flags, "wisp-server")
    address = f"ipc://{folder / 'engine'}"
    ours, theirs = multiprocessing.Pipe()
    vocab_size = config(options.shape)["vocab_size"]
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=front, args=(address, theirs, vocab_size), daemon=True)
    process.start()
    theirs.close()
    assert ours.recv() == "ready"
    verifier, made = build(server)
    gc.freeze()  # as the engine's process does
    parts = HostParts()
    parts.attach(verifier)
    pipe = Pipe(address)
    try:
        yield server, Runner(pipe, made, ours, parts)
    finally:
        ours.close()
        process.join(5.0)
        pipe.close()
        made.close()


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    """One line for each part of each case."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        heads = [
            "policy",
            "sessions",
            "gaps",
            "drafting",
            "tokens",
            "step_ms",
            "idle_ms",
            "host_ms",
        ]
        writer.writerow([*heads, "part", "part_ms"])
        for row in rows:
            for part, time_ms in row["parts_ms"].items():
                writer.writerow([*(row[head] for head in heads), part, time_ms])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=[*OWN_SHAPES, *SHAPES], default="32b")
    parser.add_argument("--sessions", type=_numbers, default=[64, 128])
    parser.add_argument("--policies", type=lambda text: text.split(","), default=["wisp", "fixed"])
    parser.add_argument("--steps", type=int, default=100, help="with all sessions, of each case")
    parser.add_argument("--kv-tokens", type=int, default=24_000, help="KV memory")
    parser.add_argument("--max-step-tokens", type=int, default=MAX_STEP_TOKENS)
    parser.add_argument("--profile-s", type=float, default=10.0, help="of the estimator, at first")
    parser.add_argument("--overlap", action="store_true", help="launch steps ahead, as by default")
    parser.add_argument("--functions", type=Path, help="append what cProfile finds to this file")
    parser.add_argument("--csv", type=Path, help="write the parts to this file, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
