"""What each step of a running engine was: who was in it, with which drafts, and what took how long.

`StepLog.attach` notes each launch of the verifier's and each collection; `write` makes CSV of them,
a line for each step. `python -m benchmarks.step_log FILE` tells means of each second, and with
`--drafting` what making own drafts took, by their number.
"""

from __future__ import annotations

import csv
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from wisp.core.batch import Batch
from wisp.core.drafts import Source
from wisp.core.own_drafts import COMING
from wisp.estimator.shape import shape_of
from wisp.verifier.base import Collect, Outcome, Verifier

# Sessions that ask for own drafts in a step, from and to. Chosen: one graph of the drafter's passes
# serves each.
_SPANS = ((8, 14), (17, 23), (34, 46))


@dataclass
class Step:
    """Times in seconds, since the log began."""

    launch_s: float  # when launching it began
    launched_s: float  # when that was done
    collect_s: float = 0.0  # when it was asked for
    collected_s: float = 0.0  # when it was there
    waited: bool = False  # the host waited for the device
    took_s: float = 0.0  # by the device, without own drafts
    drafting_s: float = 0.0
    expected_s: float = 0.0  # by the estimator
    open: int = 0  # sessions
    in_flight: int = 0  # of those, in a step that was in flight when this one was launched
    seats: int = 0
    prompts: int = 0  # seats
    prompt_tokens: int = 0
    edge: int = 0  # drafts, by source
    ngram: int = 0
    own: int = 0
    coming: int = 0  # of the own ones, those that nobody but the device knew
    asking: int = 0  # seats that ask for own drafts
    asked: int = 0  # the most that one of them asks for
    made: int = 0  # own drafts
    committed: int = 0
    plain: bool = False
    planned_drafting_s: float = 0.0


class StepLog:
    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._start_s = time.monotonic()

    def attach(self, verifier: Verifier, engine: Any) -> None:
        launch = verifier.launch

        def logged(batch: Batch) -> Collect:
            step = self._step(batch, engine)
            collect = launch(batch)
            step.launched_s = self._now()

            def collected() -> list[Outcome]:
                step.collect_s = self._now()
                outcomes = collect()
                step.collected_s = self._now()
                step.waited = verifier.arrived_s is not None
                step.took_s = verifier.took_s or 0.0
                step.drafting_s = verifier.drafting_s
                step.committed = sum(len(outcome.tokens) for outcome in outcomes)
                step.made = sum(len(each.own.tokens) for each in outcomes if each.own)
                return outcomes

            return collected

        verifier.launch = logged  # type: ignore[method-assign]

    def _now(self) -> float:
        return time.monotonic() - self._start_s

    def _step(self, batch: Batch, engine: Any) -> Step:
        now, seats = self._now(), batch.seats
        step = Step(now, now, seats=len(seats), plain=batch.plain)
        step.planned_drafting_s = batch.drafting_s
        step.open = len(engine.sessions)
        step.in_flight = sum(session.num_in_flight > 0 for session in engine.sessions.values())
        step.expected_s = engine._policy.estimator.predict_s(shape_of(batch))
        prompts = [seat.num_context for seat in seats if not seat.session.decoding]
        step.prompts, step.prompt_tokens = len(prompts), sum(prompts)
        by_source = dict.fromkeys(Source, 0)
        for seat in seats:
            by_source[seat.source] += len(seat.draft)
            step.coming += seat.draft.count(COMING)
        step.edge, step.ngram = by_source[Source.EDGE], by_source[Source.NGRAM]
        step.own = by_source[Source.OWN]
        step.asking = sum(seat.num_own > 0 for seat in seats)
        step.asked = max((seat.num_own for seat in seats), default=0)
        self.steps.append(step)
        return step

    def write(self, path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Step)])
            writer.writeheader()
            for step in self.steps:
                found = asdict(step)
                writer.writerow(
                    {k: round(v, 5) if isinstance(v, float) else int(v) for k, v in found.items()}
                )


def drafting(rows: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """Medians over steps without prompts, by how many sessions asked for how many drafts each."""
    found: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        span = next((s for s in _SPANS if s[0] <= row["asking"] <= s[1]), None)
        if span and not row["prompts"]:
            key = f"{span[0]} to {span[1]}", int(row["asked"])
            found.setdefault(key, []).append(1e3 * row["drafting_s"])
    yield "sessions drafts drafting_ms steps"
    for (sessions, drafts), times in sorted(found.items()):
        yield f"{sessions} {drafts} {statistics.median(times):.2f} {len(times)}"


def main() -> None:
    names = [field.name for field in fields(Step)][5:]
    with Path(sys.argv[1]).open() as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    if "--drafting" in sys.argv:
        print("\n".join(drafting(rows)))
        return
    print("second steps step_ms launch_ms", *names)
    for second, of_second in groupby(rows, lambda row: int(row["launch_s"])):
        group = list(of_second)
        means = [statistics.fmean(row[name] for row in group) for name in names]
        launch_s = statistics.fmean(row["launched_s"] - row["launch_s"] for row in group)
        told = [
            f"{1e3 * mean:.1f}ms" if name.endswith("_s") else f"{mean:.1f}"
            for name, mean in zip(names, means, strict=True)
        ]
        period_ms = 1e3 * (group[-1]["launch_s"] - group[0]["launch_s"]) / max(1, len(group) - 1)
        print(second, len(group), f"{period_ms:.1f} {1e3 * launch_s:.1f}", *told)


if __name__ == "__main__":
    main()
