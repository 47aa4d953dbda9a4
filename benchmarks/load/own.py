"""The drafter of wisp-server under load: its work is real, how right it is is given.

It has the shape of the peers' drafter and, as the target, predictable weights: so its chain is the
target's text, replayed. Of each session's drafts some are made wrong behind the drafter's own
sampling, as many as of the edges' (`benchmarks.load.texts`); what follows a wrong one is wrong too.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load.target import SEED, own_drafter_of, write_config
from benchmarks.load.texts import session_acceptance

MAX_OWN = 6  # own drafts of a session; chosen: as many as the peers' drafter has at most
ACCEPTANCE_FLAG = "--own-acceptance="
# Added to a token that is to be wrong. Chosen: any number does that is not the target's step of 1.
_ASTRAY = 7


def drafter_flags(folder: Path, shape: str, acceptance: float) -> list[str]:
    """Of `benchmarks.load.server`; the drafter goes into `folder`."""
    drafter = write_config(folder / "drafter", own_drafter_of(shape), shape)
    return [
        "--engine.drafter.method=draft_model",
        f"--engine.drafter.model={drafter}",
        f"--engine.drafter.max_tokens={MAX_OWN}",
        f"{ACCEPTANCE_FLAG}{acceptance:g}",
    ]


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
