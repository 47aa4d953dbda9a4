"""The next step is launched while one runs: what that hides, and that nothing else changes."""

from __future__ import annotations

from random import Random

import pytest

from tests.engine.traffic import DIRECTIVE, PROMPT, block, draft, opening
from wisp.core.batch import Batch, Seat
from wisp.core.drafts import Rejection, Verdict
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.engine.engine import Engine
from wisp.engine.messages import Close, Failed, Open, ToEngine, Verdicts
from wisp.engine.step import InFlightStep, Pace
from wisp.estimator.step_time import StepTimeEstimator
from wisp.scheduler.policy import make_policy
from wisp.scheduler.tuning import POLICIES, PolicyChoice, PolicyName
from wisp.testing.clock import VirtualClock
from wisp.testing.floor_and_slope import FloorAndSlope
from wisp.testing.verifier import ScriptedVerifier

LAUNCH_S, STEP_S = 0.002, 0.010


class Gpu:
    """Steps take turns on it, each `STEP_S`; the host needs `LAUNCH_S` to launch one."""

    def __init__(self, clock: VirtualClock, *, overlaps: bool) -> None:
        self.clock = clock
        self.overlaps = overlaps
        self.free_s = 0.0
        self.busy_s = 0.0
        self.ends: dict[int, float] = {}  # by batch
        self.fails = False
        self.more_s = 0.0  # that the host launches behind the target's part

    def launch(self, batch: Batch) -> None:
        self.clock.now += LAUNCH_S
        self.free_s = max(self.free_s, self.clock.now) + STEP_S
        self.busy_s += STEP_S
        self.clock.now += self.more_s
        if self.overlaps:
            self.ends[id(batch)] = self.free_s
        else:
            self.clock.now = self.free_s

    def collect(self, batch: Batch) -> None:
        self.clock.now = max(self.clock.now, self.ends.pop(id(batch)))
        if self.fails and len(batch) > 1:
            self.fails = False
            raise RuntimeError("the GPU stumbles")


class Host:
    """An engine, and all that it says."""

    def __init__(self, policy: PolicyName = "centralized", *, overlaps: bool = True) -> None:
        self.clock = VirtualClock()
        self.gpu = Gpu(self.clock, overlaps=overlaps)
        self.verifier = ScriptedVerifier(on_step=self.gpu.launch, max_sessions=64)
        if overlaps:
            self.verifier.on_collect = self.gpu.collect
        self.engine = Engine(
            self.verifier,
            make_policy(
                PolicyChoice(policy=policy),
                StepTimeEstimator(),
            ),
            max_window=16,
            max_forks=8,
            clock=self.clock,
        )
        self.texts: dict[int, list[int]] = {}
        self.ended: list[int] = []

    def turn(self, *inbox: ToEngine) -> list[tuple[int, Verdict]]:
        """A turn, and then the wait for the next one."""
        found = []
        for message in self.engine.turn(inbox):
            if isinstance(message, Verdicts):
                found += message.verdicts
            if isinstance(message, Failed):
                self.ended.append(message.session_id)
        for session_id, verdict in found:
            self.texts.setdefault(session_id, []).extend(verdict.tokens)
            if verdict.finish_reason:
                self.ended.append(session_id)
        wait_s = self.engine.wait_s()
        self.clock.now += 0.0 if wait_s is None else wait_s
        return found

    @property
    def in_flight(self) -> InFlightStep | None:
        return self.engine._in_flight  # the engine has no reason to tell; the test has to be sure

    def run(self) -> None:
        while self.engine.sessions:
            self.turn()

    def is_right(self, message: Open) -> bool:
        count = message.request.sampling.max_tokens
        truth = self.verifier.expected(message.request.prompt, message.request.sampling, count)
        return self.texts[message.session_id] == truth


def busy(policy: PolicyName = "centralized", *, overlaps: bool, has_edge: bool = False) -> float:
    """The share of the time in which the GPU works."""
    host = Host(policy, overlaps=overlaps)
    host.turn(*(opening(number, max_tokens=100, has_edge=has_edge) for number in range(8)))
    host.run()
    return host.gpu.busy_s / host.clock.now


def test_the_gpu_does_not_wait_for_the_host() -> None:
    assert busy(overlaps=False) == pytest.approx(STEP_S / (LAUNCH_S + STEP_S), abs=0.01)
    assert busy(overlaps=True) > 0.98


def test_what_is_launched_behind_the_target_is_no_part_of_its_time() -> None:
    """Of steps launched before the device was idle or not: nobody is told that they took less."""
    host = Host()
    host.verifier.had_s = host.gpu.more_s = 0.4 * STEP_S
    times = [v.step_time_s for _, v in host.turn(opening(1, max_tokens=20))]
    while host.engine.sessions:
        times += [verdict.step_time_s for _, verdict in host.turn()]
    assert len(times) == 20
    assert min(times) > 0.9 * STEP_S


def test_who_might_have_drafts_decodes_in_step_after_step_if_the_policy_sees_to_it() -> None:
    assert busy("wisp", overlaps=True, has_edge=True) > 0.98
    assert busy("fcfs", overlaps=True, has_edge=True) < 0.95


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(4))
def test_every_text_is_right_and_every_session_ends_once(policy: PolicyName, seed: int) -> None:
    """Sessions with and without edges come, draft, leave and fail at random."""
    chance = Random(seed)
    host = Host(policy)
    messages = {
        number: opening(number, max_tokens=chance.randint(1, 40), has_edge=chance.random() < 0.5)
        for number in range(40)
    }
    waiting, closed, epochs = list(messages.values()), set(), dict.fromkeys(messages, 0)
    while waiting or host.engine.sessions:
        inbox: list[ToEngine] = []
        if waiting and chance.random() < 0.3:
            inbox.append(waiting.pop())
        for number in list(host.engine.sessions):
            if chance.random() < 0.01:
                closed.add(number)
                inbox.append(Close(number))
            elif messages[number].has_edge and chance.random() < 0.5:
                epochs[number] += 2
                text = host.texts.get(number, [])
                truth = host.verifier.expected(PROMPT, messages[number].request.sampling, 40)
                tokens = truth[len(text) :][: chance.randint(1, 8)]
                ahead = len(tokens) - 1
                if tokens and chance.random() < 0.5:
                    tokens[-1] ^= 1
                if tokens and text:
                    position, epoch = len(PROMPT) + len(text), epochs[number]
                    beside = truth[len(text) + ahead :][: chance.randint(1, 8)]
                    fork = block(epoch + 1, position + ahead, beside, parent=epoch)
                    forks = [fork] * chance.randrange(2)
                    inbox.append(draft(number, epoch, position, tokens, forks=forks))
        host.gpu.fails = host.gpu.fails or chance.random() < 0.02
        host.turn(*inbox)
    finished = set(messages) - closed
    assert sorted(n for n in host.ended if n in finished) == sorted(finished)
    failed = {number for number in finished if not host.is_right(messages[number])}
    assert all(
        host.texts[number]
        == host.verifier.expected(
            PROMPT, messages[number].request.sampling, len(host.texts[number])
        )
        for number in host.texts
    )
    assert not failed
    assert host.verifier.num_open == 0


def text_begun(host: Host) -> tuple[list[int], int]:
    """Of the session 1, which alone of eight has an edge, and is in no step: all of it, and how
    much is committed."""
    edge = opening(1, max_tokens=60, has_edge=True)
    host.turn(edge, *(opening(number, max_tokens=200) for number in range(2, 9)))
    while not host.texts.get(1) or host.engine.sessions[1].num_in_flight:
        host.turn()
    return host.verifier.expected(PROMPT, edge.request.sampling, 60), len(host.texts[1])


def test_a_draft_that_comes_while_a_step_runs_is_in_the_next_one() -> None:
    """The decision is put off for as long as the in-flight step leaves time."""
    host = Host("fcfs")
    truth, start = text_begun(host)
    in_flight = host.in_flight
    assert in_flight
    host.clock.now = host.gpu.free_s - 0.7 * STEP_S  # it has just begun
    tokens = truth[start : start + 4]
    published = host.engine.turn([draft(1, 1, len(PROMPT) + start, tokens)])
    assert host.in_flight is in_flight  # nothing was decided
    assert not published
    host.clock.now += host.engine.wait_s() or 0.0
    host.turn()
    assert host.in_flight is not in_flight
    assert 1 in [seat.session.id for seat in host.in_flight.batch.seats]
    (verdict,) = (verdict for number, verdict in host.turn() if number == 1)
    assert verdict.num_accepted == 4


def test_drafts_behind_a_rejected_one_count_for_nothing() -> None:
    """Two blocks of one stream are in flight at once, and the first one ends with a wrong token."""
    host = Host("fcfs")
    truth, start = text_begun(host)
    position, wrong = len(PROMPT) + start, [*truth[start : start + 3], truth[start + 3] ^ 1]
    verdicts = host.turn(draft(1, 1, position, wrong))
    verdicts += host.turn(draft(1, 1, position + 4, truth[start + 4 : start + 9]))
    while len(mine := [verdict for number, verdict in verdicts if number == 1]) < 2:
        verdicts += host.turn()
    assert [(v.num_drafted, v.num_accepted, len(v.tokens)) for v in mine] == [(4, 3, 4), (0, 0, 1)]
    assert host.texts[1] == truth[: len(host.texts[1])]


@pytest.mark.parametrize("overlaps", [True, False])
def test_a_fork_is_gone_on_with_at_once(overlaps: bool) -> None:
    """The step behind the rejection verifies it, or the next one where that is launched already and
    its policy gives no alternatives."""
    host = Host("fcfs", overlaps=overlaps)
    truth, start = text_begun(host)
    position, wrong = len(PROMPT) + start, [*truth[start : start + 3], truth[start + 3] ^ 1]
    fork = block(2, position + 3, truth[start + 3 : start + 16], parent=1)
    in_vain = draft(1, 1, position + 4, [5, 5, 5])  # behind the wrong one
    verdicts = host.turn(draft(1, 1, position, wrong, forks=[fork]), in_vain)
    while len(host.texts[1]) < start + 17:
        verdicts += host.turn()
    mine = [verdict for number, verdict in verdicts if number == 1]
    assert mine[0].rejection is Rejection.SEAMLESS
    assert mine[0].num_accepted == 3
    assert [v.rejection for v in mine[1:]] == [None] * len(mine[1:])
    assert len(mine) <= 3 + overlaps
    assert host.texts[1] == truth[: len(host.texts[1])]


def test_a_step_launched_before_a_rejection_goes_on_with_the_fork_that_was_right() -> None:
    """It has the fork's drafts as an alternative to those behind the wrong one."""
    host = Host("wisp")
    message = opening(1, max_tokens=60, has_edge=True)
    host.turn(*(opening(number, max_tokens=200) for number in range(2, 9)))
    while len(host.texts.get(2, [])) < 8:  # by then it is known what a token takes
        host.turn()
    host.turn(message)
    while not host.texts.get(1):
        host.turn()
    truth = host.verifier.expected(PROMPT, message.request.sampling, 60)
    start, session = len(host.texts[1]), host.engine.sessions[1]
    assert session.num_in_flight == 1
    position, path = len(PROMPT) + start, truth[start : start + 6]
    path[3] ^= 1
    fork = block(2, position + 3, truth[start + 3 : start + 9], parent=1)
    verdicts = host.turn(draft(1, 1, position, path, forks=[fork]))
    while len(host.texts[1]) < start + 10:
        verdicts += host.turn()
    mine = [(v.num_drafted, v.num_accepted, v.rejection) for n, v in verdicts if n == 1]
    assert mine == [(0, 0, None), (5, 2, Rejection.SEAMLESS), (5, 5, None)]
    assert host.texts[1] == truth[: len(host.texts[1])]


def opened(verifier: ScriptedVerifier, number: int, *, has_edge: bool) -> Session:
    slo = Slo(tokens_per_s=10, first_token_s=1)
    sampling = Sampling(max_tokens=50, seed=0)
    session = Session(
        number, [5], sampling, slo, directive=DIRECTIVE, has_edge=has_edge, overlaps=True
    )
    verifier.open(session)
    return session


def test_steps_follow_one_another_apart_only_where_nobody_would_be_in_both() -> None:
    """Two steps on the floor cost twice what one does; it pays if the first one's are away."""
    verifier = ScriptedVerifier(on_collect=lambda batch: None)
    estimator = FloorAndSlope(floor_s=STEP_S)
    pace = Pace()
    edge, other, plain = (opened(verifier, n, has_edge=n < 3) for n in (1, 2, 3))
    first = InFlightStep(Batch([Seat(edge, 1, [1])]), None, 0.0, 0.0)
    second = InFlightStep(Batch([Seat(other, 1, [1])]), None, 0.0, 0.0)
    first.launch(verifier)
    assert not pace.may_follow(first, 1, second, estimator)
    first.landed()
    for _ in range(40):  # its session waits for its edge then
        pace.taken_in(first, rest_s=0.0005)
    first.launch(verifier)
    assert pace.may_follow(first, 1, second, estimator)
    decoding = InFlightStep(Batch([Seat(plain, 1)]), None, 0.0, 0.0)
    decoding.launch(verifier)
    again = InFlightStep(Batch([Seat(plain, 1)]), None, 0.0, 0.0)
    assert Pace().may_follow(decoding, 0, again, estimator)  # whoever decodes is in both
