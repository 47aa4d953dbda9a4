"""Random alternatives to what a step in flight verifies, for tests and measurements."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from wisp.core.drafts import Alternative
from wisp.core.prefix import common_prefix

# How many drafts an alternative has at most. Chosen: as many as the windows of the tests.
_MOST = 16


def random_alternatives(
    verified: Sequence[int], right: Sequence[int], most: int, chance: Random, vocab_size: int
) -> list[Alternative]:
    """Of `most` drafts at most; among wrong ones there may be that which applies.

    `verified`: by the step in flight. `right`: what the target chooses from there on.
    """
    num_accepted = common_prefix(verified, right)
    found = []
    rest = right[num_accepted:]
    if rest and chance.random() < 0.7:
        drafts = list(rest[1 : 1 + min(most, chance.randrange(_MOST + 1))])
        drafts = [t if chance.random() > 0.1 else chance.randrange(vocab_size) for t in drafts]
        found.append(Alternative(num_accepted, rest[0], drafts))
    for _ in range(chance.randrange(3)):
        count = min(most, chance.randrange(4))
        place, token, *drafts = (chance.randrange(vocab_size) for _ in range(2 + count))
        found.append(Alternative(place % 4, token, drafts))
    chance.shuffle(found)
    return found
