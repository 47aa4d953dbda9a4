"""A whole server, or a whole edge, in the process that asks for it: real objects, no model."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from wisp.config import TINY, EdgeConfig, ServerConfig
from wisp.core.batch import Batch
from wisp.core.request import Sampling
from wisp.edge.drafting import DraftLoop
from wisp.edge.edge_backend import EdgeBackend
from wisp.edge.learning import SAVE_EVERY_S, Learning
from wisp.edge.link import Link
from wisp.edge.predictor import ConfidencePredictor
from wisp.engine.build import policy_choice
from wisp.engine.client import EngineClient
from wisp.engine.engine import Engine
from wisp.engine.keeper import Keeper
from wisp.engine.messages import (
    FromEngine,
    StepReport,
    ToEngine,
    Verdicts,
    decode_from_engine,
    decode_to_engine,
    encode,
)
from wisp.estimator.shape import shape_of
from wisp.estimator.step_time import StepTimeEstimator
from wisp.estimator.store import Key, load
from wisp.metrics import EdgeMetrics
from wisp.models.tokenizer import Tokenizer
from wisp.scheduler.policy import make_policy
from wisp.server.server_metrics import ServerMetrics
from wisp.server.service import Service, slo_classes
from wisp.server.telemetry import Telemetry
from wisp.tasks import begin, every
from wisp.testing.drafter import ScriptedDrafter
from wisp.testing.floor_and_slope import FloorAndSlope
from wisp.testing.verifier import ScriptedVerifier, scripted_choice


def monotonic() -> float:
    """The clock as it is when it is asked, which may be a virtual one."""
    return time.monotonic()


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer(TINY / "target")


class LocalEngine(EngineClient):
    """The engine takes its turns on the event loop; messages are encoded as for the socket."""

    def __init__(
        self,
        verifier: ScriptedVerifier,
        engine: Engine,
        on_step: Callable[[StepReport], None],
        step_s: float,
        patience_s: float,
    ) -> None:
        super().__init__(on_step=on_step, clock=monotonic, patience_s=patience_s)
        self.facts = verifier.facts
        self.verifier = verifier
        self.engine = engine
        self.step_s = step_s
        self._messages: deque[bytes] = deque()
        self._came = asyncio.Event()
        self._runs = asyncio.Event()
        self._runs.set()
        self._running = begin(self._run, "the engine has ended", self._mourn)
        self._watcher = self._begin_watch()

    def send(self, message: ToEngine) -> None:
        self._messages.append(encode(message))
        self._came.set()

    def hang(self) -> None:
        """It lives, and does nothing any more."""
        self._runs.clear()

    def go_on(self) -> None:
        self._runs.set()

    def crash(self) -> None:
        """As if its process had been killed."""
        self._kill()

    def _kill(self) -> None:
        self._running.cancel()
        self._mourn()

    async def stop(self) -> None:
        self._running.cancel()
        self._watcher.cancel()
        await asyncio.wait([self._running, self._watcher])
        self.engine.close()
        self._mourn()

    async def _run(self) -> None:
        while True:
            await self._wait(self.engine.wait_s())
            await self._runs.wait()
            inbox: list[ToEngine] = []
            while self._messages:
                inbox.append(decode_to_engine(self._messages.popleft()))
            told = self.engine.turn(inbox)
            if any(isinstance(message, Verdicts) for message in told):
                await asyncio.sleep(self.step_s)
            for message in told:
                said: FromEngine = decode_from_engine(encode(message))
                self._handle(said)
            self.engine.rest()

    async def _wait(self, timeout_s: float | None) -> None:
        if not self._messages and timeout_s != 0.0:
            self._came.clear()
            with contextlib.suppress(TimeoutError):
                # Not `wait_for`: before Python 3.12 it forgets a cancellation that comes with a
                # message.
                async with asyncio.timeout(timeout_s):
                    await self._came.wait()


class LocalServer:
    """Needs a running loop; `step_s` is the time of every step.

    `state_dir`: where its step times are kept; None: nowhere.
    """

    def __init__(
        self,
        config: ServerConfig | None = None,
        *,
        step_s: float = 0.001,
        max_model_len: int = 2048,
        state_dir: Path | None = None,
    ) -> None:
        self.config = config or ServerConfig()
        choice = policy_choice(self.config)
        keeper = _keeper(state_dir)

        def learn(batch: Batch) -> None:
            keeper.estimator.observe(shape_of(batch), step_s)

        verifier = ScriptedVerifier(
            vocab_size=len(tokenizer()),
            max_model_len=max_model_len,
            max_sessions=self.config.engine.max_sessions,
            num_slots=self.config.engine.num_slots,
            on_step=learn if state_dir else None,
        )
        engine = Engine(
            verifier,
            make_policy(choice, FloorAndSlope(floor_s=step_s), choice.first.window),
            max_window=self.config.speculation.max_window,
            max_ngram=self.config.speculation.max_ngram,
            max_forks=self.config.speculation.max_forks,
            keeper=keeper,
            clock=monotonic,
        )
        classes = slo_classes(self.config).all
        self.telemetry = Telemetry(classes, ServerMetrics(), monotonic())
        self.engine = LocalEngine(
            verifier,
            engine,
            lambda step: self.telemetry.stepped(step, monotonic()),
            step_s,
            self.config.engine.patience_s,
        )
        self.service = Service(self.engine, tokenizer(), self.config, self.telemetry)

    async def stop(self) -> None:
        await self.engine.stop()


def _keeper(folder: Path | None) -> Keeper:
    key = Key(model="scripted", gpu="none", engine="local")
    known = load(folder, key) if folder else None
    return Keeper(known or StepTimeEstimator(), folder, key, monotonic)


class LocalEdge:
    """Its drafter is right with the probability `acceptance`, for requests with its `seed`.

    It learns if its settings name a place where that is kept.
    """

    def __init__(
        self,
        link: Link,
        config: EdgeConfig | None = None,
        *,
        seed: int = 0,
        acceptance: float = 0.8,
    ) -> None:
        config = config or EdgeConfig()
        self.seed = seed
        self.link = link
        self.metrics = EdgeMetrics()
        self._learning = Learning(config) if config.state_dir or config.log_rounds else None
        self._saving = (
            every(SAVE_EVERY_S, self._learning.save, "nothing could be kept")
            if self._learning
            else None
        )
        self._loop = DraftLoop(
            ScriptedDrafter(self._truth, acceptance=acceptance, seed=seed),
            self._learning.predictor if self._learning else ConfidencePredictor(),
            config.drafter.max_sessions,
            self.metrics,
            monotonic,
        )
        know = self._learning.know_target if self._learning else None
        self.backend = EdgeBackend(link, self._loop, tokenizer(), config, self.metrics, know)

    async def stop(self) -> None:
        await self._loop.stop()
        await self.link.close()
        if self._learning and self._saving:
            self._saving.cancel()
            self._learning.close()

    def _truth(self, key: int, position: int, previous: int) -> int:
        return scripted_choice(self.seed, position, previous, len(tokenizer()))


def expected_text(prompt: list[int], sampling: Sampling) -> list[int]:
    """What the target of a `LocalServer` writes alone."""
    target = ScriptedVerifier(vocab_size=len(tokenizer()))
    return target.expected(prompt, sampling, sampling.max_tokens)
