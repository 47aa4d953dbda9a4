"""The engine's process: the plain loop between a ZeroMQ socket and the engine."""

from __future__ import annotations

import ctypes
import gc
import logging
import math
import signal
import sys
from collections.abc import Callable

import zmq

from wisp.engine.engine import Engine
from wisp.engine.messages import (
    Fatal,
    FromEngine,
    Ready,
    ToEngine,
    decode_to_engine,
    encode,
)
from wisp.errors import why_not_started
from wisp.files import name_temporary_folder
from wisp.verifier.base import Verifier

log = logging.getLogger(__name__)

# The option of prctl(2) that asks for a signal when the parent dies, by definition in Linux's
# <sys/prctl.h>; Python's standard library has no name for it.
_PR_SET_PDEATHSIG = 1

# How long a closing socket may take to hand over what was sent. Chosen: the front reads at once if
# it lives, and nobody reads if it does not.
_LINGER_MS = 1000

# The longest wait for a message. Chosen: a turn with nothing to do once an hour is harmless, while
# a time beyond what the milliseconds of a poll can hold is an error.
_MAX_WAIT_S = 3600.0


class Pipe:
    """The engine's end of the socket; both ends live on one host."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()  # its own: the verifier's library may use the shared one
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        self._socket.set_hwm(0)  # nothing is dropped; admission bounds what can queue
        self._socket.connect(address)

    def receive(self, timeout_s: float | None) -> list[ToEngine]:
        """All messages that have come; waits for the first one at most `timeout_s`."""
        timeout_ms = None
        if timeout_s is not None:
            timeout_ms = math.ceil(1000 * min(timeout_s, _MAX_WAIT_S))
        messages: list[ToEngine] = []
        if self._socket.poll(timeout_ms):
            try:
                while True:
                    messages.append(decode_to_engine(self._socket.recv(zmq.NOBLOCK)))
            except zmq.Again:
                pass
        return messages

    def send(self, messages: list[FromEngine]) -> None:
        for message in messages:
            self._socket.send(encode(message), copy=True)

    def close(self) -> None:
        """Wait until what was sent has left, if there is still somebody to take it."""
        self._socket.close(linger=_LINGER_MS)
        self._context.term()


def run(address: str, build: Callable[[], tuple[Verifier, Engine]], log_level: str) -> None:
    """The body of the engine process; returns after Shutdown. `build` loads the target."""
    _die_with_parent()
    name_temporary_folder()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to leave
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(level=log_level, format="%(asctime)s engine %(levelname)s %(message)s")
    pipe = Pipe(address)
    try:
        _load_and_serve(pipe, build)
    finally:
        pipe.close()


def _load_and_serve(pipe: Pipe, build: Callable[[], tuple[Verifier, Engine]]) -> None:
    try:
        verifier, engine = build()
    except Exception as error:
        pipe.send([Fatal(why_not_started("the engine", error, log))])
        return
    gc.freeze()  # the loaded model is not garbage: collections stay short
    pipe.send([Ready(verifier.facts)])
    try:
        serve(pipe, engine)
    finally:
        engine.close()


def serve(pipe: Pipe, engine: Engine) -> None:
    while not engine.stopped:
        pipe.send(engine.turn(pipe.receive(engine.wait_s())))
        engine.rest()


def _die_with_parent() -> None:
    """An engine without its front answers nobody: let the kernel end it (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
