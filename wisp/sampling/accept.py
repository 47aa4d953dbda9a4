"""Which draft tokens stand."""

from __future__ import annotations

from collections.abc import Sequence


def num_accepted(draft: Sequence[int], choices: Sequence[int]) -> int:
    """Length of the longest prefix of the draft that the target chose itself.

    `choices` has one more token than `draft`: choices[i] is the target's choice where draft[i]
    stands, given the context and draft[:i].
    """
    # accepted = the most a with draft[i] == choices[i] for all i < a. Then choices[a] follows them:
    # it too was made after a context of nothing but accepted tokens; those beyond it were not.
    for index, (token, choice) in enumerate(zip(draft, choices, strict=False)):
        if token != choice:
            return index
    return min(len(draft), len(choices))
