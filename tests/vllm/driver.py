"""Sessions driven straight at a verifier, as the engine does, and the texts they must get."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import msgspec
import torch

from wisp.config import TINY
from wisp.core.batch import Batch, Seat
from wisp.core.drafts import Source
from wisp.core.own_drafts import NOTHING
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.models.tokenizer import Tokenizer
from wisp.sampling.philox import gumbel_torch, signed
from wisp.sampling.processors import Row, process
from wisp.verifier.base import Outcome, Verifier
from wisp.verifier.torch import TorchVerifier

SLO = Slo(tokens_per_s=10, first_token_s=1)
STEP_TOKENS = 256
MOST_AT_ONCE = 64  # sessions of the torch verifier
TIE = 1e-3  # two scores nearer than this are one to float32 sums of another order
Draft = Callable[[Session], list[int]]


@cache
def prompts() -> list[list[int]]:
    """160 prompts of 12 to 60 tokens."""
    tokenizer = Tokenizer(TINY / "target")
    texts = json.loads((TINY / "prompts.json").read_text())
    return [tokenizer.encode(t["prompt"])[: 12 + n % 49] for n, t in enumerate(texts)]


_targets: dict[str | None, Path] = {None: TINY / "target"}


def merged(adapter: str, directory: Path) -> None:
    """Sessions with the adapter must get the text of the model in `directory`."""
    _targets[adapter] = directory


@cache
def oracle(adapter: str | None = None) -> TorchVerifier:
    return TorchVerifier(_targets[adapter], max_sessions=MOST_AT_ONCE, max_model_len=512)


class Driver:
    """One session: seats for it, and what comes of them."""

    def __init__(
        self,
        number: int,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        committed: Sequence[int] = (),
        adapter: str | None = None,
        overlaps: bool = False,
        drafts_own: bool = False,
        max_ngram: int = 0,
        due_s: float = 0.0,
    ) -> None:
        self.prompt = list(prompt)
        self.session = Session(
            number,
            prompt,
            sampling,
            SLO,
            committed=committed,
            adapter=adapter,
            overlaps=overlaps,
            drafts_own=drafts_own,
            max_ngram=max_ngram,
            now=due_s,
        )
        self.num_steps = 0
        self.num_accepted = 0
        self.logprobs: list[float] = []

    @property
    def text(self) -> list[int]:
        return self.session.tokens[len(self.prompt) :]

    @property
    def done(self) -> bool:
        return self.session.finish_reason is not None

    def seat(self, room: int, draft: Sequence[int] = ()) -> Seat:
        seat = Seat(self.session, min(self.session.num_missing, room))
        if seat.chooses:
            most = min(room - seat.num_context, self.session.max_drafts)
            seat.draft = list(draft[:most])
        return seat

    def take(self, seat: Seat, outcome: Outcome, now: float = 0.0) -> None:
        self.num_steps += 1
        self.session.computed(outcome.computed_after(seat), as_planned=outcome.as_planned(seat))
        if outcome.tokens:
            self.num_accepted += outcome.num_accepted
            taken = self._taken(seat, outcome.tokens, now)
            logprobs = outcome.logprobs or []
            self.logprobs += [item.logprob for item in logprobs[: len(taken)]]
            assert self.done or self.session.num_missing == 1 or self.session.num_in_flight
        if seat.num_own:
            self.session.proposed(outcome.own or NOTHING)

    def _taken(self, seat: Seat, tokens: list[int], now: float) -> list[int]:
        if seat.source is Source.EDGE:  # whose drafts here come in no stream
            return self.session.commit(tokens, now)
        return self.session.verified(seat.source, len(seat.draft), tokens, now, edge_late=False)


def step(verifier: Verifier, pairs: Sequence[tuple[Driver, Seat]], now: float = 0.0) -> None:
    outcomes = verifier.step(Batch([seat for _, seat in pairs]))
    for (driver, seat), outcome in zip(pairs, outcomes, strict=True):
        driver.take(seat, outcome, now)


def finish(verifier: Verifier, drivers: Sequence[Driver], draft: Draft = lambda _: []) -> None:
    """All of them to their ends, each in every step."""
    for driver in drivers:
        verifier.open(driver.session)
    while live := [driver for driver in drivers if not driver.done]:
        room = STEP_TOKENS // len(live)
        step(verifier, [(driver, driver.seat(room, draft(driver.session))) for driver in live])
        for driver in live:
            if driver.done:
                verifier.close(driver.session)


_texts: dict[tuple[object, ...], list[int]] = {}


def learn(pairs: Sequence[tuple[Sequence[int], Sampling]], adapter: str | None = None) -> None:
    """Let the torch verifier write many texts in large batches; `expected` knows them then."""
    unknown = {_key(*pair, adapter): pair for pair in pairs}
    for key in _texts.keys() & unknown.keys():
        del unknown[key]
    drivers = [Driver(number, *pair) for number, pair in enumerate(unknown.values())]
    for start in range(0, len(drivers), MOST_AT_ONCE):
        finish(oracle(adapter), drivers[start : start + MOST_AT_ONCE])
    _texts.update((key, driver.text) for key, driver in zip(unknown, drivers, strict=True))


def expected(prompt: Sequence[int], sampling: Sampling, adapter: str | None = None) -> list[int]:
    """The torch verifier's text, without drafts."""
    key = _key(prompt, sampling, adapter)
    if key not in _texts:
        learn([(prompt, sampling)], adapter)
    return _texts[key]


def _key(prompt: Sequence[int], sampling: Sampling, adapter: str | None) -> tuple[object, ...]:
    return tuple(prompt), msgspec.msgpack.encode(sampling), adapter


def drafter(
    seed: int,
    prompt: Sequence[int],
    sampling: Sampling,
    wrong: float = 0.15,
    adapter: str | None = None,
) -> Draft:
    """Random numbers of draft tokens, each wrong with a probability."""
    chooser = random.Random(seed)
    text = expected(prompt, sampling, adapter)

    def draft(session: Session) -> list[int]:
        right = text[session.num_output + session.num_pending :][: chooser.randrange(17)]
        return [t if chooser.random() > wrong else chooser.randrange(4096) for t in right]

    return draft


def same(driver: Driver) -> bool:
    """Whether its text is the oracle's; fails if it is another one for any reason but a tie."""
    sampling, adapter = driver.session.sampling, driver.session.adapter
    want, got = expected(driver.prompt, sampling, adapter), driver.text
    if got == want:
        return True
    index = next(i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b)
    probe = Session(-1, [*driver.prompt, *want[:index]], Sampling(max_tokens=1, seed=0), SLO)
    gap = _gap(oracle(adapter), probe, len(driver.prompt), sampling, got[index])
    assert gap < TIE, f"token {index} is {got[index]}, not {want[index]}: worse by {gap}"
    return False


@torch.inference_mode()
def _gap(
    writer: TorchVerifier, probe: Session, num_prompt: int, sampling: Sampling, other: int
) -> float:
    """How much the score of `other` is below the best, after the tokens of `probe`."""
    tokens = probe.tokens
    captured: list[torch.Tensor] = []
    model = writer._model  # whose logits no verifier gives away
    forward = model.forward

    def capture(items: object) -> torch.Tensor:
        captured.append(forward(items))  # type: ignore[arg-type]
        return captured[-1]

    model.forward = capture  # type: ignore[method-assign]
    try:
        finish(writer, [Driver(-1, tokens, probe.sampling)])
    finally:
        model.forward = forward  # type: ignore[method-assign]
    row = Row(sampling, tokens, num_prompt, len(tokens))
    scores = process(captured[-1][-1:].float().clone(), [row])
    if not row.greedy:
        key = torch.tensor([signed(sampling.seed)]), torch.tensor([row.position])
        scores += gumbel_torch(*key, scores.shape[1])
    return float(scores.max() - scores[0, other])
