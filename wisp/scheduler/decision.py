"""One decision of the policy `wisp`: who decodes, with which drafts, and how much of which prompts.

Every choice compares what a session loses, in seconds of sessions: docs/scheduler.md derives it.
Pure: no I/O, no clock.
"""

from __future__ import annotations

import math

import numpy as np

from wisp.core.batch import Batch, Seat
from wisp.core.table import Bools, Floats, Ints, Table
from wisp.estimator.base import Estimator
from wisp.estimator.shape import EMPTY, StepShape
from wisp.scheduler.base import Situation
from wisp.scheduler.knapsack import DraftPool
from wisp.scheduler.own import OwnDrafting
from wisp.scheduler.speculation import Load

# What a second of a session that is about to be late weighs more than one of a session that has
# time. Chosen: by the sensitivity rows of docs/scheduler.md; twice or half as much changes little.
_URGENCY = 4.0
# Times what its seat takes from the others that a session is left to its edge for. Chosen: above 1,
# for the tokens that gather meanwhile save more than one seat; see docs/scheduler.md.
_PATIENCE = 1.5
# What is within a tenth is the same. Chosen: step times are known no better, and whoever is left
# out for less waits for nothing.
_SAME = 0.9


class Decision:
    """On one step."""

    def __init__(
        self,
        table: Table,
        estimator: Estimator,
        load: Load,
        own: OwnDrafting,
        situation: Situation,
    ) -> None:
        self._own = own
        self._table = table
        self._curve = curve = estimator.curve
        self._load = load
        self._now = now = situation.now
        self._is_full = situation.is_full
        count = len(table.sessions)
        # Of the step that is decided on, as those before it.
        self._step_s = load.step_s or curve.time_s(_decoding(table, np.arange(count)))
        self._token_s = curve.slope_s(count)
        self._slack_s = table.due_s - now
        horizon_s = 2.0 * (table.period_s + self._step_s)  # it is in this step or the next
        near = np.minimum(1.0, np.maximum(0.0, 1.0 - self._slack_s / horizon_s))
        self._weight: Floats = 1.0 + _URGENCY * near
        # Whose turn it is: that says nothing of what the others are worth.
        self._turn: Floats = self._weight + _starved(table, now, horizon_s)
        self._worth: Floats = self._worth_of_drafts()

    def _worth_of_drafts(self) -> Floats:
        """Of a token that a draft brings, [sessions]: its weight where plain decoding cannot keep
        the promise, and others' it can. Else 1: among equals the late would have drafts that bring
        less, and all would be late."""
        table, ones = self._table, np.ones(len(self._weight))
        plain_s = self._curve.time_s(_decoding(table, np.flatnonzero(table.decoding)))
        needs = table.period_s < plain_s
        return ones if needs.all() else np.where(needs, self._weight, ones)

    def batch(self, max_tokens: int, *, plain: bool) -> Batch:
        table, curve = self._table, self._curve
        table.cumulative *= not plain
        # Who decodes needs a token each: prompts that could fill a step take half of it at least.
        num_decoding = int(np.count_nonzero(table.decoding))
        chunks = self._needed(max_tokens - max(1, min(num_decoding, max_tokens // 2)))
        room = max_tokens - sum(chunks.values())
        rows = self._seats(room, all_of_them=plain)
        shape = decoding = _decoding(table, rows)
        for row, chunk in chunks.items():
            shape = shape.joined(_chunk(table, row, chunk)) if chunk else shape
        order = np.argsort(rows)  # of equal drafts the first session's go first
        worth = self._worth[rows[order]]
        drafts = DraftPool(table.cumulative[rows[order]], worth)
        most = min(max_tokens - shape.num_tokens, drafts.num_tokens)
        count = drafts.best_count(shape, float(worth.sum()), curve, most) if most > 0 else 0
        shape = shape.with_drafts(count)
        # A long step holds up nobody where nobody decodes.
        limit_s = curve.time_s(shape) / _SAME if num_decoding else math.inf
        shape = self._fill(chunks, shape, max_tokens, limit_s)
        undrafted = shape.with_drafts(-count)
        if chunks:
            self._finish(chunks, shape, decoding.with_drafts(count), max_tokens)
        num_drafts = np.empty(len(rows), dtype=np.int64)
        num_drafts[order] = drafts.by_row(count)
        seats = _all_seats(table, rows, num_drafts, chunks)
        value = len(rows) + drafts.num_accepted(count)
        batch = Batch(seats, value, len(table.sessions), plain=plain)
        if self._own.is_on and not plain:
            # Behind its last chunk a prompt's session decodes.
            begin = [row for row, chunk in chunks.items() if 0 < chunk == table.missing[row]]
            rows = np.concatenate((rows, np.array(begin, np.int64)))
            num_drafts = np.concatenate((num_drafts, np.zeros(len(begin), np.int64)))
            choosing = [seat for seat in seats if seat.chooses]
            batch.drafting_s = self._ask(choosing, rows, num_drafts, undrafted)
        return batch

    def _ask(self, seats: list[Seat], rows: Ints, num_drafts: Ints, shape: StepShape) -> float:
        """Own drafts for some of `seats`, those of `rows`, for the next step.

        Returns what making them will take.
        """
        asked = self._own.ask(
            self._table,
            rows,
            num_drafts,
            self._worth[rows],
            shape,
            self._curve,
            self._step_s,
            self._now,
        )
        for seat, num_own in zip(seats, asked.tolist(), strict=True):
            seat.num_own = num_own
        return self._own.drafting_s(self._table, rows, asked, self._now)

    def _seats(self, room: int, *, all_of_them: bool) -> Ints:
        """Who decodes: nobody who had better wait for drafts, and no seat worth less than the
        whole step is in the same time."""
        table, curve = self._table, self._curve
        seat_s: Floats = np.asarray(curve.seat_s + curve.context_s * table.length, np.float64)
        if all_of_them:
            return np.flatnonzero(table.decoding)[: max(0, room)]
        rows = np.flatnonzero(table.decoding & ~self._waits(seat_s))
        drafts = table.cumulative[rows]
        taken = drafts > self._load.marginal_cost
        tokens = 1.0 + taken @ np.ones(taken.shape[1])
        worth = self._weight[rows] * (1.0 + (drafts * taken).sum(axis=1))
        density = worth / np.maximum(seat_s[rows] + self._token_s * tokens, 1e-9)
        first = density * self._turn[rows] / self._weight[rows]
        order = np.argsort(-first, kind="stable")[: max(0, room)]
        rows = rows[order]
        time_s = curve.tokens_s(np.cumsum(tokens[order])) + curve.rest_s(EMPTY)
        time_s += np.cumsum(seat_s[rows])
        return rows[: _num_worth_it(density[order], np.cumsum(worth[order]) / time_s)]

    def _waits(self, seat_s: Floats) -> Bools:
        """Whose drafts probably go on: a later seat holds more of them, and this one is saved.

        Left out, a session loses the step if its drafts are contradicted, or if its next one would
        come after a verdict could have been answered.
        """
        table = self._table
        wait_s, acceptance, away_s = table.edges(self._now)
        right = table.unbroken * acceptance
        saved = right * np.minimum(1.0, self._step_s / wait_s)
        lost = 1.0 - right * np.minimum(1.0, (self._step_s + away_s) / wait_s)
        takes_s = (seat_s + self._token_s) * float(self._weight.sum())
        lost_s = self._turn * lost * self._step_s
        if self._is_full:  # another could have had its room, and a seat in its place
            lost_s += np.maximum(0.0, float(self._weight.mean()) * self._step_s - takes_s)
        waits: Bools = lost_s < _PATIENCE * saved * takes_s
        return waits

    def _needed(self, max_tokens: int) -> dict[int, int]:
        """Prompt tokens by row, 0 included: at the pace at which all that can be in time will be.

        A chunk is at least so large that its seat takes no more than a tenth of it.
        """
        table, step_s = self._table, self._step_s
        rows = np.flatnonzero(~table.decoding)
        if not len(rows):
            return {}
        left_s = self._slack_s[rows] - 2.0 * step_s
        order = np.lexsort((left_s, left_s < 0.0))  # whoever is late anyway comes last
        rows, left_s = rows[order], left_s[order]
        pace = self._pace(np.cumsum(table.missing[rows]), left_s)
        share = 1.0 - pace * self._token_s  # chunks lengthen the step that they must fit
        need = max(1.0, 2.0 * pace * step_s / share) if share > 0.0 else math.inf
        least = self._least_chunk(float(table.length[rows].mean()), max_tokens)
        chunks = dict.fromkeys(rows.tolist(), 0)
        room = max_tokens
        for row in chunks:
            chunks[row] = int(min(max(need, least), table.missing[row], room))
            need, room = need - chunks[row], room - chunks[row]
            if need < 1.0 or room <= 0:
                break
        return chunks

    def _pace(self, behind: Ints, left_s: Floats) -> float:
        """Prompt tokens a second. `behind`: those up to each prompt's end.

        In a full memory who is late counts as well: until its prompt is computed its room is idle.
        """
        counts = (left_s >= 0.0) | self._is_full
        return float((behind / np.maximum(left_s, self._step_s))[counts].max(initial=0.0))

    def _least_chunk(self, length: float, max_tokens: int) -> float:
        seat_s = self._curve.seat_s + self._curve.context_s * length
        return seat_s / (1.0 - _SAME) / max(self._curve.slope_s(0, max_tokens), 1e-9)

    def _fill(
        self, chunks: dict[int, int], shape: StepShape, max_tokens: int, limit_s: float
    ) -> StepShape:
        """More of the prompts, as long as the step takes no longer than that."""
        curve, table = self._curve, self._table
        for row, chunk in chunks.items():
            more = min(max_tokens - shape.num_tokens, int(table.missing[row]) - chunk)
            while more > 0 and curve.time_s(shape.joined(_chunk(table, row, more))) > limit_s:
                more //= 2
            if more <= 0:
                break
            chunks[row] += more
            shape = shape.joined(_chunk(table, row, more))
        return shape

    def _finish(
        self, chunks: dict[int, int], shape: StepShape, without: StepShape, max_tokens: int
    ) -> None:
        """More of the prompts, up to the end of one or of the room: as far as that spares those
        that wait the most beyond what the longer step takes from everybody. At the pace of this
        step each waits for all before it.

        What is computed now is not computed later, at what it takes in a step like this one.
        `without`: the step without any prompts.
        """
        table, curve = self._table, self._curve
        rows = list(chunks)
        pace = computed = sum(chunks.values())
        behind = np.maximum(pace, np.cumsum(table.missing[rows]))
        weight, of_all = self._weight[rows], float(self._weight.sum())
        before_s = curve.time_s(shape)
        later_s = (before_s - curve.time_s(without)) / max(1, pace)
        grown, best, most_s = dict(chunks), chunks, 0.0
        for row in rows:
            more = min(int(table.missing[row]) - grown[row], max_tokens - shape.num_tokens)
            if more <= 0:
                continue
            grown[row] += more
            computed += more
            shape = shape.joined(_chunk(table, row, more))
            longer_s = curve.time_s(shape) - before_s - (computed - pace) * later_s
            steps = np.minimum(behind, computed) / max(1, pace) - 1.0
            spared_s = float(weight @ steps) * self._step_s - of_all * max(0.0, longer_s)
            if spared_s > most_s:
                best, most_s = dict(grown), spared_s
        chunks.update(best)


def _starved(table: Table, now: float, horizon_s: Floats) -> Floats:
    """It has no bound, so that everybody's turn comes."""
    found: Floats = np.maximum(0.0, (now - table.served_s) / horizon_s - 1.0)
    return found


def _num_worth_it(density: Floats, of_all: Floats) -> int:
    """Of seats in falling order: up to the last one that is worth as much for its time as all up to
    it together are."""
    return int(np.flatnonzero(density >= _SAME * of_all).max(initial=-1)) + 1


def _decoding(table: Table, rows: Ints) -> StepShape:
    """Of a step in which these decode."""
    return StepShape(len(rows), int(table.length[rows].sum()), 0.0, len(rows))


def _chunk(table: Table, row: int, num_tokens: int) -> StepShape:
    """Of a step that computes so many tokens of a prompt."""
    length = int(table.length[row] - table.missing[row]) + num_tokens
    product = float(num_tokens * length) if num_tokens > 1 else 0.0
    return StepShape(num_tokens, length, product, 1)


def _all_seats(table: Table, rows: Ints, num_drafts: Ints, chunks: dict[int, int]) -> list[Seat]:
    decoding = [table.sessions[row] for row in rows.tolist()]
    seats = [
        Seat(
            session,
            1,
            session.next_drafts(count),
            session.next_source,
            alternatives=session.alternatives(count),
        )
        for session, count in zip(decoding, num_drafts.tolist(), strict=True)
    ]
    return seats + [Seat(table.sessions[row], chunk) for row, chunk in chunks.items() if chunk]
