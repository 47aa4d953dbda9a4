"""The choice: at each position, the argmax of the processed logits plus the position's noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wisp.core.drafts import TokenLogprob
from wisp.sampling.philox import GREEDY_BELOW, gumbel_torch, signed
from wisp.sampling.processors import Row, is_plain, process


def choose(logits: Tensor, rows: Sequence[Row]) -> tuple[list[int], list[TokenLogprob | None]]:
    """The token of every row of logits, [rows, vocab], and its logprob where its sampling asks.

    The logits are left as they are. The lowest id wins a tie.
    """
    if len(logits) != len(rows):
        raise ValueError(f"there are {len(logits)} rows of logits for {len(rows)} choices")
    if not rows:
        return [], []
    tokens: list[int] = _argmax(logits, rows).tolist()
    return tokens, _logprobs(logits, rows, tokens)


def choose_unprocessed(
    logits: Tensor,
    seeds: NDArray[np.int64],
    positions: Tensor,
    temperatures: NDArray[np.float32],
) -> Tensor:
    """The token of every row, int64 [rows], where nothing but a temperature is asked for.

    The same choices as `choose` makes, from arrays [rows]: on a GPU nothing here waits for it.
    seeds: see `wisp.sampling.philox.signed`. positions: int64, on the device, which may be all that
    knows them.
    """
    greedy = temperatures < GREEDY_BELOW
    if greedy.all():
        return logits.argmax(dim=-1)
    divisors = moved(np.where(greedy, np.float32(1), temperatures), logits.device)
    scores = logits.to(torch.float32, copy=True).div_(divisors[:, None])
    choices = _noisy_argmax(scores, moved(seeds, logits.device), positions)
    if greedy.any():
        return torch.where(moved(greedy, logits.device), logits.argmax(dim=-1), choices)
    return choices


def choose_likely(
    logits: Tensor, seeds: Tensor, positions: Tensor, temperatures: Tensor
) -> tuple[Tensor, Tensor]:
    """As `choose_unprocessed`, of what the device alone may know; and how likely each token was
    by softmax(logits / temperature), float32 [rows]: greedily, at temperature 1.

    Can be in a CUDA graph. temperatures: float32.
    """
    greedy = temperatures < GREEDY_BELOW
    scores = logits.to(torch.float32, copy=True)
    scores.div_(torch.where(greedy, 1.0, temperatures)[:, None])
    noisy = _noisy_argmax(scores if scores.is_cuda else scores.clone(), seeds, positions)
    tokens = torch.where(greedy, logits.argmax(dim=-1), noisy)
    chosen = scores.gather(1, tokens[:, None])[:, 0]
    return tokens, (chosen - scores.logsumexp(dim=1)).exp()


def moved(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """A copy on the device; a GPU is not waited for."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":  # a copy from pageable memory would wait for the running forward
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _argmax(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """int64 [rows]; rows without noise or processor cost their argmax and nothing else."""
    others = [index for index, row in enumerate(rows) if not is_plain(row)]
    if len(others) == len(rows):
        return _processed_argmax(logits, rows)
    choices = logits.argmax(dim=-1)
    if others:
        choices[others] = _processed_argmax(logits[others], [rows[index] for index in others])
    return choices


def _processed_argmax(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """int64 [rows]: of a processed copy, with noise where the temperature is not 0."""
    scores = process(logits.to(torch.float32, copy=True), rows)
    noisy = [index for index, row in enumerate(rows) if not row.greedy]
    if not noisy:
        return scores.argmax(dim=-1)
    keys = [(signed(rows[index].sampling.seed), rows[index].position) for index in noisy]
    seeds, positions = torch.tensor(keys, device=logits.device).T.contiguous()
    if len(noisy) == len(rows):
        return _noisy_argmax(scores, seeds, positions)
    choices = scores.argmax(dim=-1)
    choices[noisy] = _noisy_argmax(scores[noisy], seeds, positions)
    return choices


def _noisy_argmax(scores: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    """int64 [rows]: argmax of scores + noise, which on a GPU never lies in memory."""
    if scores.is_cuda:
        from wisp.sampling.fused import noisy_argmax

        return noisy_argmax(scores, seeds, positions)
    return scores.add_(gumbel_torch(seeds, positions, scores.shape[1])).argmax(dim=-1)


def _logprobs(
    logits: Tensor, rows: Sequence[Row], tokens: Sequence[int]
) -> list[TokenLogprob | None]:
    """From the model's own distribution: before any processor and at temperature 1."""
    found: list[TokenLogprob | None] = [None] * len(rows)
    numbers = [(i, n) for i, row in enumerate(rows) if (n := row.sampling.num_logprobs) is not None]
    if not numbers:
        return found
    asked = [index for index, _ in numbers]
    logprobs = logits[asked].float().log_softmax(dim=-1)
    chosen = torch.tensor([tokens[index] for index in asked], device=logits.device)
    own = logprobs.gather(-1, chosen[:, None])[:, 0].tolist()
    top = logprobs.topk(min(max(n for _, n in numbers), logits.shape[1]), dim=-1)
    likely = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    for (index, n), logprob, (ids, values) in zip(numbers, own, likely, strict=True):
        found[index] = TokenLogprob(logprob, list(zip(ids[:n], values[:n], strict=True)))
    return found
