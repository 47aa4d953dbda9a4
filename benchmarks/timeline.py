"""One session's rounds, with and without draft-ahead: who works when.

    python -m benchmarks.timeline [--out FILE] [--round-trip 0.08]

One phone and an idle server in the simulator, policy `fcfs`: with a window of one block the edge
waits for each verdict, with a longer one it drafts on.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from benchmarks.sim.edge import Edge, Tally
from benchmarks.sim.events import Events
from benchmarks.sim.fleet import Setup, learn, make_target
from benchmarks.sim.network import Way
from benchmarks.sim.profiles import PHONE, Network
from benchmarks.sim.server import Server
from benchmarks.sim.target import SimulatedTarget
from benchmarks.sim.text import BetaTexts
from benchmarks.sim.workload import Lengths, Presence, Workload
from wisp.core.batch import Batch
from wisp.core.drafts import Verdict
from wisp.core.slo import Slo
from wisp.edge.predictor import ConfidencePredictor
from wisp.engine.engine import Engine
from wisp.engine.messages import Draft
from wisp.scheduler.policy import make_policy
from wisp.scheduler.tuning import MAX_WINDOW, PolicyChoice, Tuning
from wisp.testing.clock import VirtualClock
from wisp.verifier.base import Outcome

SEED = 3  # of everything drawn at random here; chosen: any number does, and one makes it repeatable
BLOCK_TOKENS = 4
WINDOWS = {"without draft-ahead": BLOCK_TOKENS, "with draft-ahead": 16}
WORKLOAD = Workload(Lengths(64.0, sigma=0.0), Lengths(120.0, sigma=0.0), think_s=60.0)
END_S = 20.0


class Span(NamedTuple):
    """Something that took from `start_s` to `end_s`."""

    case: str
    kind: str  # draft (on the edge), up or down (on the network), step (of the target)
    start_s: float
    end_s: float
    tokens: int  # drafted, sent, seated
    accepted: int


class LoggedWay(Way):
    """Tells of each message when it was sent and when it arrived."""

    def __init__(self, log: Callable[..., None], kind: str, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._log = log
        self._kind = kind

    def send(self, what: Callable[..., None], *arguments: Any, at_s: float | None = None) -> None:
        sent_s = self._events.now if at_s is None else at_s

        def arrive(*arguments: Any) -> None:
            self._log(self._kind, sent_s, self._events.now, arguments[-1])
            what(*arguments)

        super().send(arrive, *arguments, at_s=at_s)


def logged(
    target: SimulatedTarget, clock: VirtualClock, log: Callable[..., None]
) -> SimulatedTarget:
    """Let it tell of each of its steps."""
    step = target.step

    def tell(batch: Batch) -> list[Outcome]:
        start_s = clock.now
        outcomes = step(batch)
        log("step", start_s, clock.now, batch)
        return outcomes

    target.step = tell  # type: ignore[method-assign]
    return target


def timeline(case: str, round_trip_s: float) -> list[Span]:
    spans: list[Span] = []

    def log(kind: str, start_s: float, end_s: float, what: object) -> None:
        match what:
            case Draft(block=block):
                size = len(block.tokens)
                drafting_s = block.draft_time_s
                spans.append(Span(case, "draft", start_s - drafting_s, start_s, size, 0))
                spans.append(Span(case, "up", start_s, end_s, size, 0))
            case Verdict():
                size = len(what.tokens)
                spans.append(Span(case, "down", start_s, end_s, size, what.num_accepted))
            case Batch():
                spans.append(Span(case, "step", start_s, end_s, what.num_tokens, 0))

    setup = Setup(slo=Slo(tokens_per_s=1.0, first_token_s=2.0), texts=BetaTexts(0.8), seed=SEED)
    events, clock, tuning = Events(), VirtualClock(), Tuning()
    choice = PolicyChoice(
        policy="fcfs", window=WINDOWS[case], threshold=0.05, block_tokens=BLOCK_TOKENS
    )
    policy = make_policy(choice, learn(setup, tuning))
    target = logged(make_target(setup, clock), clock, log)
    engine = Engine(target, policy, max_window=MAX_WINDOW, clock=clock)
    network = Network("timeline", round_trip_s, 0.0, 0.0)
    up, down = (LoggedWay(log, way, events, network, Random(SEED)) for way in ("up", "down"))
    Edge(
        0,
        events,
        Server(events, engine, clock, choice.first),
        PHONE,
        up,
        down,
        slo=setup.slo,
        workload=WORKLOAD,
        presence=Presence(0.0),
        texts=setup.texts,
        predictor=ConfidencePredictor(),
        drafts=True,
        block_tokens=BLOCK_TOKENS,
        seed=SEED,
        tally=Tally(0.0),
    )
    events.run(END_S)
    return sorted(spans, key=lambda span: span.start_s)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="CSV file; otherwise it is printed")
    parser.add_argument("--round-trip", type=float, default=0.08, help="seconds")
    options = parser.parse_args()
    spans = [span for case in WINDOWS for span in timeline(case, options.round_trip)]
    file = options.out.open("w", newline="") if options.out else sys.stdout
    with file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Span._fields)
        for span in spans:
            writer.writerow(f"{v:.5f}" if isinstance(v, float) else v for v in span)


if __name__ == "__main__":
    main()
