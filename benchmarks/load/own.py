"""The drafter of wisp-server under load: its work is real, how right it is is given.

It has the shape of the peers' drafter and, as the target, predictable weights: so its chain is the
target's text, replayed. Of each session's drafts some are made wrong behind the drafter's own
sampling, as many as of the edges' (`benchmarks.load.texts`); what follows a wrong one is wrong too.

An EAGLE-3 head has random weights. It computes all that it has to, and then the token behind the
one that it was given is likeliest, whatever was computed.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load.target import SEED, own_drafter_of, write_config, write_head
from benchmarks.load.texts import session_acceptance

MAX_OWN = 6  # own drafts of a session; chosen: as many as the peers' drafter has at most
ACCEPTANCE_FLAG = "--own-acceptance="
# Base of a token's digits, of which three are written into a head's hidden states. Chosen: bfloat16
# has each of them exactly, and three are enough for every vocabulary.
_BASE = 64
_SURE = 1e4  # the likeliest token's logit; chosen: above what random weights make
# Added to a token that is to be wrong. Chosen: any number does that is not the target's step of 1.
_ASTRAY = 7


def drafter_flags(folder: Path, shape: str, acceptance: float, *, is_head: bool) -> list[str]:
    """Of `benchmarks.load.server`; the drafter goes into `folder`."""
    if is_head:
        drafter = write_head(folder / "drafter", shape)
    else:
        drafter = write_config(folder / "drafter", own_drafter_of(shape), shape)
    return [
        f"--engine.drafter.method={'eagle3' if is_head else 'draft_model'}",
        f"--engine.drafter.model={drafter}",
        f"--engine.drafter.max_tokens={MAX_OWN}",
        f"{ACCEPTANCE_FLAG}{acceptance:g}",
    ]


def replay(head: Any, vocab_size: int) -> None:
    """Let a head, a module of vLLM's, draft the predictable target's text."""
    forward, compute_logits = head.forward, head.compute_logits

    def with_digits(input_ids: Any, *args: Any, **more: Any) -> Any:
        seen, states = forward(input_ids, *args, **more)
        seen = seen.clone()
        for digit in range(3):
            seen[:, digit] = (input_ids // _BASE**digit % _BASE).to(seen.dtype)
        return seen, states

    def sure(seen: Any) -> Any:
        logits = compute_logits(seen)
        digits = seen[:, :3].long()
        given = digits[:, 0] + digits[:, 1] * _BASE + digits[:, 2] * _BASE**2
        return logits.scatter(1, ((given + 1) % vocab_size)[:, None], _SURE)

    head.forward, head.compute_logits = with_digits, sure


def make_doubtful(acceptance: float) -> None:
    """From now on own drafts of this process's vLLM are right with this probability. Ranks draft
    the same: each draws from a generator of its own, with one seed."""
    import torch

    from wisp.verifier.vllm.own_proposer import OwnProposer

    @lru_cache(maxsize=65536)
    def of_session(seed: int) -> float:
        return session_acceptance(acceptance, seed & 0xFFFFFFFF)

    @lru_cache
    def generator(device: torch.device) -> torch.Generator:
        return torch.Generator(device).manual_seed(SEED)

    right = OwnProposer._sample

    def sample(self: Any, hidden_states: Any) -> Any:
        tokens = right(self, hidden_states)
        chances = np.array([of_session(seed) for seed in self._seeds.tolist()], np.float32)
        device = tokens.device
        drawn = torch.rand(len(tokens), device=device, generator=generator(device))
        is_right = drawn < torch.from_numpy(chances).to(device, non_blocking=True)
        return torch.where(is_right, tokens, tokens - _ASTRAY).clamp(min=0)

    OwnProposer._sample = sample  # type: ignore[method-assign]
