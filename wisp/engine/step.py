"""A step between its decision and its outcomes, and when to decide on the next one."""

from __future__ import annotations

from wisp.core.batch import Batch, Seat
from wisp.core.own_drafts import COMING
from wisp.core.session import Session
from wisp.core.smoothing import smoothed
from wisp.engine.messages import Forecast
from wisp.estimator.base import Estimator
from wisp.estimator.shape import shape_of
from wisp.verifier.base import Collect, Verifier

# Share of the steps launched while another ran that may come too late for the target to go on at
# once. Chosen: a target that waits costs everybody what it waits, and each millisecond earlier
# costs those sessions a step of whose drafts the last comes then; a tenth of them waits little.
_LATE = 0.1

# By how much the margin for it is moved at a step. Chosen: steps of one load differ by a few
# percent of some 20 ms, so that the margin is found within some ten steps.
_MOVE_S = 0.2e-3

# What it begins with. Chosen: twice what a wait for messages may last too long, as ZeroMQ counts in
# whole milliseconds.
_FIRST_MARGIN_S = 2e-3

# Weight of the newest step in the smoothed times of the host and in the share of sessions that
# return. Chosen: a memory of five steps, over which they change little.
_NEWEST = 0.2


class InFlightStep:
    """One step of the target. Times are the engine's clock's."""

    def __init__(self, batch: Batch, forecast: Forecast | None, start_s: float, now: float) -> None:
        self.batch = batch
        self.forecast = forecast
        self.shape = shape_of(batch)
        self.num_prefill = sum(s.num_context for s in batch.seats if not s.session.decoding)
        self.overlaps = all(seat.session.overlaps for seat in batch.seats)
        self.begun_s = now  # or when the step before it was over, if that is later
        self.host_s = now - start_s  # what the host did for it while the target need not work
        self.collect: Collect | None = None
        self._parts = [_Part(seat) for seat in batch.seats]

    def launch(self, verifier: Verifier) -> None:
        self.collect = verifier.launch(self.batch)
        for part in self._parts:
            part.session.launched(part.num_tokens, part.num_chosen, part.num_own)

    def landed(self) -> None:
        """Its outcomes are known, or never will be."""
        if self.collect is None:
            return
        self.collect = None
        for part in self._parts:
            part.session.landed(part.num_tokens, part.num_chosen, part.num_own)

    def put_right(self) -> None:
        """The step before it, whose drafts were taken as accepted, has landed: those of its own
        that do not continue the text are nobody's. Their sessions are seated behind one choice."""
        for part in self._parts:
            part.put_right()

    def num_drafted(self, index: int) -> int:
        """Drafts of a seat that the step verified; asked before its outcome is committed."""
        return self._parts[index].num_drafted


class _Part:
    """Of one session in a step, as it was when the step was launched."""

    def __init__(self, seat: Seat) -> None:
        session = self.session = seat.session
        self.num_tokens = seat.num_tokens
        self.num_drafted = seat.num_drafts
        self.num_own = seat.num_own
        self.num_chosen = 1 + self.num_drafted if seat.chooses else 0
        self._seat = seat
        self._were_coming = COMING in seat.draft[:1]
        self._start = len(session.tokens)
        self._num_pending = session.num_pending
        self._assumed = session.drafts.tokens[: session.num_pending] if seat.draft else []

    def put_right(self) -> None:
        if not self.num_drafted:
            return
        num_drafted = self._num_continuing()
        num_dropped = self.num_drafted - num_drafted
        self.session.dropped(num_dropped)
        self.num_tokens -= num_dropped
        self.num_chosen -= num_dropped
        self.num_drafted = num_drafted

    def _num_continuing(self) -> int:
        """Of the drafts, those that continue what was chosen since."""
        if self._were_coming:  # behind whatever was chosen, if they were made at all
            own = self.session.own_drafts
            return min(self.num_drafted, len(own.tokens)) if own else 0
        chosen = self.session.tokens[self._start :]
        if len(chosen) == self._num_pending and chosen == self._assumed:
            return len(self._seat.draft)
        if alternative := self._seat.alternative(chosen):
            self.session.follow(alternative.drafts)
            return len(alternative.drafts)
        return 0


def forecast(batch: Batch, estimator: Estimator) -> Forecast:
    shape = shape_of(batch)
    return Forecast(
        estimator.predict_s(shape),
        estimator.upper_s(shape),
        estimator.drift,
        estimator.predict_s(shape.mean_seat()),
    )


class Pace:
    """When to decide on the step behind the one in flight.

    A decision taken late knows of more drafts, but the target must not wait for it: it is taken
    when the in-flight step is expected to take just as long as deciding and launching take, and a
    margin more: so much that hardly a step is launched when the one before is over.
    """

    def __init__(self) -> None:
        self.decide_s = 0.0
        self._free_s = 0.0  # when the target had finished its last step
        self._lead_s = 0.0  # of deciding and launching, smoothed
        self._margin_s = _FIRST_MARGIN_S
        self._is_followed = False  # another step was launched behind the one in flight
        self._rest_s = 0.0  # of what is done with outcomes, smoothed
        self._returning = 1.0  # share of a step's sessions that could be in one right behind it

    def launched(self, lead_s: float, *, ahead: bool) -> None:
        """`lead_s`: from when deciding on it began. `ahead`: while another step ran."""
        self._lead_s = smoothed(self._lead_s, lead_s, _NEWEST)
        self._is_followed = ahead

    def runs(self, step: InFlightStep) -> None:
        """It is the only one that was launched."""
        expected_s = step.forecast.expected_s if step.forecast else 0.0
        expected_s += step.batch.drafting_s
        step.begun_s = max(step.begun_s, self._free_s)
        self._margin_s = min(self._margin_s, expected_s)
        self.decide_s = step.begun_s + expected_s - self._lead_s - self._margin_s

    def landed(self, step: InFlightStep, arrived_s: float | None, now: float) -> float:
        """Returns how long the step took. `arrived_s`: see `Verifier.arrived_s`."""
        over_s = now if arrived_s is None else arrived_s
        time_s = over_s - max(step.begun_s, self._free_s)
        self._free_s = over_s
        if self._is_followed:
            is_late = arrived_s is None
            self._margin_s = max(0.0, self._margin_s + _MOVE_S * (is_late - _LATE))
            self._is_followed = False
        return time_s

    def taken_in(self, step: InFlightStep, rest_s: float) -> None:
        self._rest_s = smoothed(self._rest_s, rest_s, _NEWEST)
        sessions = [seat.session for seat in step.batch.seats if not seat.session.num_in_flight]
        if sessions:
            returning = sum(map(_has_more, sessions)) / len(sessions)
            self._returning = smoothed(self._returning, returning, _NEWEST)

    def may_follow(
        self,
        in_flight: InFlightStep,
        num_bound: int,
        step: InFlightStep,
        estimator: Estimator,
    ) -> bool:
        """Whether to launch it now, rather than one step with the in-flight step's sessions, too.

        `num_bound`: sessions of the in-flight step that cannot be in this one. Apart, both read the
        weights, and fill their tiles; together, the target waits for the host in between.
        """
        if not step.overlaps:
            return False
        parts_s = estimator.predict_s(in_flight.shape) + estimator.predict_s(step.shape)
        lost_s = parts_s - estimator.predict_s(in_flight.shape.joined(step.shape))
        away = num_bound / len(in_flight.batch)
        return away * self._returning * lost_s <= self._lead_s + self._rest_s


def _has_more(session: Session) -> bool:
    """It need not wait for its edge."""
    return session.finish_reason is None and bool(session.at_hand or not session.waits_for_edge)
