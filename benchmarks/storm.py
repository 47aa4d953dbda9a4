"""A zone fails, and its edges come back to the others all at once: how long until each is served.

    python -m benchmarks.storm [--edges 100000] [--replicas 100] [--handshakes-per-s 400]

Every edge of a lost replica tries another one, by chance, and waits between attempts as
`wisp.edge.backoff.Backoff` does. A replica works through handshakes one after the other, also
through those that were given up meanwhile. Virtual time, in ticks; all edges at once.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from wisp.edge.backoff import Backoff

# Of one step of the virtual time, in seconds. Chosen: a tenth of the shortest wait.
TICK_S = 0.01
# How long an edge waits for an answer: gRPC's own limit of an attempt in `wisp.edge.link`.
ATTEMPT_S = 5.0
# Of the noise. Chosen: the date of the demo's.
SEED = 20260111


@dataclass(frozen=True)
class Outcome:
    """Times in seconds, from the failure on."""

    half_s: float
    most_s: float  # 99 % of the edges
    all_s: float
    attempts: float  # of each edge, in the mean
    longest_queue: int  # of one replica, in handshakes


def storm(
    num_edges: int,
    num_replicas: int,
    handshakes_per_s: float,
    *,
    lost_share: float = 1 / 3,
    jitter: bool = True,
    limit_s: float = 600.0,
) -> Outcome:
    """Raises nothing; edges that are not back within `limit_s` count as if they were then."""
    rng = np.random.default_rng(SEED)
    num = round(num_edges * lost_share)
    left = num_replicas - round(num_replicas * lost_share)
    # The line of each edge tells it a little later or earlier that its server is gone.
    due = rng.uniform(0.0, 0.1, num) if jitter else np.zeros(num)
    wait = np.full(num, Backoff.FIRST_S)
    back = np.full(num, limit_s)
    attempts = np.zeros(num)
    free_at = np.zeros(left)  # when each replica is through with what waits
    waiting = np.ones(num, dtype=bool)
    longest = 0.0
    now = 0.0
    while now < limit_s and waiting.any():
        ready = np.flatnonzero(waiting & (due <= now))
        if ready.size:
            ready = rng.permutation(ready)
            chosen = rng.integers(0, left, ready.size)
            order = np.argsort(chosen, kind="stable")
            ready, chosen = ready[order], chosen[order]
            first = np.searchsorted(chosen, chosen)
            place = np.arange(ready.size) - first
            done = np.maximum(free_at[chosen], now) + (place + 1) / handshakes_per_s
            np.maximum.at(free_at, chosen, done)
            attempts[ready] += 1
            served = done - now <= ATTEMPT_S
            back[ready[served]] = done[served]
            waiting[ready[served]] = False
            again = ready[~served]
            shake = rng.uniform(0.5, 1.0, again.size) if jitter else np.ones(again.size)
            due[again] = now + ATTEMPT_S + shake * wait[again]
            wait[again] = np.minimum(Backoff.MAX_S, 2 * wait[again])
            longest = max(longest, float((free_at - now).max()) * handshakes_per_s)
        now += TICK_S
    return Outcome(
        half_s=float(np.quantile(back, 0.5)),
        most_s=float(np.quantile(back, 0.99)),
        all_s=float(back.max()),
        attempts=float(attempts.mean()),
        longest_queue=round(longest),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edges", type=int, default=100_000)
    parser.add_argument("--replicas", type=int, default=100)
    parser.add_argument("--handshakes-per-s", type=float, nargs="+", default=[50, 100, 200, 400])
    asked = parser.parse_args()
    print("handshakes/s | jitter | half back | 99 % | all | attempts | longest queue")
    for rate in asked.handshakes_per_s:
        for jitter in (True, False):
            o = storm(asked.edges, asked.replicas, rate, jitter=jitter)
            print(
                f"{rate:g} | {'yes' if jitter else 'no'} | {o.half_s:.1f} s | {o.most_s:.1f} s | "
                f"{o.all_s:.1f} s | {o.attempts:.2f} | {o.longest_queue}"
            )


if __name__ == "__main__":
    main()
