"""The engine: sessions, a policy, a verifier. One turn is drain, schedule, launch, publish."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from wisp.core.batch import Batch
from wisp.core.drafts import Verdict
from wisp.core.own_drafts import NOTHING
from wisp.core.session import Session
from wisp.engine.keeper import Keeper
from wisp.engine.kv_moves import KvMoves
from wisp.engine.messages import (
    Close,
    Draft,
    Failed,
    FromEngine,
    Hold,
    Open,
    Ping,
    Pong,
    Shutdown,
    Snapshot,
    SwitchPolicy,
    TakeSnapshot,
    ToEngine,
    Verdicts,
)
from wisp.engine.outcomes import refusal, session_state, settle, step_report
from wisp.engine.step import InFlightStep, Pace, forecast
from wisp.errors import BadRequest, Overloaded, ProtocolError
from wisp.scheduler.admission import admission, until_one_ends_s
from wisp.scheduler.base import Policy, Situation
from wisp.scheduler.tuning import PolicyChoice
from wisp.verifier.base import Outcome, Verifier

log = logging.getLogger(__name__)

# What a client is told whose session cannot be served; the log says why.
_FAILED = "the target failed on this session"


class Engine:
    """Owns the sessions. Every message in gets its answer in what `turn` returns."""

    def __init__(
        self,
        verifier: Verifier,
        policy: Policy,
        *,
        max_window: int,
        max_forks: int = 0,
        max_ngram: int = 0,
        drafts_own: bool = False,
        keeper: Keeper | None = None,
        choose_policy: Callable[[PolicyChoice], Policy] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._verifier = verifier
        self._policy = policy
        self._max_window = max_window
        self._max_forks = max_forks
        self._max_ngram = max_ngram
        self._drafts_own = drafts_own
        self._keeper = keeper
        self._choose_policy = choose_policy
        self._clock = clock
        self._outbox: list[FromEngine] = []
        self._in_flight: InFlightStep | None = None  # the step that the target is at
        self._pace = Pace()
        self._held: set[int] = set()  # sessions whose readers do not keep up
        self.sessions: dict[int, Session] = {}
        self._kv = KvMoves(verifier, self.sessions)
        self.stopped = False

    def turn(self, inbox: Iterable[ToEngine]) -> list[FromEngine]:
        """Handle what has come, launch the next step, take in the one before; say what there is.

        A step whose sessions all overlap is left to the target until a later turn, so that the
        target does not wait for what the host does between two steps. While it has long to go,
        messages are only gathered.
        """
        start_s = self._clock()
        for message in inbox:
            self._handle(message)
        if self._in_flight is None or start_s >= self._pace.decide_s:
            self._advance(start_s)
        published, self._outbox = self._outbox, []
        return published

    def wait_s(self) -> float | None:
        """How long `turn` has nothing to do unless a message comes; None: for ever."""
        now = self._clock()
        if self._in_flight:
            return max(0.0, self._pace.decide_s - now)
        if self._kv.moved:
            return 0.0
        wake_s = self._policy.wake_s(Situation(self._read(self._kv.seatable(now)), now))
        return None if wake_s is None else max(0.0, wake_s - now)

    def rest(self) -> None:
        """What may wait until the verdicts are out."""
        if self._keeper:
            self._keeper.rest()

    def close(self) -> None:
        """Keep what was learned, free the target; the engine is not used again."""
        if self._keeper:
            self._keeper.save()
        self._verifier.shutdown()

    def _handle(self, message: ToEngine) -> None:
        match message:
            case Open():
                self._open(message)
            case Draft():
                self._draft(message)
            case Close(session_id):
                if session := self.sessions.get(session_id):
                    self._end(session)
            case Hold(session_id, held):
                if session_id in self.sessions:
                    (self._held.add if held else self._held.discard)(session_id)
            case TakeSnapshot():
                now = self._clock()
                states = [session_state(session, now) for session in self.sessions.values()]
                self._outbox.append(Snapshot(states))
            case Ping():
                self._outbox.append(Pong())
            case SwitchPolicy(choice):
                assert self._choose_policy, "the front lets no switch through without it"
                self._policy = self._choose_policy(choice)  # directives go out with verdicts
            case Shutdown():
                self.stopped = True

    def _open(self, message: Open) -> None:
        request = message.request
        session = Session(
            message.session_id,
            request.prompt,
            request.sampling,
            message.slo,
            committed=request.committed,
            adapter=message.adapter,
            has_edge=message.has_edge,
            owner=message.owner,
            overlaps=self._verifier.overlaps(request.sampling),
            max_window=self._max_window,
            max_forks=self._max_forks,
            max_ngram=self._max_ngram if request.speculation else 0,
            drafts_own=self._drafts_own and request.speculation,
            now=self._clock(),
        )
        session.asked(self._policy.directive(session))
        try:
            self._make_room(session)
            num_kept = self._verifier.open(session)
        except (Overloaded, BadRequest) as error:
            self._outbox.append(refusal(session, error))
        except Exception:  # of this session alone: the others' must not end with it
            log.exception("a session could not be opened")
            self._verifier.close(session)
            self._outbox.append(Failed(session.id, "internal", _FAILED))
        else:
            session.moved(num_kept, parked=num_kept > 0)
            self.sessions[session.id] = session

    def _make_room(self, session: Session) -> None:
        """End sessions of lower priority if need be. Raises Overloaded if there is no room."""
        decided = admission(
            self.sessions.values(),
            session.slo,
            self._verifier.facts.max_sessions,
            self._policy.admits,
            session.owner,
        )
        if decided.wait_s is not None:
            raise Overloaded(decided.reason, retry_after_s=decided.wait_s)
        wait_s = until_one_ends_s(self.sessions.values())
        for victim in decided.shed:
            text = f"ended to make room for {decided.shed_for}: try again in {wait_s:.1f} s"
            self._fail(victim, Failed(victim.id, "shed", text, wait_s))

    def _draft(self, message: Draft) -> None:
        session = self.sessions.get(message.session_id)
        if session is None:  # it finished while the block was on its way
            return
        try:
            session.offer(message.block, message.arrived_s)
        except ProtocolError as error:
            self._fail(session, Failed(session.id, "protocol", str(error)))
        except Exception:  # of this session alone: the others' must not end with it
            log.exception("a draft block could not be taken")
            self._fail(session, Failed(session.id, "internal", _FAILED))

    def _advance(self, start_s: float) -> None:
        before, self._in_flight = self._in_flight, None
        following = self._decide(before, start_s)
        if following and not self._launch(following, start_s, ahead=before is not None):
            self._one_by_one(following, before)
            return
        if before and not self._take_in(before):
            self._one_by_one(before, following)
        elif following and following.overlaps:
            following.put_right()
            self._in_flight = following
            self._pace.runs(following)
        elif following and not self._take_in(following):
            self._one_by_one(following)
        self._kv.move()

    def _is_open(self, session: Session) -> bool:
        return self.sessions.get(session.id) is session

    def _decide(self, before: InFlightStep | None, start_s: float) -> InFlightStep | None:
        """The step to launch now, if there is one."""
        for session, error in self._verifier.refused():
            self._fail(session, refusal(session, error))
        now = self._clock()
        planned = self._kv.plan(now)
        free = [session for session in self._read(planned.seatable) if session.free]
        num_away = len(self.sessions) - len(self._held) - len(free)
        situation = Situation(free, now, num_away, planned.is_full)
        batch = self._policy.schedule(situation)
        if not batch:
            return None
        step = InFlightStep(batch, forecast(batch, self._policy.estimator), start_s, self._clock())
        if before:
            num_bound = sum(not seat.session.free for seat in before.batch.seats)
            if not self._pace.may_follow(before, num_bound, step, self._policy.estimator):
                return None
        return step

    def _read(self, sessions: Collection[Session]) -> Collection[Session]:
        """Those of them that somebody reads."""
        if not self._held:
            return sessions
        return [session for session in sessions if session.id not in self._held]

    def _launch(self, step: InFlightStep, start_s: float, *, ahead: bool = False) -> bool:
        """False if it fails."""
        try:
            step.launch(self._verifier)
        except Exception:
            log.exception("a step of %d sessions failed", len(step.batch))
            return False
        if step.overlaps:  # the target begins when all of it is launched
            step.begun_s = self._clock() - self._verifier.had_s
        self._pace.launched(self._clock() - start_s, ahead=ahead)
        return True

    def _take_in(self, step: InFlightStep) -> bool:
        """Wait for the step, and publish what it committed; False if it failed."""
        assert step.collect is not None, "the step was launched"
        try:
            outcomes = step.collect()
        except Exception:
            log.exception("a step of %d sessions failed", len(step.batch))
            return False
        now = self._clock()
        step.landed()
        step_time_s = self._pace.landed(step, self._verifier.arrived_s, now)
        if step.overlaps and self._verifier.took_s is not None:  # else the host's part counts
            step_time_s = self._verifier.took_s + self._verifier.drafting_s
        self._publish(step, outcomes, step_time_s, now)
        self._pace.taken_in(step, self._clock() - now)
        return True

    def _one_by_one(self, failed: InFlightStep, other: InFlightStep | None = None) -> None:
        """Each seat of a failed step alone, so that only the guilty one ends.

        Nothing will come of another step that was launched: its sessions are seated again.
        """
        failed.landed()
        if other:
            other.landed()
        for seat in failed.batch.seats:
            if not self._is_open(seat.session):
                continue
            start_s = self._clock()
            alone = InFlightStep(Batch([seat]), None, start_s, start_s)
            if len(failed.batch) > 1 and self._launch(alone, start_s) and self._take_in(alone):
                continue
            alone.landed()
            self._fail(seat.session, Failed(seat.session.id, "internal", _FAILED))

    def _publish(
        self, step: InFlightStep, outcomes: Sequence[Outcome], step_time_s: float, now: float
    ) -> None:
        num_committed = [len(outcome.tokens) for outcome in outcomes]
        drafting_s = min(self._verifier.drafting_s, step_time_s)
        self._policy.observe(step.batch, num_committed, step_time_s, now, drafting_s)
        verdicts: list[tuple[int, Verdict]] = []
        pressing: list[tuple[int, Verdict]] = []  # their edges go on when they have heard of it
        for index, (seat, outcome) in enumerate(zip(step.batch.seats, outcomes, strict=True)):
            session = seat.session
            if not self._is_open(session):
                continue  # it was closed while the step ran
            session.computed(outcome.computed_after(seat), as_planned=outcome.as_planned(seat))
            if outcome.tokens:
                num_drafted = step.num_drafted(index)
                verdict = settle(seat, num_drafted, outcome, self._policy, step, step_time_s, now)
                if seat.num_own and not verdict.finish_reason:
                    session.proposed(outcome.own or NOTHING)
                told = verdicts if session.stream.tokens else pressing
                told.append((session.id, verdict))
                if verdict.finish_reason:
                    self._end(session)
        verdicts = pressing + verdicts  # whoever passes them on takes them in this order
        report = step_report(
            step,
            [verdict for _, verdict in verdicts],
            self._policy.marginal_cost,
            self._verifier.kv_used,
            self._kv.report(),
            step_time_s,
            loop_time_s=step_time_s + step.host_s + self._clock() - now,
        )
        self._outbox.append(Verdicts(verdicts, report))

    def _fail(self, session: Session, failure: Failed) -> None:
        self._outbox.append(failure)
        self._end(session)

    def _end(self, session: Session) -> None:
        del self.sessions[session.id]
        self._held.discard(session.id)
        self._policy.ended(session)
        self._verifier.close(session)
