"""Sessions that come and go at random, under too few KV blocks. WISP_FUZZ sets how many."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.vllm.driver import STEP_TOKENS, Driver, drafter, expected, prompts, same, step
from wisp.core import Sampling

NUM_SESSIONS = int(os.environ.get("WISP_FUZZ", "100"))  # of each case


class Crowd:
    """Up to `most` sessions at once; each turn is one random step."""

    def __init__(self, verifier: Any, seed: int, most: int, num_sessions: int) -> None:
        self.verifier = verifier
        self.chooser = random.Random(seed)
        self.most = most
        self.to_come = num_sessions
        self.number = 0
        self.now = 0.0
        self.live: dict[int, Driver] = {}
        self.drafters: dict[int, Any] = {}
        self.num_right = self.num_ties = self.num_aborted = self.num_resumed = 0

    def run(self) -> None:
        while self.live or self.to_come:
            self.now += 0.01
            while self.to_come and len(self.live) < self.most and self.chooser.random() < 0.5:
                self.to_come -= 1
                self._open(self.chooser.choice(prompts()[:40]), self._sampling())
            self._step()
            self._end()

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
        self, prompt: list[int], sampling: Sampling, committed: list[int] | None = None
    ) -> None:
        self.number += 1
        driver = Driver(self.number, prompt, sampling, committed=committed or [], due_s=self.now)
        self.verifier.open(driver.session)
        self.live[self.number] = driver
        self.drafters[self.number] = drafter(self.number, prompt, sampling, wrong=0.05)

    def _step(self) -> None:
        chosen = [d for d in self.live.values() if self.chooser.random() < 0.6]
        self.chooser.shuffle(chosen)
        room, pairs = STEP_TOKENS, []
        for driver in chosen:
            if room <= 0:
                break
            most = min(room, self.chooser.choice((1, 5, 17, 40)))
            seat = driver.seat(most, self.drafters[driver.session.id](driver.session))
            room -= seat.num_tokens
            pairs.append((driver, seat))
        if pairs:
            step(self.verifier, pairs, self.now)

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
                self._open(driver.prompt, driver.session.sampling, driver.text)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("most", "num_blocks"), [(64, 599), (24, 20), (12, 8)])
def test_crowd(verifier: Any, hoard: Callable[[int], None], most: int, num_blocks: int) -> None:
    scheduler = verifier.scheduler
    hoard(min(num_blocks, scheduler.num_free_blocks))
    free, evictions = scheduler.num_free_blocks, scheduler.num_evictions
    crowd = Crowd(verifier, seed=most, most=most, num_sessions=NUM_SESSIONS)
    crowd.run()
    assert scheduler.num_free_blocks == free
    assert crowd.num_right + crowd.num_ties + crowd.num_aborted == NUM_SESSIONS
    assert crowd.num_ties <= NUM_SESSIONS // 50
    if num_blocks < 100:
        assert scheduler.num_evictions > evictions
    print(f"{vars(crowd)['num_right']} right, {crowd.num_ties} ties, {crowd.num_aborted} aborted,")
    print(f"{crowd.num_resumed} resumed, {scheduler.num_evictions - evictions} evictions")


def test_expected_texts_are_not_trivial() -> None:
    texts = {tuple(expected(p, Sampling(max_tokens=20, seed=1))) for p in prompts()[:20]}
    assert len(texts) == 20
