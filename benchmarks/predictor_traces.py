"""What a drafter proposes at every position of the target's own text, and past each wrong one.

A round of drafting begins from committed text, and what it drafts behind its first rejected token
is discarded. So two recordings replay every drafting policy: the proposals behind the target's own
text, and those that the drafter goes on to make behind each of its own wrong tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wisp.config import TINY
from wisp.core.request import Sampling
from wisp.edge.drafter.base import DraftJob, Proposal
from wisp.edge.drafter.propose import propose
from wisp.edge.predictor.base import Repeats
from wisp.models.draft_vocabulary import Vocabulary, read_vocabulary
from wisp.models.slots import Item, SlotModel
from wisp.models.tokenizer import Tokenizer
from wisp.sampling.choice import choose
from wisp.sampling.processors import Row
from wisp.verifier.torch import eos_token_ids

CHUNK = 512  # tokens of a prompt in one forward


class Draft(NamedTuple):
    proposal: Proposal
    repeats: int  # as in wisp.edge.predictor.Features, had all drafts before it been committed


@dataclass(frozen=True, slots=True)
class Trace:
    """One text of the target."""

    temperature: float
    drafts: list[Draft]  # at each position, behind the target's own text
    accepted: list[bool]
    beyond: dict[int, list[Draft]]  # those that would follow the wrong draft at a position
    chances: list[float]  # P(accepted) as the target itself has it: 0 or 1 at temperature 0


@dataclass(slots=True)
class Text:
    """A trace in the making."""

    tokens: list[int]
    num_prompt: int
    sampling: Sampling

    @property
    def truth(self) -> list[int]:
        return self.tokens[self.num_prompt :]

    def jobs(self) -> list[DraftJob]:
        """To draft each of its tokens behind those before it."""
        positions = range(self.num_prompt, len(self.tokens))
        return [DraftJob(0, self.tokens[:position], self.sampling) for position in positions]


def record(
    target: Path,
    draft: Path,
    temperatures: Sequence[float],
    max_tokens: int,
    window: int,
    seed: int,
    asked: Path = TINY / "prompts.json",
    num: int | None = None,
) -> list[Trace]:
    """A trace for each held-out prompt and temperature, prompt by prompt.

    `num` of those `asked`, evenly from all of them; None: each.
    """
    tokenizer = Tokenizer(draft)
    listed: list[dict[str, Any]] = json.loads(asked.read_text())
    num = len(listed) if num is None else min(num, len(listed))
    prompts = [listed[index * len(listed) // num] for index in range(num)]
    texts = []
    for index, prompt in enumerate(prompts):
        tokens = encode(tokenizer, prompt)
        for temperature in temperatures:
            sampling = Sampling(max_tokens=max_tokens, seed=seed + index, temperature=temperature)
            texts.append(Text(list(tokens), len(tokens), sampling))
    longest = max(text.num_prompt for text in texts) + max_tokens + window
    judge = SlotModel(target, len(texts), longest, num_threads=1)
    write(judge, texts, eos_token_ids(target, judge.config.eos_token_id))
    drafter = SlotModel(draft, len(texts), longest, num_threads=1)
    names = read_vocabulary(draft, drafter.vocab_size)
    proposals = [
        propose(
            logits_of(drafter, names.own(text.tokens[:-1]), len(text.truth), slot).numpy(),
            text.jobs(),
            names.ids,
        )
        for slot, text in enumerate(texts)
    ]
    beyond = _draft_on(drafter, names, texts, proposals, window - 1)
    chances = [
        _chances(judge, text, found, slot)
        for slot, (text, found) in enumerate(zip(texts, proposals, strict=True))
    ]
    return [_trace(*parts) for parts in zip(texts, proposals, beyond, chances, strict=True)]


def encode(tokenizer: Tokenizer, prompt: dict[str, Any]) -> list[int]:
    if prompt["kind"] == "text":
        return tokenizer.encode(prompt["prompt"])
    return tokenizer.encode_chat([{"role": "user", "content": prompt["prompt"]}])


def write(model: SlotModel, texts: list[Text], ends: Sequence[int]) -> None:
    """The target's own texts, by its own choices (wisp.sampling), all in one batch."""
    logits = torch.cat([logits_of(model, text.tokens, 1, slot) for slot, text in enumerate(texts)])
    running = list(range(len(texts)))
    while running:
        rows = [
            Row(texts[i].sampling, texts[i].tokens, texts[i].num_prompt, len(texts[i].tokens))
            for i in running
        ]
        for index, token in zip(running, choose(logits, rows)[0], strict=True):
            texts[index].tokens.append(token)
        running = [
            i
            for i in running
            if texts[i].tokens[-1] not in ends
            and len(texts[i].truth) < texts[i].sampling.max_tokens
        ]
        if running:
            ready = [(i, texts[i].tokens) for i in running]
            logits = model.forward([Item(i, len(t) - 1, t[-1:], 1) for i, t in ready])


def _draft_on(
    model: SlotModel,
    names: Vocabulary,
    texts: list[Text],
    proposals: list[list[Proposal]],
    length: int,
) -> list[dict[int, list[Proposal]]]:
    """What follows each wrong draft, from the last to the first: a slot keeps what is before it."""
    pending = [_wrong(text, found) for text, found in zip(texts, proposals, strict=True)]
    beyond: list[dict[int, list[Proposal]]] = [{} for _ in texts]
    while any(pending):
        slots = [slot for slot, places in enumerate(pending) if places]
        places = {slot: pending[slot].pop() for slot in slots}
        latest = {slot: proposals[slot][places[slot]] for slot in slots}
        for ahead in range(length):
            items = [
                Item(
                    slot,
                    texts[slot].num_prompt + places[slot] + ahead,
                    names.own([latest[slot].token]),
                    1,
                )
                for slot in slots
            ]
            jobs = [
                DraftJob(slot, range(item.start + 1), texts[slot].sampling)
                for slot, item in zip(slots, items, strict=True)
            ]
            found = propose(model.forward(items).numpy(), jobs, names.ids)
            latest = dict(zip(slots, found, strict=True))
            for slot in slots:
                beyond[slot].setdefault(places[slot], []).append(latest[slot])
    return beyond


def _wrong(text: Text, proposals: list[Proposal]) -> list[int]:
    pairs = zip(proposals, text.truth, strict=True)
    return [index for index, (proposal, token) in enumerate(pairs) if proposal.token != token]


def _chances(model: SlotModel, text: Text, proposals: list[Proposal], slot: int) -> list[float]:
    drafts = [proposal.token for proposal in proposals]
    temperature = text.sampling.temperature
    if temperature == 0:
        return [float(draft == token) for draft, token in zip(drafts, text.truth, strict=True)]
    logits = logits_of(model, text.tokens[:-1], len(drafts), slot) / temperature
    chances: list[float] = logits.softmax(-1)[torch.arange(len(drafts)), drafts].tolist()
    return chances


def _trace(
    text: Text,
    proposals: list[Proposal],
    beyond: dict[int, list[Proposal]],
    chances: list[float],
) -> Trace:
    seen = Repeats(text.tokens[: text.num_prompt])
    drafts: list[Draft] = []
    behind: dict[int, list[Draft]] = {}
    for index, (proposal, token) in enumerate(zip(proposals, text.truth, strict=True)):
        before = text.tokens[max(0, text.num_prompt + index - 2) : text.num_prompt + index]
        drafts.append(Draft(proposal, seen.agree(before, proposal.token)))
        if proposal.token != token:
            before = [*before, proposal.token]
            behind[index] = []
            for further in beyond[index]:
                behind[index].append(Draft(further, seen.agree(before, further.token)))
                before.append(further.token)
        seen.extend([token])
    accepted = [p.token == token for p, token in zip(proposals, text.truth, strict=True)]
    return Trace(text.sampling.temperature, drafts, accepted, behind, chances)


def logits_of(model: SlotModel, tokens: Sequence[int], num_last: int, slot: int) -> Tensor:
    """Of the last `num_last` tokens, computed in chunks that bound the memory."""
    found = []
    for first in range(0, len(tokens), CHUNK):
        part = tokens[first : first + CHUNK]
        wanted = max(0, min(len(part), first + len(part) - (len(tokens) - num_last)))
        logits = model.forward([Item(slot, first, part, wanted)])
        if wanted:
            found.append(logits)
    return torch.cat(found)
