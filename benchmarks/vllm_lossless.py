"""How often a text differs with drafts, on vLLM: never in its batch-invariant mode, else at ties.

    python -m benchmarks.vllm_lossless [--batch-invariant] [--park] [--dtype bfloat16] [--tokens 64]
                                       [--tensor-parallel 2] [--json]

The bundled target writes 160 held-out prompts on without drafts, all sessions in each step. Then
again, with random sessions in each step and random drafts, each wrong with probability 0.15, and
every step launched before the outcomes of the last are taken in. With `--park` random sessions
leave the target's memory behind a launch, and come back behind a later one. A text that differs is
counted, and at temperature 0 so is how far the two best tokens were apart in log-probability where
it began to. Random numbers are seeded; on a GPU the texts without batch invariance are not
reproducible.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.setting import setting, tell
from wisp.config import TINY
from wisp.core.batch import Batch, Seat
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.engine.step import InFlightStep
from wisp.models.tokenizer import Tokenizer
from wisp.sampling.processors import needs_processing
from wisp.testing.alternatives import random_alternatives

SEED = 5  # of everything drawn at random here; chosen: any number does, and one makes it repeatable
NUM_SESSIONS, MAX_WINDOW, MAX_STEP_TOKENS = 64, 7, 512
HOST_KV_BYTES = 2**30  # chosen: more than all of them need
SLO = Slo(tokens_per_s=10, first_token_s=10)  # of every session; chosen: nobody is judged by it
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature 0.8": {"temperature": 0.8},
    "temperature 1, top-p 0.9": {"temperature": 1.0, "top_p": 0.9},
    "greedy, frequency penalty": {"temperature": 0.0, "frequency_penalty": 0.5},
}
# By session: its seat in the step in flight, and the length of its text when that was launched.
Before = dict[int, tuple[Seat, int]]
Choose = Callable[[list[Session], Before], list[Seat]]
VOCAB_SIZE = 4096  # of the bundled target


def main() -> None:
    options = _arguments()
    if options.batch_invariant:
        os.environ["VLLM_BATCH_INVARIANT"] = "1"
    from wisp.verifier.vllm import load

    engine: dict[str, Any] = {"tensor_parallel_size": options.tensor_parallel}
    engine |= {"dtype": options.dtype} if options.dtype else {}
    verifier: Any = load(
        TINY / "target",
        max_sessions=NUM_SESSIONS,
        max_model_len=512,
        max_window=MAX_WINDOW,
        max_step_tokens=MAX_STEP_TOKENS,
        host_kv_bytes=HOST_KV_BYTES if options.park else 0,
        options=engine | json.loads(options.engine_options),
    )
    rows = [_compare(verifier, name, options) for name in SAMPLINGS]
    found = setting(
        SEED,
        engine=verifier.facts.engine,
        device=verifier.facts.device,
        batch_invariant=options.batch_invariant,
    )
    verifier.shutdown()
    tell(found, rows, as_json=options.json)


def _compare(verifier: Any, name: str, options: argparse.Namespace) -> dict[str, Any]:
    prompts = _prompts()[: options.prompts]

    def sampling(index: int) -> Sampling:
        return Sampling(max_tokens=options.tokens, seed=index, **SAMPLINGS[name])

    def session(index: int) -> Session:
        how = sampling(index)
        return Session(index, prompts[index], how, SLO, overlaps=not needs_processing(how))

    start_s = time.perf_counter()
    moves = Moves(verifier, random.Random(SEED)) if options.park else None
    plain = _write(verifier, [session(i) for i in range(len(prompts))], _everybody, ahead=False)
    chance = random.Random(SEED)
    drafted = _write(
        verifier,
        [session(i) for i in range(len(prompts))],
        lambda free, before: list(_some(free, before, plain, chance)),
        ahead=True,
        moves=moves,
    )
    differ = [
        (index, next(at for at, pair in enumerate(zip(*texts, strict=False)) if len(set(pair)) > 1))
        for index, texts in enumerate(zip(plain, drafted, strict=True))
        if texts[0] != texts[1]
    ]
    agreed = sum(map(len, plain)) - sum(len(plain[index]) - at for index, at in differ)
    row: dict[str, Any] = {
        "sampling": name,
        "texts": len(prompts),
        "differ": len(differ),
        "tokens_compared": agreed + len(differ),
        "time_s": round(time.perf_counter() - start_s, 1),
    }
    if moves:
        row |= {"parked_tokens": moves.num_parked, "loaded_tokens": moves.num_loaded}
    if differ and name == "greedy":
        gaps = [_gap(verifier, [*prompts[index], *plain[index][:at]]) for index, at in differ]
        row |= {"gap_median": round(statistics.median(gaps), 4), "gap_most": round(max(gaps), 4)}
    return row


class Moves:
    """Parks random sessions that no step needs, and loads random ones of those parked."""

    def __init__(self, verifier: Any, chance: random.Random) -> None:
        self._verifier = verifier
        self._chance = chance
        self.num_parked = self.num_loaded = 0  # tokens

    def move(self, live: list[Session]) -> None:
        idle = [s for s in live if s.resident and s.num_computed and not s.num_in_flight]
        parked = [s for s in live if s.parked]
        leaving = [session for session in idle if self._chance.random() < 0.1]
        for session, kept in zip(leaving, self._verifier.park(leaving), strict=True):
            session.moved(kept, parked=kept > 0)
            self.num_parked += kept
        entering = [session for session in parked if self._chance.random() < 0.5]
        for session, found in zip(entering, self._verifier.load(entering), strict=True):
            if found:
                session.moved(found, parked=False)
                self.num_loaded += found


def _prompts() -> list[list[int]]:
    tokenizer = Tokenizer(TINY / "target")
    texts = json.loads((TINY / "prompts.json").read_text())
    return [tokenizer.encode(text["prompt"])[: 12 + n % 49] for n, text in enumerate(texts)]


def _everybody(free: list[Session], before: Before) -> list[Seat]:
    room = MAX_STEP_TOKENS // len(free)
    return [Seat(session, min(session.num_missing, room)) for session in free]


def _some(
    free: list[Session], before: Before, texts: list[list[int]], chance: random.Random
) -> Iterator[Seat]:
    room = MAX_STEP_TOKENS
    for session in chance.sample(free, chance.randint(1, len(free))):
        seat = Seat(session, min(session.num_missing, chance.choice((1, 8, 40)), room))
        if seat.chooses and chance.random() < 0.7:
            text = texts[session.id][session.num_output :]
            right = text[session.num_pending :][: chance.randint(0, MAX_WINDOW)]
            most = min(session.max_drafts, room - seat.num_context)
            seat.draft = [t if chance.random() > 0.15 else t ^ 1 for t in right][:most]
            if session.num_pending:
                seated, length = before[session.id]
                verified = seated.drafts_behind(session.tokens[length:])
                found = random_alternatives(verified, text, most, chance, VOCAB_SIZE)
                seat.alternatives = found
        room -= seat.num_tokens
        yield seat
        if room <= 0:
            return


def _write(
    verifier: Any,
    waiting: list[Session],
    choose: Choose,
    *,
    ahead: bool,
    moves: Moves | None = None,
) -> list[list[int]]:
    """The texts, in the order of the sessions."""
    sessions, waiting = waiting, waiting[::-1]
    live: dict[int, Session] = {}
    in_flight: InFlightStep | None = None
    before: Before = {}

    def take_in(step: InFlightStep) -> None:
        assert step.collect
        outcomes = step.collect()
        step.landed()
        for seat, outcome in zip(step.batch.seats, outcomes, strict=True):
            if live.get(seat.session.id) is not seat.session:
                continue
            seat.session.computed(outcome.computed_after(seat), as_planned=outcome.as_planned(seat))
            if outcome.tokens:
                seat.session.commit(outcome.tokens, now=0.0)
            if seat.session.finish_reason:
                verifier.close(live.pop(seat.session.id))

    while live or waiting:
        while waiting and len(live) < NUM_SESSIONS:
            live[waiting[-1].id] = waiting[-1]
            verifier.open(waiting.pop())
        free = [session for session in live.values() if session.free and not session.parked]
        following = None
        if free and not (in_flight and not all(session.overlaps for session in free)):
            seats = choose(free, before)
            following = InFlightStep(Batch(seats), None, 0.0, 0.0)
            before = {s.session.id: (s, len(s.session.tokens)) for s in seats}
            following.launch(verifier)
        if in_flight:
            take_in(in_flight)
        in_flight = following
        if moves:
            moves.move(list(live.values()))
        if in_flight and not (ahead and in_flight.overlaps):
            take_in(in_flight)
            in_flight = None
    return [session.tokens[session.num_prompt :] for session in sessions]


def _gap(verifier: Any, tokens: list[int]) -> float:
    """How far the two best tokens are apart after these."""
    asked = Sampling(max_tokens=1, seed=0, temperature=0.0, num_logprobs=2)
    probe = Session(-1, tokens, asked, SLO)
    verifier.open(probe)
    (outcome,) = verifier.step(Batch([Seat(probe, probe.num_missing)]))
    verifier.close(probe)
    (first, second) = (logprob for _, logprob in outcome.logprobs[0].top)
    return float(first - second)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-invariant", action="store_true", help="vLLM's mode of that name")
    parser.add_argument(
        "--park", action="store_true", help="sessions leave and come back at random"
    )
    parser.add_argument("--dtype", help="number format; default: the engine's")
    parser.add_argument("--prompts", type=int, default=160)
    parser.add_argument("--tokens", type=int, default=64, help="of each text")
    parser.add_argument(
        "--tensor-parallel", type=int, default=1, metavar="GPUS", help="that share the model"
    )
    parser.add_argument("--engine-options", default="{}", help="more engine arguments, as JSON")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
