"""The fault campaign finds what it is there to find, and is the same every time."""

from __future__ import annotations

import grpc
import pytest

from benchmarks.faults.campaign import Campaign, Outcome
from benchmarks.faults.virtual import run
from wisp import status
from wisp.edge.generation import EdgeGeneration
from wisp.errors import InternalError, Unavailable, WispError

NUM_TOKENS = 6000


def campaign(seed: int, num_tokens: int = NUM_TOKENS) -> Outcome:
    return run(Campaign(seed, num_tokens).run)


@pytest.mark.parametrize("seed", [1, 2])
def test_under_faults_nothing_is_wrong_lost_doubled_or_left_over(seed: int) -> None:
    outcome = campaign(seed)
    assert outcome.clean, (outcome.wrong, outcome.lost, outcome.doubled, outcome.leftovers)
    assert outcome.num_tokens >= NUM_TOKENS
    assert outcome.num_resumes > 0
    ends = outcome.num_whole + outcome.num_cancelled + outcome.num_refused + outcome.num_ended
    assert ends == outcome.num_requests


def test_a_seed_gives_the_same_campaign_each_time() -> None:
    first, second = campaign(3, 3000), campaign(3, 3000)
    assert first == second


def test_codes_that_grpc_makes_cost_texts_if_they_are_taken_at_their_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As they were: 29 of 256 texts were lost when a server was killed."""
    right = status.error_of

    def at_its_word(failure: grpc.aio.AioRpcError) -> WispError:
        error = right(failure)
        if isinstance(error, Unavailable) and failure.code() is grpc.StatusCode.INTERNAL:
            return InternalError("lost")
        return error

    monkeypatch.setattr("wisp.edge.link.error_of", at_its_word)
    assert campaign(1).lost


def test_a_text_that_is_not_resumed_where_it_was_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = EdgeGeneration._resume  # the private one is what a fault would be in

    def forgetful(self: EdgeGeneration) -> object:
        from msgspec import structs

        request = right(self)
        return structs.replace(request, committed=[token ^ 1 for token in request.committed])

    monkeypatch.setattr(EdgeGeneration, "_resume", forgetful)
    assert campaign(1).wrong
