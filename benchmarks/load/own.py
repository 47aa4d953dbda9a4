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

from benchmarks.load.target import own_drafter_of, write_config, write_head
from benchmarks.load.texts import NUM_SESSIONS, session_acceptances

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
    """From now on own drafts of this process's vLLM are right with this probability. It is drawn
    from a session's seed and the position alone, so that ranks draft the same."""
    import torch

    from wisp.verifier.vllm.own_chain import OwnChain

    chances = torch.tensor(session_acceptances(acceptance))
    right = OwnChain.choose

    @lru_cache
    def of_sessions(device: torch.device) -> torch.Tensor:
        return chances.to(device)

    def choose(self: Any, hidden_states: Any, noise: Any) -> Any:
        tokens, likelihoods = right(self, hidden_states, noise)
        chance = of_sessions(tokens.device)[noise.seeds % NUM_SESSIONS]
        is_right = drawn(noise.seeds, noise.positions) < chance
        return torch.where(is_right, tokens, tokens - _ASTRAY).clamp(min=0), likelihoods

    OwnChain.choose = choose  # type: ignore[method-assign]


def drawn(seeds: Any, positions: Any) -> Any:
    """Uniform in [0, 1), float32 [n], by seed and position, int64 [n] each: in a CUDA graph no
    generator is needed. The mixing is that of splitmix64 (Steele, Lea, Flood, 2014), with signed
    shifts."""
    import torch

    mixed = seeds + positions * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        mixed = (mixed ^ (mixed >> shift)) * factor
    mixed = mixed ^ (mixed >> 31)
    return (mixed & 0xFFFFFF).to(torch.float32) / 2.0**24
