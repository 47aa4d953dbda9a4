"""A drafter beside the target, on the same GPU: what plain vLLM is given a small model for.

Or the server's own: `OwnTarget` drafts for those that are asked for, as far as they are.
"""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

from benchmarks.sim.target import SimulatedTarget
from wisp.core.batch import Batch, Seat
from wisp.core.own_drafts import COMING, Proposed
from wisp.verifier.base import Collect, Outcome

# Of the host, for a pass of the server's own drafter. Measured on an H200: launching a step of 20
# sessions took 10.1 ms with 2.4 passes, 5.6 without.
_LAUNCH_PASS_S = 1.9e-3
_WRONG = 0  # by definition of the target: its choice at a position is the position


class Colocated(NamedTuple):
    """`num_drafts` for every session that decodes, in every step.

    A draft token of all sessions takes 2.5 ms: measured with Qwen3-0.6B's shape and vLLM 0.26 on an
    H100 at 8 to 24 sessions; larger batches are taken for no dearer. Its weights and KV are not
    counted.
    """

    num_drafts: int  # of each session; of the server's own drafter, at most
    acceptance: float  # of a draft token, mean over sessions
    session_spread: float  # its standard deviation over the sessions
    draft_s: float = 2.5e-3


class ColocatedTarget(SimulatedTarget):
    """Any policy that decodes plainly gets drafts from it unasked."""

    def __init__(self, *arguments: Any, drafter: Colocated, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._drafter = drafter

    def _num_own_drafts(self, batch: Batch) -> int:
        return self._drafter.num_drafts * sum(map(_decodes, batch.seats))

    def _drafting_s(self, batch: Batch) -> float:
        drafter = self._drafter
        return drafter.num_drafts * drafter.draft_s * any(map(_decodes, batch.seats))

    def _choices(self, seat: Seat, length: int) -> Outcome:
        outcome = super()._choices(seat, length)
        if not _decodes(seat):
            return outcome
        drafter, acceptance = self._drafter, _acceptance(self._drafter, seat)
        num_accepted = 0
        while num_accepted < drafter.num_drafts and self._chance.random() < acceptance:
            num_accepted += 1
        start = outcome.tokens[0]
        return Outcome(list(range(start, start + num_accepted + 1)))


class OwnTarget(SimulatedTarget):
    """Own drafts behind the choices of a step, for the seats that ask."""

    def __init__(self, *arguments: Any, drafter: Colocated, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._drafter = drafter

    def launch(self, batch: Batch) -> Collect:
        collect, drafting_s = super().launch(batch), self._drafting_s(batch)

        def collect_both() -> list[Outcome]:
            self.drafting_s = drafting_s
            return collect()

        return collect_both

    def _drafting_s(self, batch: Batch) -> float:
        return self._drafter.draft_s * _num_passes(batch)

    def _launch_passes_s(self, batch: Batch) -> float:
        return _LAUNCH_PASS_S * _num_passes(batch)

    def _choices(self, seat: Seat, length: int) -> Outcome:
        own_drafts = seat.session.own_drafts
        if own_drafts and COMING in seat.draft:  # by now the step before has landed
            seat.draft = own_drafts.tokens[: len(seat.draft)]
        outcome = super()._choices(seat, length)
        if seat.num_own:
            acceptance = _acceptance(self._drafter, seat)
            end = outcome.tokens[-1] + 1
            own = [
                position if self._chance.random() < acceptance else _WRONG
                for position in range(end, end + seat.num_own)
            ]
            outcome.own = Proposed(own, [self._drafter.acceptance] * seat.num_own)
        return outcome


def _num_passes(batch: Batch) -> int:
    return max((seat.num_own for seat in batch.seats), default=0)


def _acceptance(drafter: Colocated, seat: Seat) -> float:
    of_session = Random(f"acceptance {seat.session.id}")
    return of_session.gauss(drafter.acceptance, drafter.session_spread)


def _decodes(seat: Seat) -> bool:
    return seat.chooses and seat.num_context == 1
