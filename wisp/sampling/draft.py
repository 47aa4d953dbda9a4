"""A draft token: a guess at the choice, with the choice's own noise and without torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wisp.core.request import Sampling
from wisp.sampling.philox import GREEDY_BELOW, gumbel_numpy


def draft_token(logits: NDArray[np.float32], sampling: Sampling, position: int) -> int:
    """The argmax of logits / temperature + noise; logits: the draft model's, float32 [vocab].

    It equals the target's choice for the same logits when temperature is all that `sampling`
    changes. Penalties and filters are left to the target: a guess that they forbid is not
    accepted, and that is all.
    """
    if sampling.temperature < GREEDY_BELOW:
        return int(logits.argmax())
    seeds = np.array([sampling.seed], np.uint64)
    noise = gumbel_numpy(seeds, np.array([position]), len(logits))[0]
    return int((logits / np.float32(sampling.temperature) + noise).argmax())
