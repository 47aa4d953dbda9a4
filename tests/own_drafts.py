"""Sessions with own drafts, driven straight at a verifier: who asks, and what is verified when."""

from __future__ import annotations

import random
from collections.abc import Sequence

from wisp.core.batch import Batch, Seat
from wisp.core.drafts import Source
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.verifier.base import Outcome, Verifier

SLO = Slo(tokens_per_s=10, first_token_s=1)
# Tokens of prompts and seats of one step, together.
STEP_TOKENS = 256


class Writer:
    """One session, and how many of its tokens came from which drafts."""

    def __init__(
        self,
        number: int,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        foreign: Sequence[int] = (),
        overlaps: bool = False,
    ) -> None:
        """`foreign`: a text of which an edge's drafts are taken; some of them are made wrong."""
        self.session = Session(
            number, prompt, sampling, SLO, drafts_own=True, overlaps=overlaps, now=float(number)
        )
        self.num_prompt = len(prompt)
        self.num_steps = 0
        self.num_verified = dict.fromkeys(Source, 0)
        self.num_accepted = dict.fromkeys(Source, 0)
        self.proposed: list[tuple[int, list[int]]] = []  # behind so many tokens, which
        self._foreign = foreign
        self._chance = random.Random(number)

    @property
    def text(self) -> list[int]:
        return self.session.tokens[self.num_prompt :]

    @property
    def done(self) -> bool:
        return self.session.finish_reason is not None

    def seat(self, room: int, max_own: int) -> Seat:
        session = self.session
        seat = Seat(session, min(session.num_missing, room))
        if not seat.chooses:
            return seat
        most = min(room - seat.num_context, session.max_drafts)
        if self._foreign and self._chance.random() < 0.4:
            seat.draft = self._edge_drafts()[:most]
        elif session.drafts.source is Source.OWN:
            seat.draft, seat.source = session.next_drafts(most), Source.OWN
        # Behind a first token, a rejection, and where the text is nearly over: at any time.
        seat.num_own = max(0, min(self._chance.randint(0, max_own), session.max_drafts - 1))
        return seat

    def _edge_drafts(self) -> list[int]:
        start = self.session.num_output
        right = self._foreign[start : start + self._chance.randrange(6)]
        return [t if self._chance.random() > 0.15 else self._chance.randrange(4096) for t in right]

    def take(self, seat: Seat, outcome: Outcome) -> None:
        session = self.session
        self.num_steps += 1
        session.computed(outcome.computed_after(seat), as_planned=outcome.as_planned(seat))
        if not outcome.tokens:
            assert outcome.own is None, "drafts behind nothing"
            return
        self.num_verified[seat.source] += len(seat.draft)
        self.num_accepted[seat.source] += outcome.num_accepted
        session.verified(seat.source, len(seat.draft), outcome.tokens, 0.0, edge_late=False)
        if outcome.own and not self.done:
            assert 1 <= len(outcome.own.tokens) <= seat.num_own
            assert len(outcome.own.tokens) == len(outcome.own.acceptance)
            assert all(0.0 <= chance <= 1.0 for chance in outcome.own.acceptance)
            self.proposed.append((len(session.tokens), outcome.own.tokens))
            session.proposed(outcome.own)


def write(
    verifier: Verifier,
    writers: Sequence[Writer],
    max_own: int,
    share: float = 1.0,
    room: int = STEP_TOKENS,
) -> None:
    """All of them to their ends; each is in a step with a probability, and `room` tokens."""
    chance = random.Random(5)
    for writer in writers:
        verifier.open(writer.session)
    while live := [writer for writer in writers if not writer.done]:
        seated = [writer for writer in live if chance.random() < share] or live[:1]
        most = min(room, STEP_TOKENS // len(seated))
        pairs = [(writer, writer.seat(most, max_own)) for writer in seated]
        outcomes = verifier.step(Batch([seat for _, seat in pairs]))
        for (writer, seat), outcome in zip(pairs, outcomes, strict=True):
            writer.take(seat, outcome)
            if writer.done:
                verifier.close(writer.session)


def tokens_a_step(writers: Sequence[Writer]) -> float:
    """Of those that were in every step, prompts left out."""
    return sum(len(w.text) for w in writers) / sum(w.num_steps for w in writers)
