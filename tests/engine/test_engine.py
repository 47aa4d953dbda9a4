"""The engine's turn, on the scripted verifier and a virtual clock."""

from __future__ import annotations

import random

import msgspec
import pytest

from tests.engine.traffic import DIRECTIVE, PROMPT, draft, opening
from wisp.core.batch import Batch
from wisp.core.drafts import Source, Verdict
from wisp.core.request import FinishReason, Request, Sampling
from wisp.core.slo import Slo
from wisp.engine.engine import Engine
from wisp.engine.messages import (
    Close,
    Draft,
    Failed,
    Forecast,
    FromEngine,
    Hold,
    Open,
    Shutdown,
    Snapshot,
    TakeSnapshot,
    Verdicts,
)
from wisp.errors import BadRequest, Overloaded
from wisp.estimator.shape import StepShape
from wisp.estimator.step_time import StepTimeEstimator
from wisp.scheduler.baselines import Fcfs
from wisp.scheduler.policy import make_policy
from wisp.scheduler.tuning import POLICIES, PolicyChoice, PolicyName
from wisp.testing.clock import VirtualClock
from wisp.testing.floor_and_slope import FloorAndSlope
from wisp.testing.verifier import ScriptedVerifier


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def verifier() -> ScriptedVerifier:
    return ScriptedVerifier(max_sessions=4)


@pytest.fixture
def engine(verifier: ScriptedVerifier, clock: VirtualClock) -> Engine:
    policy = Fcfs(FloorAndSlope(), DIRECTIVE, block_tokens=4, max_step_tokens=64)
    return Engine(verifier, policy, max_window=16, clock=clock)


def verdicts(published: list[FromEngine], session_id: int = 1) -> list[Verdict]:
    return [
        verdict
        for message in published
        if isinstance(message, Verdicts)
        for owner, verdict in message.verdicts
        if owner == session_id
    ]


def run_to_end(engine: Engine, session_id: int = 1) -> list[int]:
    tokens: list[int] = []
    while session_id in engine.sessions:
        for verdict in verdicts(engine.turn([]), session_id):
            tokens += verdict.tokens
    return tokens


def test_a_plain_session_gets_the_targets_text(engine: Engine, verifier: ScriptedVerifier) -> None:
    message = opening()
    first = verdicts(engine.turn([message]))
    assert first[0].position == len(PROMPT)
    tokens = first[0].tokens + run_to_end(engine)
    assert tokens == verifier.expected(PROMPT, message.request.sampling, 10)
    assert verifier.num_open == 0


def test_a_session_that_breaks_the_verifier_when_opened_ends_alone(
    engine: Engine, verifier: ScriptedVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.turn([opening(1)])
    with monkeypatch.context() as patch:
        patch.setattr(verifier, "open", lambda session: 1 / 0)
        published = engine.turn([opening(2)])
    assert Failed(2, "internal", "the target failed on this session") in published
    assert len(verdicts(published, 1)) == 1
    run_to_end(engine, 1)
    assert verifier.num_open == 0


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BadRequest("too large"), Failed(1, "invalid", "too large")),
        (Overloaded("too many", 3.0), Failed(1, "overloaded", "too many", 3.0)),
    ],
)
def test_a_session_that_proves_to_ask_for_too_much_ends_alone(
    engine: Engine,
    verifier: ScriptedVerifier,
    monkeypatch: pytest.MonkeyPatch,
    error: BadRequest | Overloaded,
    told: Failed,
) -> None:
    """The step of the others is not taken apart for it."""
    engine.turn([opening(1), opening(2)])
    session, num_steps = engine.sessions[1], verifier.num_steps
    monkeypatch.setattr(
        verifier, "refused", lambda: [(session, error)] if 1 in engine.sessions else []
    )
    published = engine.turn([])
    assert told in published
    assert len(verdicts(published, 2)) == 1
    assert verifier.num_steps == num_steps + 1
    run_to_end(engine, 2)
    assert verifier.num_open == 0


def test_a_session_whose_reader_does_not_keep_up_takes_no_step(
    engine: Engine, verifier: ScriptedVerifier
) -> None:
    engine.turn([opening(1), opening(2)])
    published = engine.turn([Hold(1, held=True)])
    assert not verdicts(published, 1)
    assert len(verdicts(published, 2)) == 1
    assert not verdicts(engine.turn([Hold(2, held=True)]), 2)
    assert engine.wait_s() is None
    published = engine.turn([Hold(1, held=False), Close(2)])
    assert len(verdicts(published, 1)) == 1
    run_to_end(engine)
    assert verifier.num_open == 0


def test_right_drafts_are_accepted_with_one_choice_more(
    engine: Engine, verifier: ScriptedVerifier
) -> None:
    message = opening(has_edge=True)
    truth = verifier.expected(PROMPT, message.request.sampling, 10)
    (verdict,) = verdicts(engine.turn([message, draft(1, 1, 3, truth[:4])]))
    assert verdict.tokens == truth[:5]
    assert (verdict.num_drafted, verdict.num_accepted) == (4, 4)
    assert verdict.directive == DIRECTIVE


def test_wrong_drafts_cost_nothing_but_themselves(
    engine: Engine, verifier: ScriptedVerifier
) -> None:
    message = opening(has_edge=True)
    truth = verifier.expected(PROMPT, message.request.sampling, 10)
    wrong = [truth[0], truth[1], truth[2] + 1, truth[3]]
    (verdict,) = verdicts(engine.turn([message, draft(1, 1, 3, wrong)]))
    assert verdict.tokens == truth[:3]
    (after,) = verdicts(engine.turn([draft(1, 2, 6, truth[3:7])]))
    assert after.tokens == truth[3:8]


def test_the_server_decodes_on_when_no_draft_comes(
    engine: Engine, verifier: ScriptedVerifier, clock: VirtualClock
) -> None:
    message = opening(has_edge=True)
    assert verdicts(engine.turn([message]))
    assert engine.turn([]) == []
    assert engine.wait_s() == pytest.approx(0.1)
    clock.now = 0.1
    assert len(verdicts(engine.turn([]))) == 1
    assert engine.wait_s() == 0.0  # the edge was late: it is not waited for again
    run_to_end(engine)


def test_an_idle_engine_waits_for_ever(engine: Engine) -> None:
    assert engine.wait_s() is None


def test_the_last_verdict_says_why(engine: Engine, verifier: ScriptedVerifier) -> None:
    engine.turn([opening(max_tokens=2)])
    (verdict,) = verdicts(engine.turn([]))
    assert verdict.finish_reason is FinishReason.LENGTH


def test_logprobs_end_with_the_tokens(engine: Engine, verifier: ScriptedVerifier) -> None:
    message = opening(has_edge=True, num_logprobs=1, max_tokens=3)
    truth = verifier.expected(PROMPT, message.request.sampling, 3)
    (verdict,) = verdicts(engine.turn([message, draft(1, 1, 3, [*truth[:2], 9])]))
    assert verdict.logprobs is not None
    assert len(verdict.logprobs) == len(verdict.tokens) == 3


def test_closing_frees_the_session_at_once(engine: Engine, verifier: ScriptedVerifier) -> None:
    engine.turn([opening()])
    assert engine.turn([Close(1), Close(1)]) == []
    assert verifier.num_open == 0


def test_a_draft_for_a_session_that_ended_is_ignored(engine: Engine) -> None:
    assert engine.turn([draft(9, 1, 3, [1])]) == []


def test_a_protocol_error_ends_that_session_alone(
    engine: Engine, verifier: ScriptedVerifier
) -> None:
    engine.turn([opening(1, has_edge=True), opening(2)])
    published = engine.turn([draft(1, 1, 99, [1])])
    failures = [message for message in published if isinstance(message, Failed)]
    assert [(f.session_id, f.kind) for f in failures] == [(1, "protocol")]
    assert len(verdicts(published, 2)) == 1
    assert verifier.num_open == 1


def test_a_draft_block_that_nobody_can_take_ends_its_session_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.turn([opening(1, has_edge=True), opening(2)])
    monkeypatch.setattr(engine.sessions[1].stream, "offer", lambda *_, **__: 1 / 0)
    published = engine.turn([draft(1, 1, 3, [1])])
    failures = [message for message in published if isinstance(message, Failed)]
    assert [(f.session_id, f.kind) for f in failures] == [(1, "internal")]
    assert len(verdicts(published, 2)) == 1


def test_more_sessions_than_slots_are_refused(engine: Engine) -> None:
    published = engine.turn([opening(number) for number in range(5)])
    failures = [message for message in published if isinstance(message, Failed)]
    assert [(f.session_id, f.kind, f.retry_after_s) for f in failures] == [(4, "overloaded", 1.0)]


def test_a_session_that_fails_the_step_takes_nobody_along(
    engine: Engine, verifier: ScriptedVerifier
) -> None:
    def fail(batch: Batch) -> None:
        if any(seat.session.id == 2 for seat in batch.seats):
            raise RuntimeError("this session's tokens are poison")

    verifier.on_step = fail
    published = engine.turn([opening(number) for number in (1, 2, 3)])
    failures = [message for message in published if isinstance(message, Failed)]
    assert [(f.session_id, f.kind) for f in failures] == [(2, "internal")]
    while engine.sessions:
        published += engine.turn([])
    for number in (1, 3):
        tokens = [token for v in verdicts(published, number) for token in v.tokens]
        assert tokens == verifier.expected(PROMPT, opening().request.sampling, 10)


@pytest.mark.parametrize("name", POLICIES)
def test_a_report_says_what_was_expected_of_the_step(
    name: PolicyName, verifier: ScriptedVerifier, clock: VirtualClock
) -> None:
    def advance(batch: Batch) -> None:
        clock.now += 0.05

    estimator = StepTimeEstimator()
    verifier.on_step = advance
    policy = make_policy(PolicyChoice(policy=name, batch_wait_s=0.0), estimator)
    engine = Engine(verifier, policy, max_window=16, clock=clock)
    shape = StepShape(len(PROMPT), len(PROMPT), 9.0, 1)
    alone_s = estimator.predict_s(shape)  # it is alone
    expected = Forecast(
        estimator.predict_s(shape), estimator.upper_s(shape), estimator.drift, alone_s
    )
    (message,) = engine.turn([opening()])
    assert isinstance(message, Verdicts)
    assert message.step.forecast == expected
    assert message.step.step_time_s == pytest.approx(0.05)
    assert abs(estimator.predict_s(shape) - 0.05) < abs(expected.expected_s - 0.05)  # it learned


def test_steps_taken_one_by_one_are_not_compared_with_their_forecast(
    engine: Engine, verifier: ScriptedVerifier
) -> None:
    def fail(batch: Batch) -> None:
        if len(batch) > 1:
            raise RuntimeError("together they are poison")

    verifier.on_step = fail
    published = engine.turn([opening(1), opening(2)])
    assert [len(m.verdicts) for m in published if isinstance(m, Verdicts)] == [1, 1]
    assert [m.step.forecast for m in published if isinstance(m, Verdicts)] == [None, None]


def test_a_snapshot_is_taken_when_asked_for(engine: Engine, verifier: ScriptedVerifier) -> None:
    message = opening(1, has_edge=True)
    truth = verifier.expected(PROMPT, message.request.sampling, 10)
    engine.turn([message, draft(1, 1, 3, truth[:4])])
    published = engine.turn([opening(2), draft(1, 1, 8, truth[5:7]), TakeSnapshot()])
    (snapshot,) = (message for message in published if isinstance(message, Snapshot))
    first, second = snapshot.sessions
    assert (first.session_id, first.num_output, first.num_buffered) == (1, 5, 2)
    assert (first.window, first.prefilling) == (DIRECTIVE.window, False)
    assert first.acceptance is not None
    assert first.acceptance > 0.7
    assert first.slack_s == pytest.approx(0.1)
    assert (second.session_id, second.prefilling, second.acceptance) == (2, True, None)
    assert not any(isinstance(message, Snapshot) for message in engine.turn([]))


def test_a_report_tells_prompts_from_the_rest(engine: Engine) -> None:
    (first,) = engine.turn([opening(1)])
    (second,) = engine.turn([opening(2)])
    assert isinstance(first, Verdicts)
    assert isinstance(second, Verdicts)
    assert (first.step.num_tokens, first.step.num_prefill) == (3, 3)
    assert (second.step.num_tokens, second.step.num_prefill) == (4, 3)


def test_shutdown_stops_the_engine(engine: Engine) -> None:
    engine.turn([Shutdown()])
    assert engine.stopped


def test_a_resumed_session_goes_on_where_it_was(engine: Engine, verifier: ScriptedVerifier) -> None:
    message = opening()
    truth = verifier.expected(PROMPT, message.request.sampling, 10)
    resumed = Open(
        session_id=1,
        request=Request(prompt=PROMPT, committed=truth[:4], sampling=message.request.sampling),
        slo=message.slo,
        has_edge=False,
    )
    (first,) = verdicts(engine.turn([resumed]))
    assert first.position == len(PROMPT) + 4
    assert first.tokens + run_to_end(engine) == truth[4:]


@pytest.mark.parametrize("seed", range(20))
def test_random_sessions_all_get_their_text(seed: int, clock: VirtualClock) -> None:
    """Sessions join, draft rightly and wrongly, and leave, in random order and any number."""
    chance = random.Random(seed)
    verifier = ScriptedVerifier(max_sessions=64, vocab_size=50)
    policy = Fcfs(
        FloorAndSlope(), DIRECTIVE, block_tokens=3, max_step_tokens=chance.choice([8, 32, 128])
    )
    engine = Engine(verifier, policy, max_window=16, clock=clock)
    texts: dict[int, list[int]] = {}
    openings: dict[int, Open] = {}
    gone: set[int] = set()
    epochs: dict[int, int] = {}
    num_finished = 0
    while num_finished + len(gone) < 40:
        inbox: list[Open | Draft | Close] = []
        if len(openings) < 40 and chance.random() < 0.5:
            number = len(openings)
            prompt = [chance.randrange(50) for _ in range(chance.randrange(1, 40))]
            openings[number] = Open(
                session_id=number,
                request=Request(
                    prompt=prompt,
                    sampling=Sampling(max_tokens=chance.randrange(1, 30), seed=number),
                ),
                slo=Slo(tokens_per_s=10, first_token_s=1),
                has_edge=chance.random() < 0.7,
            )
            texts[number] = []
            inbox.append(openings[number])
        for number, session in engine.sessions.items():
            if chance.random() < 0.02:
                inbox.append(Close(number))
                gone.add(number)
            elif session.has_edge and chance.random() < 0.5:
                truth = verifier.expected(
                    openings[number].request.prompt,
                    session.sampling,
                    session.num_output + 4,
                )[session.num_output :]
                tokens = [t if chance.random() < 0.7 else 49 - t for t in truth]
                epochs[number] = epochs.get(number, 0) + 1
                inbox.append(draft(number, epochs[number], len(session.tokens), tokens, clock()))
        for message in engine.turn(inbox):
            assert isinstance(message, Verdicts), message
            for number, verdict in message.verdicts:
                texts[number] += verdict.tokens
                num_finished += verdict.finish_reason is not None
        clock.now += 0.01
    assert verifier.num_open == len(engine.sessions) == 0
    for number, opened in openings.items():
        truth = verifier.expected(opened.request.prompt, opened.request.sampling, 30)
        assert texts[number] == truth[: len(texts[number])]
        assert number in gone or len(texts[number]) == opened.request.sampling.max_tokens


@pytest.mark.parametrize("speculation", [True, False])
def test_a_text_that_repeats_itself_is_drafted_without_an_edge(
    clock: VirtualClock, speculation: bool
) -> None:
    verifier = ScriptedVerifier(max_sessions=4, vocab_size=8)
    policy = make_policy(PolicyChoice(policy="wisp"), FloorAndSlope())
    engine = Engine(verifier, policy, max_window=16, max_ngram=4, clock=clock)
    message = opening(max_tokens=100)
    asked = msgspec.structs.replace(message.request, speculation=speculation)
    message = msgspec.structs.replace(message, request=asked)
    found = verdicts(engine.turn([message]))
    while engine.sessions:
        found += verdicts(engine.turn([]))
    tokens = [token for verdict in found for token in verdict.tokens]
    assert tokens == verifier.expected(PROMPT, message.request.sampling, 100)
    drafted = [verdict for verdict in found if verdict.num_drafted]
    accepted = sum(verdict.num_accepted for verdict in drafted)
    assert all(verdict.source is Source.NGRAM for verdict in drafted)
    assert len(found) == 100 - accepted
    assert (accepted > 0) == speculation
