"""Law 1, end to end in one process: whatever the edges do, the text is the target's own.

The engine, the verifier and the drafter are the real ones, on the bundled pair; the edges' streams
are the real ones too, only the network between is a list of blocks in virtual time.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from wisp.config import TINY
from wisp.core.drafts import Directive, DraftBlock, Verdict
from wisp.core.request import Request, Sampling
from wisp.core.slo import Slo
from wisp.edge.drafter.base import Drafter, DraftJob, Proposal
from wisp.edge.drafter.transformers import TransformersDrafter
from wisp.edge.stream import Stream
from wisp.edge.tree import Candidate
from wisp.engine.engine import Engine
from wisp.engine.messages import Draft, Failed, FromEngine, Open, ToEngine, Verdicts
from wisp.models.tokenizer import Tokenizer
from wisp.sampling.choice import choose
from wisp.sampling.processors import Row
from wisp.scheduler.policy import make_policy
from wisp.scheduler.tuning import PolicyChoice, PolicyName
from wisp.testing.clock import VirtualClock
from wisp.testing.floor_and_slope import FloorAndSlope
from wisp.verifier.base import Verifier
from wisp.verifier.torch import TorchVerifier

NUM_PROMPTS, NUM_TOKENS = 100, 40
DIRECTIVE = Directive(window=8, threshold=0.3)
SLO = Slo(tokens_per_s=10, first_token_s=10)
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "nucleus": {"temperature": 0.8, "top_p": 0.95},
    "hot": {"temperature": 1.2},
}
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

    def __init__(self, verifier: Verifier, policy_name: PolicyName = "wisp") -> None:
        self.clock = VirtualClock()
        policy = make_policy(PolicyChoice(policy=policy_name, max_step_tokens=512), FloorAndSlope())
        self.engine = Engine(
            verifier, policy, max_window=64, max_forks=MAX_FORKS, max_ngram=4, clock=self.clock
        )

    def generate(
        self,
        prompts: list[list[int]],
        samplings: list[Sampling],
        propose: Propose | None = None,
        delays: Sequence[int] = (0,),
        dies_after: int = NUM_TOKENS,
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
                edge.stream.take_verdict(verdict)
                edge.alive = edge.alive and len(edge.stream.committed) < (
                    edge.stream.num_prompt + dies_after
                )
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


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = Tokenizer(TINY / "target")
    texts = [p["prompt"] for p in json.loads((TINY / "prompts.json").read_text())]
    return [tokenizer.encode(text)[:24] for text in texts[:NUM_PROMPTS]]


@pytest.fixture(scope="module")
def verifier() -> TorchVerifier:
    return TorchVerifier(
        TINY / "target", max_sessions=NUM_PROMPTS, max_model_len=128, num_threads=1
    )


@pytest.fixture(scope="module")
def drafter() -> TransformersDrafter:
    return TransformersDrafter(
        TINY / "draft",
        max_sessions=NUM_PROMPTS,
        max_branches=1 + NUM_PROMPTS * (NUM_BRANCHES - 1),
        max_model_len=128,
        num_threads=1,
    )


@pytest.fixture(scope="module", params=SAMPLINGS)
def samplings(request: pytest.FixtureRequest) -> list[Sampling]:
    return [
        Sampling(max_tokens=NUM_TOKENS, seed=1000 + number, **SAMPLINGS[request.param])
        for number in range(NUM_PROMPTS)
    ]


@pytest.fixture(scope="module")
def alone(
    verifier: TorchVerifier, prompts: list[list[int]], samplings: list[Sampling]
) -> list[list[int]]:
    return World(verifier).generate(prompts, samplings)


def test_without_an_edge_every_choice_is_that_of_plain_transformers(
    prompts: list[list[int]], samplings: list[Sampling], alone: list[list[int]]
) -> None:
    """The oracle shares nothing with the slots: one forward over each whole text, no cache."""
    model = AutoModelForCausalLM.from_pretrained(TINY / "target", dtype=torch.float32)
    for prompt, sampling, output in zip(prompts, samplings, alone, strict=True):
        tokens = prompt + output
        with torch.inference_mode():
            logits = model(torch.tensor([tokens])).logits[0, len(prompt) - 1 : -1]
        positions = range(len(prompt), len(tokens))
        choices, _ = choose(logits, [Row(sampling, tokens, len(prompt), p) for p in positions])
        assert choices == output
        assert len(output) == NUM_TOKENS


@pytest.fixture
def honest(drafter: TransformersDrafter) -> Iterator[Propose]:
    with _opened(drafter) as propose:
        yield propose


def _candidates(proposal: Proposal) -> list[Candidate]:
    found, left = [], 1.0
    for each in (proposal, *proposal.alternatives):
        found.append(Candidate(each.token, left * each.confidence))
        left *= 1.0 - each.confidence
    return found


class _opened:
    """A drafter with a slot for every session."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter

    def __enter__(self) -> Propose:
        for key in range(NUM_PROMPTS):
            self._drafter.open(key)
        return lambda jobs: [_candidates(proposal) for proposal in self._drafter.step(jobs)]

    def __exit__(self, *_: object) -> None:
        for key in range(NUM_PROMPTS):
            self._drafter.close(key)


@pytest.mark.parametrize("policy", ["fcfs", "wisp"])
def test_an_honest_edge(
    verifier: TorchVerifier,
    prompts: list[list[int]],
    samplings: list[Sampling],
    alone: list[list[int]],
    honest: Propose,
    policy: PolicyName,
) -> None:
    assert World(verifier, policy).generate(prompts, samplings, honest) == alone


def test_an_edge_whose_drafts_are_random(
    verifier: TorchVerifier,
    prompts: list[list[int]],
    samplings: list[Sampling],
    alone: list[list[int]],
) -> None:
    chance = random.Random(5)

    def propose(jobs: Sequence[DraftJob]) -> list[list[Candidate]]:
        return [
            [
                Candidate(chance.randrange(verifier.facts.vocab_size), chance.random())
                for _ in range(chance.randint(1, 4))
            ]
            for _ in jobs
        ]

    assert World(verifier).generate(prompts, samplings, propose) == alone


def test_an_edge_that_sends_every_block_twice_and_late(
    verifier: TorchVerifier,
    prompts: list[list[int]],
    samplings: list[Sampling],
    alone: list[list[int]],
    honest: Propose,
) -> None:
    assert World(verifier).generate(prompts, samplings, honest, delays=(2, 5)) == alone


def test_an_edge_that_is_killed_half_way(
    verifier: TorchVerifier,
    prompts: list[list[int]],
    samplings: list[Sampling],
    alone: list[list[int]],
    honest: Propose,
) -> None:
    world = World(verifier)
    assert world.generate(prompts, samplings, honest, dies_after=NUM_TOKENS // 2) == alone
