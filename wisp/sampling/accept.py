"""Which draft tokens stand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wisp.core.prefix import common_prefix


def num_accepted(draft: Sequence[int], choices: Sequence[int]) -> int:
    """Length of the longest prefix of the draft that the target chose itself.

    `choices` has one more token than `draft`: choices[i] is the target's choice where draft[i]
    stands, given the context and draft[:i].
    """
    # accepted = the most a with draft[i] == choices[i] for all i < a. Then choices[a] follows them:
    # it too was made after a context of nothing but accepted tokens; those beyond it were not.
    return common_prefix(draft, choices)


def standing(
    choices: NDArray[np.int64], drafts: NDArray[np.integer], counts: NDArray[np.int64], fill: int
) -> NDArray[np.int64]:
    """What stands of many drafts at once, by the rule of `num_accepted`.

    choices: [sum(counts + 1)], those of the drafts one after another; drafts: [n, max(counts)], of
    which row i holds counts[i] tokens. Returns [n, max(counts) + 1]: of each row the accepted
    tokens and the target's own next choice, and behind them `fill`.
    """
    places = np.arange(drafts.shape[1] + 1)
    table = np.full((len(counts), len(places)), fill, choices.dtype)
    table[places <= counts[:, None]] = choices
    agrees = (drafts == table[:, :-1]) & (places[:-1] < counts[:, None])
    num_accepted = agrees.cumprod(axis=1).sum(axis=1)
    table[places > num_accepted[:, None]] = fill
    return table
