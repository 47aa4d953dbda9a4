"""Drafting policies on recorded traces: rounds, wasted drafts and goodput."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.predictor_traces import Draft, Trace
from wisp.edge.predictor import Features, Label, Predictor
from wisp.edge.predictor.base import TYPICAL_ACCEPTANCE
from wisp.edge.stream import RECENT_RATE


@dataclass(frozen=True, slots=True)
class Costs:
    """In units of the time of one draft token."""

    step: float  # of the target, whatever it verifies
    round_trip: float


@dataclass(slots=True)
class Tally:
    num_rounds: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    num_committed: int = 0

    def goodput(self, costs: Costs) -> float:
        """Committed tokens in the time of one draft token."""
        per_round = costs.step + costs.round_trip
        return self.num_committed / (self.num_drafted + self.num_rounds * per_round)

    @property
    def wasted_share(self) -> float:
        return (self.num_drafted - self.num_accepted) / max(1, self.num_drafted)


class History:
    """What a session's stream knows of its past; the same rules as wisp.edge.stream."""

    def __init__(self) -> None:
        self.recent = TYPICAL_ACCEPTANCE
        self.run = 0

    def features(self, trace: Trace, draft: Draft, ahead: int) -> Features:
        run = self.run + ahead
        return Features(draft.proposal, trace.temperature, self.recent, run, draft.repeats)

    def judged(self, num_accepted: int, rejected: bool) -> None:
        for _ in range(num_accepted):
            self.recent += RECENT_RATE * (1.0 - self.recent)
        if rejected:
            self.recent -= RECENT_RATE * self.recent
        self.run = 0 if rejected else self.run + num_accepted


class Policy(Protocol):
    def num_drafts(self, trace: Trace, start: int, most: int, history: History) -> int:
        """Drafts of the round that starts at a position of the trace, at most `most`."""


@dataclass(frozen=True, slots=True)
class Fixed:
    length: int

    def num_drafts(self, trace: Trace, start: int, most: int, history: History) -> int:
        return min(self.length, most)


@dataclass(frozen=True, slots=True)
class EntropyBound:
    """Stop behind a token with 1 - sqrt(lambda H) < threshold (AdaEDL, arXiv 2410.18351).

    That is a bound on H alone, so one number is tuned and not two.
    """

    bound: float  # nats

    def num_drafts(self, trace: Trace, start: int, most: int, history: History) -> int:
        for ahead, draft in enumerate(_drafts(trace, start, most)):
            if draft.proposal.entropy > self.bound:
                return ahead + 1
        return most


@dataclass(frozen=True, slots=True)
class CumulativeAcceptance:
    """Stop where cumulative acceptance falls below the threshold, as an edge does."""

    predictor: Predictor
    threshold: float

    def num_drafts(self, trace: Trace, start: int, most: int, history: History) -> int:
        cumulative = 1.0
        for ahead, draft in enumerate(_drafts(trace, start, most)):
            cumulative *= self.predictor.acceptance(history.features(trace, draft, ahead))
            if cumulative < self.threshold:
                return ahead + 1
        return most


@dataclass(frozen=True, slots=True)
class Oracle:
    """Knows the first rejection: before it drafts that token, or only once it has drafted it.

    The second pays for the wrong token, as whoever judges a token by what drafting it showed.
    """

    foresees: bool

    def num_drafts(self, trace: Trace, start: int, most: int, history: History) -> int:
        right = num_right(trace, start, most)
        return right if self.foresees or right == most else right + 1


def num_right(trace: Trace, start: int, most: int) -> int:
    """Drafts from `start` on before the first wrong one."""
    for ahead in range(most):
        if not trace.accepted[start + ahead]:
            return ahead
    return most


def _drafts(trace: Trace, start: int, most: int) -> Iterator[Draft]:
    right = num_right(trace, start, most)
    yield from trace.drafts[start : start + min(right + 1, most)]
    if right + 1 < most:
        yield from trace.beyond[start + right][: most - right - 1]


def replay(traces: Iterable[Trace], policy: Policy, window: int) -> Tally:
    """Each round waits for the verdict on the one before it; a text's last token is the target's.

    All of a round's drafts are verified in one step, which then adds the target's own choice.
    """
    tally = Tally()
    for trace in traces:
        history, start, end = History(), 0, len(trace.accepted)
        while start < end:
            most = min(window, end - start - 1)
            num_drafted = policy.num_drafts(trace, start, most, history)
            right = num_right(trace, start, num_drafted)
            history.judged(right, right < num_drafted)
            start += right + 1
            tally.num_rounds += 1
            tally.num_drafted += num_drafted
            tally.num_accepted += right
            tally.num_committed += right + 1
    return tally


def labels(traces: Iterable[Trace]) -> Iterator[Label]:
    """What verdicts tell of a stream that drafts on until it is contradicted: all positions."""
    for trace in traces:
        history = History()
        for draft, accepted in zip(trace.drafts, trace.accepted, strict=True):
            yield Label(history.features(trace, draft, 0), accepted)
            history.judged(int(accepted), not accepted)


def tune(
    make: Callable[[float], Policy],
    values: Sequence[float],
    traces: Sequence[Trace],
    window: int,
    costs: Iterable[Costs],
) -> dict[Costs, float]:
    """The value with the highest goodput on these traces, for each of the costs."""
    tallies = {value: replay(traces, make(value), window) for value in values}
    return {cost: max(values, key=lambda v: tallies[v].goodput(cost)) for cost in costs}
