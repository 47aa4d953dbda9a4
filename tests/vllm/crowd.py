"""Sessions that come and go at random."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.vllm.driver import STEP_TOKENS, Driver, drafter, expected, learn, prompts, same
from wisp.core.batch import Batch, Seat
from wisp.core.drafts import Alternative, Source
from wisp.core.own_drafts import COMING
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.engine.step import InFlightStep
from wisp.sampling.processors import needs_processing
from wisp.testing.alternatives import random_alternatives

MAX_NGRAM = 4  # n-gram drafts of a session; chosen: as many as a step of few sessions has room for


class Crowd:
    """Up to `most` sessions at once; each turn is one random step."""

    def __init__(
        self,
        verifier: Any,
        seed: int,
        most: int,
        num_sessions: int,
        *,
        overlapped: bool,
        adapters: Sequence[str | None] = (None,),
        max_own: int = 0,
    ) -> None:
        """`max_own`: own drafts of a session, if the verifier has a drafter."""
        self.verifier = verifier
        self.overlapped = overlapped  # a step is launched before the one ahead is collected
        self.max_own = max_own
        self.running: InFlightStep | None = None
        self.chooser = random.Random(seed)
        self.most = most
        self.to_come = [
            (self.chooser.choice(prompts()[:40]), self._sampling(), self.chooser.choice(adapters))
            for _ in range(num_sessions)
        ]
        for name in adapters:  # alone each of these texts would take ten times as long
            learn([(prompt, sampling) for prompt, sampling, of in self.to_come if of == name], name)
        self.number = 0
        self.now = 0.0
        self.live: dict[int, Driver] = {}
        self.drafters: dict[int, Any] = {}
        self.num_right = self.num_ties = self.num_aborted = self.num_resumed = self.num_ahead = 0
        self.num_parked = self.num_loaded = self.num_found = self.num_alternatives = 0
        self.starts: dict[int, int] = {}  # by session: its length when its last step was launched
        self.num_coming = 0  # seats with own drafts before they were known
        # Drafts by source, and those of them that were accepted.
        self.num_drafted, self.num_accepted = Counter[Source](), Counter[Source]()

    def run(self) -> None:
        while self.live or self.to_come:
            self.now += 0.01
            while self.to_come and len(self.live) < self.most and self.chooser.random() < 0.5:
                self._open(*self.to_come.pop())
            self._step()
            self._end()
        self._finish()

    def _sampling(self) -> Sampling:
        kind: dict[str, Any] = self.chooser.choice(
            ({}, {"top_p": 0.95}, {"frequency_penalty": 0.4})
        )
        return Sampling(
            max_tokens=self.chooser.randrange(1, 60),
            seed=self.chooser.randrange(4),
            temperature=self.chooser.choice((0.0, 0.8, 1.2)),
            **kind,
        )

    def _open(
        self,
        prompt: list[int],
        sampling: Sampling,
        adapter: str | None,
        committed: Sequence[int] = (),
    ) -> None:
        self.number += 1
        driver = Driver(
            self.number,
            prompt,
            sampling,
            committed=committed,
            adapter=adapter,
            overlaps=not needs_processing(sampling),
            drafts_own=self.max_own > 0,
            max_ngram=MAX_NGRAM,
            due_s=self.now,
        )
        kept = self.verifier.open(driver.session)
        driver.session.moved(kept, parked=kept > 0)
        self.num_found += kept > 0
        self.live[self.number] = driver
        self.drafters[self.number] = drafter(self.number, prompt, sampling, 0.05, adapter)

    def _step(self) -> None:
        chosen = [
            driver
            for driver in self.live.values()
            if driver.session.free and not driver.session.parked and self.chooser.random() < 0.6
        ]
        self.chooser.shuffle(chosen)
        room, seats = STEP_TOKENS, []
        for driver in chosen:
            if room <= 0:
                break
            seats.append(self._seat(driver, room))
            room -= seats[-1].num_tokens
        starts = {seat.session.id: len(seat.session.tokens) for seat in seats}
        following = InFlightStep(Batch(seats), None, self.now, self.now)
        following.launch(self.verifier)
        self._move_kv()
        if self.running:
            self.num_ahead += sum(s.session.num_in_flight > 1 and bool(s.draft) for s in seats)
            self._land(self.running)
        self.running, self.starts = following, starts
        if not self.overlapped:
            self._finish()

    def _move_kv(self) -> None:
        """Beside the step just launched; of those that are in none."""
        for session in self.verifier.evicted():
            if not session.num_in_flight:
                session.moved(0, parked=False)
        idle = [d.session for d in self.live.values() if not d.session.num_in_flight]
        leaving = [each for each in idle if each.resident and self.chooser.random() < 0.1]
        for session, kept in zip(leaving, self.verifier.park(leaving), strict=True):
            self.num_parked += kept > 0
            session.moved(kept, parked=kept > 0)
        entering = [each for each in idle if each.parked and self.chooser.random() < 0.3]
        for session, found in zip(entering, self.verifier.load(entering), strict=True):
            if found:
                self.num_loaded += 1
                session.moved(found, parked=False)

    def _seat(self, driver: Driver, room: int) -> Seat:
        session = driver.session
        source, draft = self._drafts(session)
        seat = driver.seat(min(room, self.chooser.choice((1, 5, 17, 40))), draft)
        seat.source = source
        self.num_drafted[source] += len(seat.draft)
        self.num_coming += COMING in seat.draft
        is_edge = source is Source.EDGE
        if is_edge and session.num_pending and seat.chooses and self.chooser.random() < 0.7:
            most = min(room - seat.num_context, session.max_drafts)
            seat.alternatives = self._alternatives(driver, most)
        if self.max_own and seat.chooses and self.chooser.random() < 0.8:
            most = session.max_drafts - len(seat.draft) - 1
            seat.num_own = max(0, min(self.chooser.randint(0, self.max_own), most))
        return seat

    def _drafts(self, session: Session) -> tuple[Source, list[int]]:
        """Of one of the sources that have any."""
        own = self._own_drafts(session)
        if own and self.chooser.random() < 0.7:
            return Source.OWN, own
        if session.drafts.source is Source.NGRAM and self.chooser.random() < 0.7:
            return Source.NGRAM, session.at_hand
        return Source.EDGE, self.drafters[session.id](session)

    def _own_drafts(self, session: Session) -> list[int]:
        if not session.own_drafts:
            return []
        if session.num_own:
            return session.next_drafts(self.max_own)
        return session.own_drafts.tokens[session.num_pending :]

    def _alternatives(self, driver: Driver, most: int) -> list[Alternative]:
        """To the step in flight."""
        session = driver.session
        right = expected(driver.prompt, session.sampling, session.adapter)[session.num_output :]
        return random_alternatives(self._verified(session), right, most, self.chooser, 4096)

    def _verified(self, session: Session) -> list[int]:
        """The drafts that the step in flight has for it."""
        assert self.running
        seat = next(seat for seat in self.running.batch.seats if seat.session is session)
        return seat.drafts_behind(session.tokens[self.starts[session.id] :])

    def _finish(self) -> None:
        if self.running:
            self._land(self.running)
        self.running = None

    def _land(self, step: InFlightStep) -> None:
        assert step.collect
        outcomes = step.collect()
        step.landed()
        for seat, outcome in zip(step.batch.seats, outcomes, strict=True):
            if driver := self.live.get(seat.session.id):  # else it was closed while the step ran
                is_edge = seat.source is Source.EDGE
                if is_edge and outcome.num_accepted:
                    self.num_alternatives += self._verified(seat.session) is not seat.draft
                self.num_accepted[seat.source] += outcome.num_accepted
                driver.take(seat, outcome, self.now)

    def _end(self) -> None:
        for number, driver in list(self.live.items()):
            if driver.done:
                if same(driver):
                    self.num_right += 1
                else:
                    self.num_ties += 1
            elif self.chooser.random() > 0.01:
                continue
            self.verifier.close(driver.session)
            del self.live[number]
            if driver.done:
                continue
            if self.chooser.random() < 0.5:
                self.num_aborted += 1
            else:  # its edge comes back with what is committed
                self.num_resumed += 1
                session = driver.session
                self._open(driver.prompt, session.sampling, session.adapter, driver.text)
