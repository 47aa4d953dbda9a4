"""Sessions, edges and a clock without a network: the engine on the scripted verifier."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from wisp.core.batch import Batch
from wisp.core.drafts import Directive, DraftBlock, Verdict
from wisp.core.request import Request, Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.engine.engine import Engine
from wisp.engine.messages import Draft, Open, ToEngine, Verdicts
from wisp.estimator.base import Estimator
from wisp.estimator.curve import Curve
from wisp.estimator.shape import StepShape, shape_of
from wisp.scheduler.base import Policy
from wisp.testing.clock import VirtualClock
from wisp.testing.floor_and_slope import FloorAndSlope
from wisp.testing.verifier import ScriptedVerifier

FIRST = Directive(window=8, threshold=0.3)


class Tiled(Estimator):
    """Knows the truth exactly: a floor, then a step at every tile of 64 tokens."""

    curve = Curve(
        floor_s=0.005,
        # The first token of a tile is dear, and those behind it as cheap as before.
        hinges={
            0: 20e-6,
            **dict.fromkeys(range(64, 4096, 64), 0.002),
            **dict.fromkeys(range(65, 4096, 64), -0.002),
        },
        context_s=2e-7,
        product_s=1e-9,
    )
    margin = 0.0

    def observe(self, shape: StepShape, time_s: float) -> None:
        """It knows."""


def exact() -> FloorAndSlope:
    return FloorAndSlope(margin=0.0)


def make_session(
    number: int,
    *,
    due_s: float,
    length: int = 100,
    acceptance: list[float] | None = None,
    has_edge: bool = True,
    missing: int = 1,
    complete: bool = True,
    rate: float = 8.0,
    max_forks: int = 0,
    max_ngram: int = 0,
) -> Session:
    """At time 0; `missing` tokens are not computed yet."""
    session = Session(
        number,
        list(range(length)),
        Sampling(max_tokens=100, seed=number),
        Slo(tokens_per_s=rate, first_token_s=1),
        directive=FIRST,
        has_edge=has_edge,
        max_forks=max_forks,
        max_ngram=max_ngram,
    )
    session.computed(length - missing)
    session.due_s = session.promised_s = session.aimed_s = due_s
    if acceptance:
        tokens = list(range(len(acceptance)))
        session.offer(DraftBlock(1, length, tokens, acceptance, complete=complete), 0.0)
    return session


def value(batch: Batch) -> float:
    """Expected committed tokens, by the edges' own word."""
    total = 0.0
    for seat in batch.seats:
        cumulative = 1.0
        total += seat.chooses
        for p in seat.session.stream.acceptance[: len(seat.draft)]:
            cumulative *= p
            total += cumulative
    return total


@dataclass
class Edge:
    """Drafts the target's own text, each token rightly with `honesty`; reports `says`."""

    opening: Open
    honesty: float
    says: float
    alive: bool = True
    delay_s: float = 0.02
    epoch: int = 1
    ready_s: float = 0.0
    base: int = 0  # output tokens committed when the block under way was drafted
    tokens: list[int] = field(default_factory=list)


class World:
    """Steps take as long as the estimator says; edges answer `delay_s` after their verdict."""

    def __init__(
        self, policy: Policy, costs: Estimator, seed: int = 0, num_slots: int | None = None
    ) -> None:
        self.clock = VirtualClock()
        self.chance = random.Random(seed)
        self.costs = costs
        self.verifier = ScriptedVerifier(
            max_sessions=1000, vocab_size=1000, on_step=self._step, num_slots=num_slots
        )
        self.engine = Engine(self.verifier, policy, max_window=64, clock=self.clock)
        self.edges: dict[int, Edge] = {}
        self.inbox: list[ToEngine] = []
        self.batches: list[list[tuple[int, int]]] = []  # (session, draft tokens) of each seat

    def _step(self, batch: Batch) -> None:
        self.batches.append([(s.session.id, len(s.draft)) for s in batch.seats])
        self.clock.now += self.costs.predict_s(shape_of(batch))

    def open(
        self,
        number: int,
        *,
        honesty: float | None = None,
        says: float | None = None,
        alive: bool = True,
        num_prompt: int = 20,
        max_tokens: int = 40,
        rate: float = 8.0,
    ) -> None:
        opening = Open(
            session_id=number,
            request=Request(
                prompt=[self.chance.randrange(1000) for _ in range(num_prompt)],
                sampling=Sampling(max_tokens=max_tokens, seed=number),
            ),
            slo=Slo(tokens_per_s=rate, first_token_s=1),
            has_edge=honesty is not None,
        )
        p = honesty or 0.0
        self.edges[number] = Edge(opening, p, p if says is None else says, alive)
        self.inbox.append(opening)

    def run(self, num_steps: int) -> list[tuple[int, Verdict]]:
        """That many steps at most, and everything they committed."""
        found: list[tuple[int, Verdict]] = []
        first = len(self.batches)
        while len(self.batches) - first < num_steps and (self.inbox or self.engine.sessions):
            inbox, self.inbox = self.inbox + self._drafts(), []
            published = self.engine.turn(inbox)
            for message in published:
                assert isinstance(message, Verdicts), message
                found += message.verdicts
                for number, verdict in message.verdicts:
                    self._tell(number, verdict)
            if not published:
                wait_s = self.engine.wait_s()
                self.clock.now += min(0.005, 0.005 if wait_s is None else max(wait_s, 1e-4))
        return found

    def _tell(self, number: int, verdict: Verdict) -> None:
        edge = self.edges[number]
        edge.tokens += verdict.tokens
        if edge.ready_s == float("inf"):  # else a block is under way: it may be overtaken in part
            edge.base = len(edge.tokens)
            edge.ready_s = self.clock.now + edge.delay_s

    def _drafts(self) -> list[ToEngine]:
        found: list[ToEngine] = []
        for number, session in self.engine.sessions.items():
            edge, window = self.edges[number], session.directive.window
            if session.has_edge and edge.alive and edge.ready_s <= self.clock.now and window > 0:
                edge.ready_s = float("inf")
                edge.epoch += 1
                found.append(Draft(number, self._block(edge, min(4, window)), self.clock.now))
        return found

    def _block(self, edge: Edge, count: int) -> DraftBlock:
        opening, done = edge.opening, edge.base
        truth = self.verifier.expected(
            opening.request.prompt, opening.request.sampling, done + count
        )[done:]
        tokens = [t if self.chance.random() < edge.honesty else (t + 1) % 1000 for t in truth]
        position = len(opening.request.prompt) + done
        return DraftBlock(
            edge.epoch, position, tokens, [edge.says] * len(tokens), 0.002 * len(tokens), True
        )
