"""The front's end of the engine process: start it, speak to it, notice when it is gone."""

from __future__ import annotations

import asyncio
import logging
import math
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import zmq
import zmq.asyncio

from wisp.core.drafts import Verdict
from wisp.engine.client_session import EngineSession
from wisp.engine.engine import Engine
from wisp.engine.messages import (
    Close,
    Failed,
    Fatal,
    FromEngine,
    Hold,
    Open,
    Ping,
    Ready,
    Shutdown,
    Snapshot,
    StepReport,
    TakeSnapshot,
    ToEngine,
    Verdicts,
    decode_from_engine,
    encode,
)
from wisp.engine.process import run
from wisp.errors import (
    BadRequest,
    ConfigError,
    InternalError,
    Overloaded,
    ProtocolError,
    Shed,
    Unavailable,
    WispError,
)
from wisp.scheduler.fairness import greediest
from wisp.tasks import begin
from wisp.verifier.base import Facts, Verifier

log = logging.getLogger(__name__)
_ERRORS: dict[str, type[WispError]] = {
    "invalid": BadRequest,
    "protocol": ProtocolError,
    "internal": InternalError,
}

# How long the engine process may take to leave after Shutdown before it is killed. Chosen: a step
# in flight ends and the estimator is saved in far less, and an operator does not wait longer.
_STOP_GRACE_S = 10.0

# How long an answer that a process sent before it ended may take through the socket. Chosen: both
# ends live on one host, so that whatever was sent is there in milliseconds.
_LAST_WORDS_S = 1.0

# How long one snapshot of the sessions serves everybody who asks. Chosen: those who watch ask about
# once in that time.
_FRESH_S = 1.0

# How long the engine may take to answer with a snapshot. Chosen: it answers between two steps, and
# a step with a long prompt takes seconds on a slow target.
_SNAPSHOT_TIMEOUT_S = 10.0


# Between two looks whether the engine still answers. Chosen: a message a second costs nothing.
_BEAT_S = 1.0


def _error(kind: str, message: str, retry_after_s: float | None) -> WispError:
    if retry_after_s is not None:
        return (Shed if kind == "shed" else Overloaded)(message, retry_after_s)
    return _ERRORS[kind](message)


class EngineClient:
    """Owns the engine process. `facts` is set once it is ready."""

    facts: Facts

    def __init__(
        self,
        on_step: Callable[[StepReport], None] = lambda report: None,
        clock: Callable[[], float] = time.monotonic,
        patience_s: float = math.inf,
    ) -> None:
        """`patience_s`: an engine that says nothing for so long is given up."""
        self._patience_s = patience_s
        self._num_unanswered = 0  # looks since the engine has said anything
        self._on_step = on_step
        self._clock = clock
        self._sessions: dict[int, EngineSession] = {}
        self._last_id = 0
        self._stopping = False
        self._snapshot: asyncio.Future[Snapshot] | None = None
        self._snapshot_asked_s = 0.0
        self.lost = asyncio.Event()  # set when the process has ended
        self.idle = asyncio.Event()  # set while no session is open
        self.idle.set()

    @property
    def num_sessions(self) -> int:
        return len(self._sessions)

    def can_admit(self, priority: int, owner: str = "") -> bool:
        """False: the engine would refuse it, as all slots are taken and nobody is shed for it."""
        num_slots, sessions = self.facts.max_sessions, self._sessions.values()
        if self.num_sessions < num_slots or any(each.priority < priority for each in sessions):
            return True
        counts = Counter(session.owner for session in sessions)
        return greediest(counts, owner, num_slots) is not None

    async def start(self, build: Callable[[], tuple[Verifier, Engine]], log_level: str) -> None:
        """Start the process and wait until the target is loaded.

        `build` runs in the new process, so it must be picklable. Raises ConfigError if it fails.
        """
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="wisp-")
        except OSError as error:
            raise ConfigError(f"no folder for the engine's socket: {error.strerror}") from error
        address = f"ipc://{Path(self._folder.name) / 'engine'}"
        self._socket = zmq.asyncio.Context.instance().socket(zmq.PAIR)
        self._socket.set_hwm(0)
        self._socket.bind(address)
        self._process = multiprocessing.get_context("spawn").Process(
            target=run, args=(address, build, log_level), name="wisp-engine", daemon=True
        )
        self._process.start()
        asyncio.get_running_loop().add_reader(self._process.sentinel, self._ended)
        first = await self._first_words()
        self._folder.cleanup()  # both ends are connected: nothing is left behind, however it ends
        match first:
            case Ready(facts):
                self.facts = facts
            case Fatal(message):
                raise ConfigError(message)
            case other:
                raise InternalError(f"the engine began with {type(other).__name__}")
        failed = "an answer of the engine cannot be read: nobody may wait for the rest"
        self._reader = begin(self._read, failed, self._kill)
        self._watcher = self._begin_watch()

    async def _first_words(self) -> FromEngine:
        """Raises ConfigError if the process has ended without any."""
        first = asyncio.create_task(self._receive())
        lost = asyncio.create_task(self.lost.wait())
        try:
            await asyncio.wait([lost, first], return_when=asyncio.FIRST_COMPLETED)
            if lost.done():  # what it said may still be on its way through the socket
                await asyncio.wait([first], timeout=_LAST_WORDS_S)
            if not first.done():
                raise ConfigError("the engine process ended while it loaded: its log says why")
            return first.result()
        finally:
            lost.cancel()
            first.cancel()

    def open(self, message: Open) -> EngineSession:
        """Begin a session; `message.session_id` must come from `next_id`."""
        if self.lost.is_set():
            raise Unavailable("the engine has stopped: restart wisp-server")
        session = EngineSession(self, message)
        self.send(message)  # before a slot is taken: a message that cannot be sent takes none
        self._sessions[session.id] = session
        self.idle.clear()
        return session

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def send(self, message: ToEngine) -> None:
        # A socket without a high-water mark takes every message at once: nothing to await.
        self._socket.send(encode(message))

    async def snapshot(self) -> Snapshot:
        """The sessions' states, at most `_FRESH_S` old; the engine is asked once for all callers.

        Raises Unavailable if it does not answer, as when it is gone.
        """
        if self.lost.is_set():
            raise Unavailable("the engine has stopped: restart wisp-server")
        now = self._clock()
        if self._snapshot is None or (
            self._snapshot.done() and now - self._snapshot_asked_s >= _FRESH_S
        ):
            self._snapshot = asyncio.get_running_loop().create_future()
            self._snapshot_asked_s = now
            self.send(TakeSnapshot())
        try:
            async with asyncio.timeout(_SNAPSHOT_TIMEOUT_S):
                return await asyncio.shield(self._snapshot)
        except TimeoutError:
            raise Unavailable("the engine does not answer: its log may say why") from None

    @property
    def hangs(self) -> bool:
        """It has said nothing for half of what is waited for at most."""
        return self._num_unanswered * _BEAT_S > self._patience_s / 2

    def forget(self, session: EngineSession) -> None:
        if self._remove(session.id) and not self.lost.is_set():
            self.send(Close(session.id))

    def hold(self, session: EngineSession, *, held: bool) -> None:
        """Whether it waits for its reader."""
        if session.id in self._sessions:
            self.send(Hold(session.id, held))

    def fail_all(self, error: WispError) -> None:
        """End all sessions with an error that the front found."""
        for session in list(self._sessions.values()):
            session.fail(error)

    async def stop(self) -> None:
        """End the process; sessions still open are answered with Unavailable."""
        self._stopping = True
        if not self.lost.is_set():
            self.send(Shutdown())
            try:
                async with asyncio.timeout(_STOP_GRACE_S):
                    await self.lost.wait()
            except TimeoutError:
                self._kill()
                await self.lost.wait()
        self._reader.cancel()
        self._watcher.cancel()
        self._socket.close(linger=0)

    async def _receive(self) -> FromEngine:
        message: FromEngine = decode_from_engine(await self._socket.recv())
        return message

    async def _read(self) -> None:
        while True:
            self._handle(await self._receive())

    def _begin_watch(self) -> asyncio.Task[None]:
        return begin(self._watch, "the engine cannot be watched: it is ended", self._kill)

    async def _watch(self) -> None:
        """Give it up when it hangs: whoever waits is answered, and a supervisor starts it anew.

        Looks are counted rather than time, for this process may have been stopped itself.
        """
        while self._num_unanswered * _BEAT_S <= self._patience_s:
            self.send(Ping())
            self._num_unanswered += 1
            await asyncio.sleep(_BEAT_S)
            if self.lost.is_set():
                return
        log.critical("the engine has said nothing for %g s: it is ended", self._patience_s)
        self._kill()

    def _kill(self) -> None:
        self._process.kill()

    def _handle(self, message: FromEngine) -> None:
        self._num_unanswered = 0
        match message:
            case Verdicts(verdicts, step):
                for session_id, verdict in verdicts:
                    self._deliver(session_id, verdict, last=verdict.finish_reason is not None)
                self._on_step(step)
            case Snapshot():
                if self._snapshot and not self._snapshot.done():
                    self._snapshot.set_result(message)
            case Failed(session_id, kind, text, retry_after_s):
                self._deliver(session_id, _error(kind, text, retry_after_s), last=True)

    def _deliver(self, session_id: int, item: Verdict | WispError, *, last: bool) -> None:
        session = self._remove(session_id) if last else self._sessions.get(session_id)
        if session:  # else its caller has gone
            session.put(item)

    def _remove(self, session_id: int) -> EngineSession | None:
        session = self._sessions.pop(session_id, None)
        if not self._sessions:
            self.idle.set()
        return session

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._process.join()
        if not self._stopping:
            log.critical("the engine process has ended (exit code %s)", self._process.exitcode)
        self._mourn()

    def _mourn(self) -> None:
        """The engine is gone: whoever waits for it is told."""
        self.lost.set()
        if self._snapshot and not self._snapshot.done():
            self._snapshot.set_exception(Unavailable("the engine has stopped: restart wisp-server"))
        sessions, self._sessions = self._sessions, {}  # nothing more is sent of these
        for session in sessions.values():
            session.put(Unavailable("the engine has stopped: send the request again"))
        self.idle.set()
