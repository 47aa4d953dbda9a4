"""All sessions at once through one real engine, with real streams and no network between.

The blocks of the edges are lists in virtual time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from wisp.core.drafts import DraftBlock, Verdict
from wisp.core.request import Request, Sampling
from wisp.core.slo import Slo
from wisp.edge.drafter.base import Drafter, DraftJob, Proposal
from wisp.edge.stream import Stream
from wisp.edge.tree import Candidate
from wisp.engine.engine import Engine
from wisp.engine.messages import Draft, Failed, FromEngine, Open, ToEngine, Verdicts
from wisp.scheduler.policy import make_policy
from wisp.scheduler.tuning import PolicyChoice, PolicyName
from wisp.testing.clock import VirtualClock
from wisp.testing.floor_and_slope import FloorAndSlope
from wisp.verifier.base import Verifier

SLO = Slo(tokens_per_s=10, first_token_s=10)
# The candidates behind each sequence, the likeliest first.
Propose = Callable[[Sequence[DraftJob]], list[list[Candidate]]]
NUM_BRANCHES, MAX_FORKS = 3, 8


class Edge:
    """One session's edge: its stream, and the blocks on their way with the turn they come in."""

    def __init__(self, key: int, stream: Stream, sampling: Sampling) -> None:
        self.key = key
        self.sampling = sampling
        self.stream = stream
        stream.max_forks = MAX_FORKS
        self.alive = True
        self.on_their_way: list[tuple[int, DraftBlock]] = []

    def send(self, turn: int, delays: Sequence[int]) -> None:
        if block := self.stream.take_block(4):
            self.on_their_way.extend((turn + delay, block) for delay in delays)

    def receive(self, turn: int) -> Iterator[DraftBlock]:
        yield from (block for due, block in self.on_their_way if due <= turn)
        self.on_their_way = [(due, block) for due, block in self.on_their_way if due > turn]


class World:
    """All sessions at once through one engine."""

    def __init__(
        self, verifier: Verifier, policy_name: PolicyName = "wisp", max_own: int = 0
    ) -> None:
        """`max_own`: own drafts of a session, if the verifier has a drafter."""
        self.clock = VirtualClock()
        choice = PolicyChoice(policy=policy_name, max_step_tokens=512)
        policy = make_policy(choice, FloorAndSlope(), max_own=max_own)
        self.engine = Engine(
            verifier,
            policy,
            max_window=64,
            max_forks=MAX_FORKS,
            max_ngram=4,
            drafts_own=max_own > 0,
            clock=self.clock,
        )
        self.verdicts: list[Verdict] = []

    def generate(
        self,
        prompts: list[list[int]],
        samplings: list[Sampling],
        propose: Propose | None = None,
        delays: Sequence[int] = (0,),
        dies_after: int | None = None,
    ) -> list[list[int]]:
        """The output tokens of each prompt. `delays`: in turns, one for each copy of a block."""
        edges = [
            Edge(key, Stream(prompt, sampling.max_tokens), sampling)
            for key, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True))
        ]
        inbox: list[ToEngine] = [
            Open(
                session_id=edge.key,
                request=Request(prompt=prompts[edge.key], sampling=samplings[edge.key]),
                slo=SLO,
                has_edge=propose is not None,
            )
            for edge in edges
        ]
        turn = 0
        while inbox or self.engine.sessions:
            turn += 1
            published = self.engine.turn(inbox)
            for verdict, edge in _verdicts(published, edges):
                self.verdicts.append(verdict)
                edge.stream.take_verdict(verdict)
                num_tokens = len(edge.stream.committed) - edge.stream.num_prompt
                edge.alive = edge.alive and (dies_after is None or num_tokens < dies_after)
            if propose:
                _draft([edge for edge in edges if edge.alive], propose)
            inbox = []
            for edge in edges:
                edge.send(turn, delays)
                inbox += [Draft(edge.key, block, self.clock()) for block in edge.receive(turn)]
            self.clock.now += 0.001
            if not published and not inbox and not any(edge.on_their_way for edge in edges):
                self.clock.now += self.engine.wait_s() or 0.0
        return [edge.stream.committed[edge.stream.num_prompt :] for edge in edges]


def _verdicts(published: list[FromEngine], edges: list[Edge]) -> Iterator[tuple[Verdict, Edge]]:
    for message in published:
        assert not isinstance(message, Failed), message
        if isinstance(message, Verdicts):
            for key, verdict in message.verdicts:
                yield verdict, edges[key]


def _draft(edges: list[Edge], propose: Propose) -> None:
    while wanting := [
        (edge, leaf) for edge in edges for leaf in edge.stream.wanted()[:NUM_BRANCHES]
    ]:
        jobs = [
            DraftJob(edge.key, edge.stream.sequence(leaf), edge.sampling) for edge, leaf in wanting
        ]
        for (edge, leaf), candidates in zip(wanting, propose(jobs), strict=True):
            if edge.stream.can_take(edge.stream.begin(leaf)):
                edge.stream.extend(leaf, candidates)


def candidates(proposal: Proposal) -> list[Candidate]:
    found, left = [], 1.0
    for each in (proposal, *proposal.alternatives):
        found.append(Candidate(each.token, left * each.confidence))
        left *= 1.0 - each.confidence
    return found


class opened:
    """A drafter with a slot for every session."""

    def __init__(self, drafter: Drafter, num: int) -> None:
        self._drafter, self._num = drafter, num

    def __enter__(self) -> Propose:
        for key in range(self._num):
            self._drafter.open(key)
        return lambda jobs: [candidates(proposal) for proposal in self._drafter.step(jobs)]

    def __exit__(self, *_: object) -> None:
        for key in range(self._num):
            self._drafter.close(key)
