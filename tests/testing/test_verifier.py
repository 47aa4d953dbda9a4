from __future__ import annotations

import pytest

from wisp.core.batch import Batch, Seat
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.errors import Overloaded
from wisp.testing.verifier import ScriptedVerifier

SLO = Slo(tokens_per_s=10.0, first_token_s=1.0)
SAMPLING = Sampling(max_tokens=20, seed=11)
PROMPT = [5, 6, 7]


def opened(verifier: ScriptedVerifier, session_id: int = 1) -> Session:
    session = Session(session_id, PROMPT, SAMPLING, SLO)
    verifier.open(session)
    return session


def advance(verifier: ScriptedVerifier, seat: Seat) -> list[int]:
    outcome = verifier.step(Batch([seat]))[0]
    seat.session.computed(outcome.computed_after(seat))
    return seat.session.commit(outcome.tokens, 0.0)


@pytest.mark.parametrize("num_right", range(5))
def test_the_text_is_known_whatever_is_drafted(num_right: int) -> None:
    verifier = ScriptedVerifier()
    session = opened(verifier)
    truth = verifier.expected(PROMPT, SAMPLING, 20)
    assert advance(verifier, Seat(session, 2)) == []  # a chunk of the prompt
    while session.finish_reason is None:
        draft = truth[session.num_output :][:4]
        draft[num_right:] = [(token + 1) % 4096 for token in draft[num_right:]]
        advance(verifier, Seat(session, session.num_missing, draft))
    assert session.tokens == PROMPT + truth


def test_expected_ends_with_a_stop_token() -> None:
    verifier = ScriptedVerifier()
    text = verifier.expected(PROMPT, SAMPLING, 20)
    stops = Sampling(max_tokens=20, seed=11, stop_token_ids=(text[4],))
    assert verifier.expected(PROMPT, stops, 20) == text[:5]


def test_rejected_drafts_may_not_be_counted_as_computed() -> None:
    verifier = ScriptedVerifier()
    session = opened(verifier)
    advance(verifier, Seat(session, 3, [0, 0]))
    session.computed(session.num_computed + 1)
    session.commit([9], 0.0)
    with pytest.raises(AssertionError, match="not the committed"):
        verifier.step(Batch([Seat(session, 1)]))


def test_faults_of_the_caller_are_found() -> None:
    verifier = ScriptedVerifier(max_model_len=8)
    session = opened(verifier)
    faults = {
        "two seats": [Seat(session, 3), Seat(session, 3)],
        "not open": [Seat(Session(2, PROMPT, SAMPLING, SLO), 3)],
        "vocabulary": [Seat(session, 3, [4096])],
        "at least one": [Seat(session, 0)],
        "beyond": [Seat(session, 4)],
        "behind all": [Seat(session, 2, [1])],
        "do not fit": [Seat(session, 3, [1] * 6)],
    }
    for message, seats in faults.items():
        with pytest.raises(AssertionError, match=message):
            verifier.step(Batch(seats))
    session.computed(2)
    with pytest.raises(AssertionError, match="never computed"):
        verifier.step(Batch([Seat(session, 1)]))
    assert verifier.num_steps == 0


def test_sessions_are_opened_once_and_their_number_is_limited() -> None:
    verifier = ScriptedVerifier(max_sessions=1)
    session = opened(verifier)
    with pytest.raises(AssertionError, match="twice"):
        verifier.open(session)
    with pytest.raises(Overloaded):
        opened(verifier, 2)
    verifier.close(session)
    verifier.close(session)
    assert verifier.num_open == 0
    verifier.shutdown()
    with pytest.raises(AssertionError, match="shut down"):
        opened(verifier, 3)


def test_the_hook_sees_each_batch() -> None:
    seen: list[int] = []
    verifier = ScriptedVerifier(on_step=lambda batch: seen.append(batch.num_tokens))
    session = opened(verifier)
    advance(verifier, Seat(session, 3, [1, 2]))
    assert seen == [5]
