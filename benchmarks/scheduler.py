"""How long a scheduling decision takes, for each policy.

    python -m benchmarks.scheduler [--json] [--decisions 200]

Every session decodes, has an edge and 8 buffered drafts of random acceptance; deadlines lie
anywhere between 100 and 500 ms ahead, and the step's cost is what the estimator takes an 8B target
on an H200 for. Between two decisions, and not timed, the step is taken: each of its sessions gets a
verdict that contradicts some draft of it, and has 8 new ones. Times are those of the thread on its
core, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import time
from typing import Any

from benchmarks.setting import describe, setting
from wisp.core.batch import Batch
from wisp.core.drafts import Directive, DraftBlock
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.estimator.step_time import StepTimeEstimator
from wisp.scheduler.base import Situation
from wisp.scheduler.policy import make_policy
from wisp.scheduler.tuning import POLICIES, PolicyChoice, PolicyName

SEED = 7  # of everything drawn at random here; chosen: any number does, and one makes it repeatable
NUM_SESSIONS = (100, 300, 1000)
NUM_DRAFTS = 8  # waiting for each session, chosen as the default window of wisp-server
# Of every session: the defaults of wisp-server, as chosen in configs/server.yaml.
FIRST = Directive(window=NUM_DRAFTS, threshold=0.3)
STEP_S = 0.03  # of virtual time, for each step
NO_TOKEN = -1  # chosen by the target, drafted by nobody


def make_sessions(count: int) -> list[Session]:
    chance = random.Random(SEED)
    return [_make_session(number, chance) for number in range(count)]


def _make_session(number: int, chance: random.Random) -> Session:
    length = chance.randrange(64, 512)
    session = Session(
        number,
        list(range(length)),
        Sampling(max_tokens=100_000, seed=number),
        Slo(tokens_per_s=chance.choice([2, 4, 6, 8]), first_token_s=1),
        directive=FIRST,
        has_edge=True,
    )
    session.computed(length)
    # Its next token is due in 0.1 to 0.5 s.
    session.commit([0], now=chance.uniform(0.1, 0.5) - 1.0 / session.slo.tokens_per_s)
    _draft(session, chance, 0.0)
    return session


def _draft(session: Session, chance: random.Random, now: float) -> None:
    acceptance = [chance.uniform(0.3, 1.0) for _ in range(NUM_DRAFTS)]
    position = len(session.tokens)
    block = DraftBlock(position, position, list(range(NUM_DRAFTS)), acceptance, 0.08)
    session.offer(block, now)


def take(batch: Batch, chance: random.Random, now: float) -> None:
    """The step, and what its edges answer."""
    for seat in batch.seats:
        session, num_drafted = seat.session, len(seat.draft)
        num_accepted = chance.randrange(num_drafted + 1)
        session.launched(seat.num_tokens, 1 + num_drafted)
        session.landed(seat.num_tokens, 1 + num_drafted)
        session.computed(session.num_computed + 1 + num_accepted)
        tokens = [*seat.draft[:num_accepted], NO_TOKEN]
        session.verified(seat.source, num_drafted, tokens, now, edge_late=False)
        session.asked(FIRST)
        _draft(session, chance, now)


def measure(policy_name: PolicyName, count: int, num_decisions: int) -> dict[str, Any]:
    policy = make_policy(
        PolicyChoice(policy=policy_name, max_step_tokens=4096, batch_size=64), StepTimeEstimator()
    )
    chance, now = random.Random(SEED), 0.0
    sessions = {session.id: session for session in make_sessions(count)}
    times_ms, seats, tokens = [], [], []
    gc.collect()
    gc.freeze()  # as the engine's process has its sessions, not the benchmark's imports, to scan
    for _ in range(num_decisions):
        start_s = time.thread_time()
        batch = policy.schedule(Situation(sessions.values(), now))
        times_ms.append(1000 * (time.thread_time() - start_s))
        seats.append(len(batch))
        tokens.append(batch.num_tokens)
        now += STEP_S
        take(batch, chance, now)
    return {
        "policy": policy_name,
        "sessions": count,
        "seats": statistics.mean(seats),
        "step_tokens": statistics.mean(tokens),
        "least_ms": min(times_ms),
        "median_ms": statistics.median(times_ms),
        "p99_ms": statistics.quantiles(times_ms, n=100)[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--decisions", type=int, default=200, help="for each policy and load")
    options = parser.parse_args()
    rows = [measure(name, count, options.decisions) for name in POLICIES for count in NUM_SESSIONS]
    facts = setting(SEED, drafts_per_session=NUM_DRAFTS, decisions=options.decisions)
    if options.json:
        print(json.dumps({"setting": facts, "decisions": rows}))
        return
    print(describe(facts))
    for row in rows:
        print(
            f"{row['policy']:12} {row['sessions']:5} sessions  {row['seats']:6.1f} seats  "
            f"{row['step_tokens']:7.1f} tokens  least {row['least_ms']:6.3f} ms  "
            f"median {row['median_ms']:6.3f} ms  p99 {row['p99_ms']:6.3f} ms"
        )


if __name__ == "__main__":
    main()
