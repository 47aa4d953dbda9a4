"""From what a step computed to what the front is told: verdicts, reports and states of sessions."""

from __future__ import annotations

from collections.abc import Sequence

from wisp.core.batch import Seat
from wisp.core.drafts import DraftCounts, Source, Verdict
from wisp.core.session import Session
from wisp.engine.messages import Failed, KvReport, SessionState, StepReport
from wisp.engine.step import InFlightStep
from wisp.errors import BadRequest, Overloaded
from wisp.scheduler.base import Policy
from wisp.verifier.base import Outcome


def settle(
    seat: Seat,
    num_drafted: int,
    outcome: Outcome,
    policy: Policy,
    step: InFlightStep,
    step_time_s: float,
    now: float,
) -> Verdict:
    """Commit what the step chose for a session, and decide what its edge is asked from now on.

    `num_drafted`: of the seat's drafts, those that the step verified.
    """
    session = seat.session
    position = len(session.tokens)
    tokens = session.verified(
        seat.source, num_drafted, outcome.tokens, now, edge_late=seat.edge_late
    )
    session.asked(policy.directive(session))
    by_edge = num_drafted > 0 and seat.source is Source.EDGE
    return Verdict(
        position=position,
        tokens=tokens,
        num_drafted=num_drafted,
        num_accepted=min(outcome.num_accepted, num_drafted, len(tokens)),
        source=seat.source,
        rejection=session.stream.rejection,
        directive=session.directive,
        finish_reason=session.finish_reason,
        logprobs=outcome.logprobs and outcome.logprobs[: len(tokens)],
        server_time_s=now - session.stream.arrived_s if by_edge else 0.0,
        step_time_s=step_time_s,
        alone_time_s=step.forecast.alone_s if step.forecast else 0.0,
        committed_s=now,
    )


def step_report(
    step: InFlightStep,
    verdicts: Sequence[Verdict],
    marginal_cost: float | None,
    kv_used: float | None,
    kv: KvReport,
    step_time_s: float,
    loop_time_s: float,
) -> StepReport:
    return StepReport(
        num_sessions=len(step.batch),
        num_tokens=step.shape.num_tokens,
        num_prefill=step.num_prefill,
        drafts={source: _count(verdicts, source) for source in Source},
        num_committed=sum(len(verdict.tokens) for verdict in verdicts),
        step_time_s=step_time_s,
        loop_time_s=loop_time_s,
        forecast=step.forecast,
        marginal_cost=marginal_cost,
        kv_used=kv_used,
        kv=kv,
    )


def refusal(session: Session, error: BadRequest | Overloaded) -> Failed:
    if isinstance(error, Overloaded):
        return Failed(session.id, "overloaded", str(error), error.retry_after_s)
    return Failed(session.id, "invalid", str(error))


def session_state(session: Session, now: float) -> SessionState:
    edge = session.edge_stats
    return SessionState(
        session_id=session.id,
        prefilling=not session.decoding,
        parked=session.parked,
        num_output=session.num_output,
        num_buffered=len(session.buffer),
        window=session.directive.window,
        threshold=session.directive.threshold,
        acceptance=edge.acceptance.rate if edge.verified else None,
        round_trip_s=edge.round_trip_s,
        draft_time_s=edge.draft_time_s,
        slack_s=session.due_s - now,
    )


def _count(verdicts: Sequence[Verdict], source: Source) -> DraftCounts:
    mine = [verdict for verdict in verdicts if verdict.source is source]
    return DraftCounts(
        sum(verdict.num_drafted for verdict in mine), sum(verdict.num_accepted for verdict in mine)
    )
