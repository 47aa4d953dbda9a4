"""The choices of a step of vLLM, from their making to the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wisp.core.drafts import TokenLogprob
from wisp.sampling.accept import standing

NO_TOKEN = -1  # vLLM's mark behind the last token of a row


@dataclass(slots=True)
class Collected:
    """Of one step, by request id: the accepted draft tokens and the next choice."""

    tokens: dict[str, list[int]]
    logprobs: dict[str, list[TokenLogprob]]  # one for each token, of those who asked


@dataclass(slots=True)
class Launched:
    """The choices of one step while they may still be in the making; n requests in batch order."""

    request_ids: list[str]
    counts: NDArray[np.int64]  # [n]: draft tokens
    drafts: NDArray[np.int32]  # [n, max(counts)]
    unfinished: NDArray[np.bool_]  # [n]: the step ends inside the prompt, and chooses nothing
    choices: Tensor  # int64 [sum(counts + 1)], on the device
    on_host: Tensor  # a copy that is under way
    slow: dict[int, tuple[list[int], list[TokenLogprob]]]  # by request, made on the host
    arrived: torch.cuda.Event | None = None

    @property
    def ends(self) -> NDArray[np.int64]:
        """[n]: behind the last choice of each request."""
        return (self.counts + 1).cumsum()

    def table(self) -> NDArray[np.int32]:
        """[n, max(counts) + 1]: what stands of each request's draft, and its next choice.

        Waits until the choices have arrived.
        """
        if self.arrived is not None:
            self.arrived.synchronize()
        choices: NDArray[np.int64] = self.on_host.numpy()
        for index, end in zip(self.slow, self.ends[list(self.slow)].tolist(), strict=True):
            choices[end - self.counts[index] - 1 : end] = self.slow[index][0]
        table = standing(choices, self.drafts, self.counts, NO_TOKEN)
        table[self.unfinished] = NO_TOKEN
        return table.astype(np.int32)
