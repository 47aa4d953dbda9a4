"""The own drafter's first passes, at the start: on a GPU they compile kernels, a second each."""

from __future__ import annotations

import logging
import random

from wisp.core.batch import Batch, Seat
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.engine.profiling import NOBODYS
from wisp.verifier.base import Verifier

log = logging.getLogger(__name__)

# Sessions in a step. Chosen: Triton compiles a kernel anew where a number is 1, and where it is a
# multiple of 16.
_SIZES = (1, 2, 16)
# Tokens of a prompt. Chosen: above the usual block of KV, which is 16.
_PROMPT = 24


def warm_up(verifier: Verifier, max_own: int, max_step_tokens: int) -> None:
    """Let the drafter draft for some sessions, first behind a token and then behind its drafts."""
    chance = random.Random(0)
    most = min(verifier.facts.max_sessions, max_step_tokens // _PROMPT)
    for size in [size for size in _SIZES if size <= most]:
        sessions = [_session(-1 - number, verifier, max_own, chance) for number in range(size)]
        try:
            for session in sessions:
                verifier.open(session)
            for num_own in (0, max_own, max_own):
                _step(verifier, sessions, num_own)
        except Exception:  # users' steps may do all the same
            log.exception("the drafter cannot be tried for %d sessions", size)
        finally:
            for session in sessions:
                verifier.close(session)


def _session(number: int, verifier: Verifier, max_own: int, chance: random.Random) -> Session:
    facts = verifier.facts
    num_prompt = max(1, min(_PROMPT, facts.max_model_len - 4 * max_own))
    prompt = chance.choices(range(facts.vocab_size), k=num_prompt)
    return Session(
        number, prompt, Sampling(max_tokens=4 * max_own, seed=1), NOBODYS, drafts_own=True
    )


def _step(verifier: Verifier, sessions: list[Session], num_own: int) -> None:
    seats = [
        Seat(
            session,
            session.num_missing,
            session.next_drafts(max(0, session.max_drafts)),
            session.next_source,
            num_own=min(num_own, max(0, session.max_drafts - 1)),
        )
        for session in sessions
        if not session.finish_reason
    ]
    for seat, outcome in zip(seats, verifier.step(Batch(seats)), strict=True):
        session = seat.session
        session.computed(outcome.computed_after(seat))
        if outcome.tokens:
            num = len(seat.draft)
            session.verified(seat.source, num, outcome.tokens, 0.0, edge_late=False)
        if outcome.own and not session.finish_reason:
            session.proposed(outcome.own)
