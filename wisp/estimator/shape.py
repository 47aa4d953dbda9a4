"""The shape of a batch: what the estimator is told of a step, before and after it is taken."""

from __future__ import annotations

from wisp.core.batch import Batch
from wisp.estimator.base import StepShape


class SeatedShape(StepShape):
    """A step shape that also knows its number of seats.

    Each seat costs the host and the attention kernels something of its own: on an H200 a step of
    some 130 tokens takes 8 ms for 16 sessions and 13 ms for 128. Whoever cannot tell the number
    leaves it out, with a plain `StepShape`, and gets the coarser estimate.
    """

    num_seats: int

    def __new__(
        cls, num_tokens: int, num_context: int, prefill_product: float, num_seats: int
    ) -> SeatedShape:
        self = super().__new__(cls, num_tokens, num_context, prefill_product)
        self.num_seats = num_seats
        return self

    def __getnewargs__(self) -> tuple[int, int, float, int]:
        return *self, self.num_seats

    def __repr__(self) -> str:
        return f"SeatedShape{(*self, self.num_seats)}"


def seats_of(shape: StepShape) -> int | None:
    return shape.num_seats if isinstance(shape, SeatedShape) else None


def shape_of(batch: Batch) -> SeatedShape:
    """A seat that computes one committed token decodes, and is no prefill chunk.

    A seat's length is what its attention reads: the KV it has, and its new tokens.
    """
    tokens = context = product = 0
    for seat in batch.seats:
        num_new = seat.num_context + len(seat.draft)
        length = seat.session.num_computed + num_new
        tokens += num_new
        context += length
        if seat.num_context > 1:
            product += seat.num_context * length
    return SeatedShape(tokens, context, float(product), len(batch))


def mean_seat(shape: SeatedShape) -> SeatedShape:
    """What the shape's average seat would be as a step of its own."""
    num_seats = max(1, shape.num_seats)
    tokens, context, product = shape
    return SeatedShape(
        max(1, round(tokens / num_seats)), round(context / num_seats), product / num_seats, 1
    )
