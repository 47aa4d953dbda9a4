"""The choices of a step of vLLM, from their making to the host."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wisp.core.drafts import TokenLogprob
from wisp.core.own_drafts import Proposed
from wisp.sampling.accept import standing
from wisp.sampling.choice import moved
from wisp.verifier.vllm.own_kv import OwnPart

NO_TOKEN = -1  # vLLM's mark behind the last token of a row


@dataclass(slots=True)
class Collected:
    """Of one step, by request id: the accepted draft tokens and the next choice."""

    tokens: dict[str, list[int]]
    logprobs: dict[str, list[TokenLogprob]]  # one for each token, of those who asked
    arrived_s: float | None = None  # see `Verifier.arrived_s`
    took_s: float | None = None  # see `Verifier.took_s`
    own: dict[str, Proposed] = field(default_factory=dict)  # own drafts behind these tokens
    drafting_s: float = 0.0  # see `Verifier.drafting_s`


@dataclass
class OwnLaunched:
    """Own drafts while they may still be in the making; n requests, K drafts of each."""

    asked: Sequence[OwnPart]
    made: Tensor  # int64 [n, K], on the device
    tokens: Tensor  # on the host: a copy of these that is under way
    acceptance: Tensor  # float32 [n, K], likewise
    begun: torch.cuda.Event | None  # when the drafter began; None: not on a GPU
    arrived: torch.cuda.Event | None
    host_s: float  # what launching took; on the CPU, all of it

    @property
    def drafting_s(self) -> float:
        """To be asked when they have arrived, as `found`."""
        if self.begun is None or self.arrived is None:
            return self.host_s
        return float(self.begun.elapsed_time(self.arrived)) / 1e3

    @cached_property
    def rows(self) -> dict[str, int]:
        """Of those who get drafts, by request id."""
        return {each.request_id: row for row, each in enumerate(self.asked) if each.num_own}

    def found(self) -> dict[str, Proposed]:
        """By request id."""
        pairs = zip(self.asked, self.tokens.tolist(), self.acceptance.tolist(), strict=True)
        return {
            asked.request_id: Proposed(tokens[: asked.num_own], acceptance[: asked.num_own])
            for asked, tokens, acceptance in pairs
            if asked.num_own
        }


@dataclass(slots=True)
class Launched:
    """The choices of one step while they may still be in the making; n requests in batch order."""

    request_ids: list[str]
    counts: NDArray[np.int64]  # [n]: draft tokens
    unfinished: NDArray[np.bool_]  # [n]: the step ends inside the prompt, and chooses nothing
    choices: Tensor  # int64 [sum(counts + 1)], on the device
    # int64 [2, sum(counts + 1)], a copy that is under way: the choices, and the token that the step
    # has behind each: its drafts.
    on_host: Tensor
    slow: dict[int, tuple[list[int], list[TokenLogprob]]]  # by request, made on the host
    # On the device, [n]: the last token chosen for each request, and how many drafts were rejected
    # before it; None if there were none.
    last: Tensor
    rejected: Tensor | None
    token_ends: NDArray[np.int64]  # [n]: behind each request's tokens in the step
    arrived: torch.cuda.Event | None = None
    own: OwnLaunched | None = None  # made behind the choices, for some of the requests
    begun: torch.cuda.Event | None = None  # when the target began; None: not on a GPU
    coming: Collection[str] = ()  # requests whose drafts were known to the device alone
    places: dict[str, int] = field(init=False)  # where each request stands

    def __post_init__(self) -> None:
        self.places = {name: place for place, name in enumerate(self.request_ids)}

    @property
    def took_s(self) -> float | None:
        """See `Verifier.took_s`; to be asked when the choices have arrived."""
        if self.begun is None or self.arrived is None:
            return None
        return float(self.begun.elapsed_time(self.arrived)) / 1e3

    def num_chosen(self, request_id: str) -> int:
        """Tokens that it is given if all its drafts are accepted."""
        place = self.places.get(request_id)
        return 0 if place is None or self.unfinished[place] else int(self.counts[place]) + 1

    @property
    def ends(self) -> NDArray[np.int64]:
        """[n]: behind the last choice of each request."""
        return (self.counts + 1).cumsum()

    def wait(self) -> float | None:
        """Until the choices and own drafts have arrived, just now; None: they were there."""
        arrived = self.own.arrived if self.own else self.arrived
        if arrived is None or arrived.query():  # type: ignore[no-untyped-call]
            return None
        arrived.synchronize()
        return time.monotonic()

    def table(self) -> NDArray[np.int32]:
        """[n, max(counts) + 1]: what stands of each request's draft, and its next choice.

        To be asked when the choices have arrived.
        """
        choices, following = self.on_host.numpy()
        for index, end in zip(self.slow, self.ends[list(self.slow)].tolist(), strict=True):
            choices[end - self.counts[index] - 1 : end] = self.slow[index][0]
        first = self.ends - self.counts - 1
        places = first[:, None] + np.arange(self.counts.max(initial=0))
        drafts = following.take(places, mode="clip")
        table = standing(choices, drafts, self.counts, NO_TOKEN)
        table[self.unfinished] = NO_TOKEN
        return table.astype(np.int32)


def chosen_last(
    choices: Tensor, following: Tensor, counts: NDArray[np.int64]
) -> tuple[Tensor, Tensor | None]:
    """`Launched.last` and `Launched.rejected`, on the device: nothing is waited for.

    choices, following: [sum(counts + 1)], the choice behind each token and the token that the step
    has there (behind a request's last one, anything).
    """
    if not counts.any():
        return choices, None
    ends = (counts + 1).cumsum()
    first, last = moved(np.stack([ends - counts - 1, ends - 1]), choices.device)
    differs = (choices != following).index_fill_(0, last, True)
    rows = torch.arange(len(choices), device=choices.device)
    # Of each row the first at or behind it that differs: its request ends with one that does.
    nearest = torch.where(differs, rows, len(choices)).flip(0).cummin(0).values.flip(0)
    stands = nearest[first]
    return choices[stands], last - stands
