"""A target with a known step-time model, and noisy steps of it."""

from __future__ import annotations

import random

from wisp.estimator.shape import StepShape


def known_s(shape: StepShape) -> float:
    """A floor, 24 us a token above 128, and a seat's own 30 us."""
    num_tokens, context, product, num_seats = shape
    linear_s = 24e-6 * max(0, num_tokens - 128) + 30e-9 * context + 1e-10 * product
    several_s = 0.3e-3 * (num_tokens > num_seats)
    return 6e-3 + 30e-6 * num_seats + several_s + linear_s


def random_shape(chance: random.Random, most_seats: int = 256) -> StepShape:
    num_seats = round(most_seats ** chance.random())
    num_tokens = num_seats * chance.randint(1, 8)
    context = num_seats * round(64 * 64 ** chance.random()) + num_tokens
    product = 0.0
    if chance.random() < 0.3:
        chunk = chance.randint(16, 512)
        length = chance.randint(chunk, 4096)
        product = float(chunk * length)
        num_seats, num_tokens, context = num_seats + 1, num_tokens + chunk, context + length
    return StepShape(num_tokens, context, product, num_seats)


def steps(
    number: int, seed: int, noise: float = 0.03, most_seats: int = 256, slower: float = 1.0
) -> list[tuple[StepShape, float]]:
    chance = random.Random(seed)
    shapes = [random_shape(chance, most_seats) for _ in range(number)]
    return [(s, slower * known_s(s) * max(0.5, 1 + noise * chance.gauss(0, 1))) for s in shapes]
