"""What the users of a fleet ask for, and when."""

from __future__ import annotations

import math
from random import Random
from typing import NamedTuple


class Lengths(NamedTuple):
    """Tokens, from a log-normal distribution of the given mean, cut at both ends."""

    mean: float
    sigma: float = 0.7  # of the logarithm (assumed)
    least: int = 8
    most: int = 2048

    def draw(self, chance: Random) -> int:
        mu = math.log(self.mean) - 0.5 * self.sigma**2
        length = round(chance.lognormvariate(mu, self.sigma))
        return min(self.most, max(self.least, length))

    def met(self) -> Lengths:
        """Of those under way at a moment: one is met the more often the longer it is."""
        return self._replace(mean=self.mean * math.exp(self.sigma**2))


# Mean lengths of ShareGPT's conversations, as vLLM's paper gives them (arXiv 2309.06180).
SHARE_GPT = (Lengths(161.0), Lengths(338.0))


# Turns of one of them (arXiv 2309.11998, table 1).
SHARE_GPT_TURNS = 3.5


class Workload(NamedTuple):
    """A device asks, reads the answer to its end, thinks, and asks again."""

    prompt: Lengths = SHARE_GPT[0]
    output: Lengths = SHARE_GPT[1]
    think_s: float = 1.0  # mean, exponential
    # The limit of each request: nobody, and no policy, knows how long an answer will be.
    max_tokens: int = 2048
    # Turns of a conversation, mean: a later one's prompt is all that was said, and a new question.
    turns: float = 1.0
    max_context: int = 4096  # tokens that a conversation may come to; beyond them it is a new one
    # Of the logarithm of the time to think: then that is log-normal, and `think_s` its median.
    think_sigma: float = 0.0

    def think(self, chance: Random) -> float:
        """Seconds."""
        if self.think_sigma:
            return chance.lognormvariate(math.log(self.think_s), self.think_sigma)
        return chance.expovariate(1.0 / self.think_s)


class Conversation:
    """What was said so far, in tokens."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self.number = 0  # of the user's conversations
        self.num_said = 0

    def turn(self, num_prompt: int, num_output: int, chance: Random) -> int:
        """A question and its answer; returns the tokens before them, 0 where it begins anew."""
        workload = self._workload
        if workload.turns <= 1.0:
            return 0
        is_long = self.num_said + num_prompt + num_output > workload.max_context
        if self.num_said and (is_long or chance.random() < 1.0 / workload.turns):
            self.number += 1
            self.num_said = 0
        before = self.num_said
        self.num_said += num_prompt + num_output
        return before


class Presence(NamedTuple):
    """When a device is there: it asks from `start_s` on, and begins nothing after `end_s`."""

    start_s: float
    end_s: float = math.inf


def steady(num_devices: int, warm_up_s: float, seed: int) -> list[Presence]:
    """All from the start, a Poisson process of arrivals within the first half of the warm-up."""
    chance = Random(f"arrivals {seed}")
    return [Presence(chance.uniform(0.0, 0.5 * warm_up_s)) for _ in range(num_devices)]


def bursty(
    base: int, peak: int, start_s: float, length_s: float, ramp_s: float, seed: int
) -> list[Presence]:
    """`base` devices all the time; `peak` of them between `start_s` and `start_s + length_s`."""
    chance = Random(f"arrivals {seed}")
    found = [Presence(chance.uniform(0.0, ramp_s)) for _ in range(base)]
    for _ in range(peak - base):
        came_s = start_s + chance.uniform(0.0, ramp_s)
        found.append(Presence(came_s, came_s + length_s))
    return found
