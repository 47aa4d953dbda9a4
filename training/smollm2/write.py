"""The target's answers, and what it thought of each next token, for the drafter to learn from.

A batch holds prompts of one length, so that attention needs no mask. Rows that have ended leave
the batch now and then.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

# The most likely tokens of each position that the drafter learns from. Chosen: they hold nearly
# all of the probability, and the rest costs memory.
TOP = 12
GROUP = 64  # tokens that are first looked at by the highest of them; it divides the vocabulary
# Steps between two looks at which rows have ended.
LOOK_EVERY = 16
_START = 1  # the token that begins a conversation
TEMPERATURES = (0.0, 0.0, 0.8)  # two thirds greedy, as most of the drafter's use is near it


@dataclass
class Written:
    """A stream of conversations [N]; where the target did not choose, `chosen` is False."""

    tokens: Tensor  # int32: the token at each place
    chosen: Tensor  # bool: whether the target had its say at this place
    top_ids: Tensor  # [N, TOP] int32: likeliest tokens for this place
    top_logprobs: Tensor  # [N, TOP] float16
    lengths: Tensor  # of each conversation, in tokens


# A kernel that is planned anew for each length, as cuDNN's is, would take longer to plan than run.
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Writer:
    """The target's forward over a plain KV cache, with nothing that a llama does not need."""

    def __init__(self, model: Any, eos: int) -> None:
        config = model.config
        self.eos, self.device = eos, next(model.parameters()).device
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.dim = config.hidden_size // self.heads
        self.eps = config.rms_norm_eps
        self.embedding = model.model.embed_tokens.weight
        # In float32: in bfloat16 two likely tokens would often have the same logit.
        self.head = self.embedding.float().T.contiguous()
        self.norm = model.model.norm.weight
        self.layers = [_layer(layer) for layer in model.model.layers]
        theta = config.rope_parameters["rope_theta"]
        steps = torch.arange(0, self.dim, 2, device=self.device).float() / self.dim
        self.frequencies = theta**-steps

    def new_cache(self, batch: int, length: int) -> list[list[Tensor]]:
        shape = (batch, self.kv_heads, length, self.dim)
        dtype = self.embedding.dtype
        return [
            [torch.empty(shape, device=self.device, dtype=dtype) for _ in range(2)]
            for _ in self.layers
        ]

    @torch.inference_mode()
    def forward(self, tokens: Tensor, start: int, cache: list[list[Tensor]]) -> Tensor:
        """Logits [B, vocab] of the last of tokens [B, T] at positions from `start` on."""
        batch, count = tokens.shape
        stop = start + count
        places = torch.arange(start, stop, device=self.device).float()
        angles = torch.outer(places, self.frequencies)
        angles = torch.cat((angles, angles), -1)
        cos, sin = angles.cos().to(self.embedding.dtype), angles.sin().to(self.embedding.dtype)
        x = F.embedding(tokens, self.embedding)
        for layer, (keys, values) in zip(self.layers, cache, strict=True):
            h = self._normed(x, layer["input"])
            mixed = h @ layer["qkv"]
            q, k, v = torch.split(
                mixed,
                [self.heads * self.dim, self.kv_heads * self.dim, self.kv_heads * self.dim],
                -1,
            )
            q = _turn(q.view(batch, count, self.heads, self.dim).transpose(1, 2), cos, sin)
            k = _turn(k.view(batch, count, self.kv_heads, self.dim).transpose(1, 2), cos, sin)
            keys[:, :, start:stop] = k
            values[:, :, start:stop] = v.view(batch, count, self.kv_heads, self.dim).transpose(1, 2)
            out = self._attend(q, keys[:, :, :stop], values[:, :, :stop])
            x = x + out.transpose(1, 2).reshape(batch, count, -1) @ layer["o"]
            h = self._normed(x, layer["post"])
            gate, up = (h @ layer["gate_up"]).chunk(2, -1)
            x = x + (F.silu(gate) * up) @ layer["down"]
        logits: Tensor = self._normed(x[:, -1], self.norm).float() @ self.head
        return logits

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        batch, _, count, _ = q.shape
        if count == 1:  # the queries that share a head of keys stand where positions would
            q = q.reshape(batch, self.kv_heads, -1, self.dim)
            out = F.scaled_dot_product_attention(q, keys, values)
            return out.reshape(batch, self.heads, 1, self.dim)
        group = self.heads // self.kv_heads
        keys, values = (t.repeat_interleave(group, 1) for t in (keys, values))
        return F.scaled_dot_product_attention(q, keys, values, is_causal=True)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.eps)

    @sdpa_kernel(KERNELS)
    @torch.inference_mode()
    def write(self, prompts: Tensor, num_new: int, temperature: Tensor) -> Written:
        """The conversations of prompts [B, P], each up to its end token or `num_new` tokens."""
        batch, num_prompt = prompts.shape
        cache = self.new_cache(batch, num_prompt + num_new)
        alive = torch.arange(batch, device=self.device)
        tokens = prompts.new_full((batch, num_prompt + num_new), self.eos)
        tokens[:, :num_prompt] = prompts
        ids = torch.zeros((batch, num_new, TOP), dtype=torch.int32, device=self.device)
        logprobs = torch.zeros((batch, num_new, TOP), dtype=torch.float16, device=self.device)
        lengths = torch.full((batch,), num_prompt + num_new, device=self.device)
        (sampled,) = torch.nonzero(temperature > 0, as_tuple=True)
        given, start = prompts, 0
        for step in range(num_new):
            logits = self.forward(given, start, cache)
            start = num_prompt + step
            values, found = top(logits)
            ids[alive, step] = found.int()
            logprobs[alive, step] = (values - logits.logsumexp(-1, keepdim=True)).half()
            given = found[:, :1].clone()
            if len(sampled):
                given[sampled] = _sample(logits[sampled], temperature[sampled])
            tokens[alive, start] = given[:, 0]
            before = lengths[alive]
            ends = (given[:, 0] == self.eos) & (before > start)
            lengths[alive] = torch.where(ends, start + 1, before)
            if step % LOOK_EVERY == LOOK_EVERY - 1:
                # Between two looks nothing waits for the GPU.
                (kept,) = torch.nonzero(lengths[alive] > start + 1, as_tuple=True)
                if len(kept) == 0:
                    break
                if len(kept) < 0.85 * len(alive):
                    alive, given, temperature = alive[kept], given[kept], temperature[kept]
                    (sampled,) = torch.nonzero(temperature > 0, as_tuple=True)
                    for layer in cache:  # one by one: two whole caches would not fit
                        layer[:] = [part[kept] for part in layer]
        return _stream(tokens, num_prompt, lengths, ids, logprobs)


def top(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The TOP highest of logits [B, vocab] and where they are.

    They are in the TOP groups with the highest heads, and to look through those is much faster.
    """
    batch, size = logits.shape
    groups = logits.view(batch, size // GROUP, GROUP)
    best = groups.amax(-1).topk(TOP).indices
    among = groups.gather(1, best[..., None].expand(-1, -1, GROUP)).flatten(1)
    values, places = among.topk(TOP)
    return values, best.gather(1, places // GROUP) * GROUP + places % GROUP


def _sample(logits: Tensor, temperature: Tensor) -> Tensor:
    """One token of each row, [rows, 1]."""
    chances = (logits / temperature[:, None]).softmax(-1)
    return (chances / torch.empty_like(chances).exponential_()).argmax(-1, keepdim=True)


def _layer(layer: Any) -> dict[str, Tensor]:
    attention, mlp = layer.self_attn, layer.mlp
    projections = attention.q_proj, attention.k_proj, attention.v_proj
    qkv = torch.cat([part.weight for part in projections])
    gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
    return {
        "input": layer.input_layernorm.weight,
        "qkv": qkv.T.contiguous(),
        "o": attention.o_proj.weight.T.contiguous(),
        "post": layer.post_attention_layernorm.weight,
        "gate_up": gate_up.T.contiguous(),
        "down": mlp.down_proj.weight.T.contiguous(),
    }


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def _stream(
    tokens: Tensor, num_prompt: int, lengths: Tensor, ids: Tensor, logprobs: Tensor
) -> Written:
    batch, total = tokens.shape
    places = torch.arange(total, device=tokens.device).expand(batch, total)
    kept = places < lengths[:, None]
    padding = (0, 0, num_prompt, 0)
    return Written(
        tokens=tokens[kept].int(),
        chosen=(places >= num_prompt)[kept],
        top_ids=F.pad(ids, padding)[kept],
        top_logprobs=F.pad(logprobs, padding)[kept],
        lengths=lengths,
    )


class FollowUps:
    """Conversations that ended, by length, until there are enough of one for a second question."""

    def __init__(self, questions: list[Tensor], enough: int, max_length: int) -> None:
        self._questions, self._enough, self._max_length = questions, enough, max_length
        self._ended: dict[int, list[Tensor]] = defaultdict(list)

    def add(self, written: Written, eos: int) -> None:
        for row in torch.split(written.tokens, written.lengths.tolist()):
            if len(row) <= self._max_length and row[-1] == eos and row[0] == _START:
                self._ended[len(row)].append(row)

    def take(self, rng: np.random.Generator) -> Tensor | None:
        """Prompts [B, P] that end with a new question; None while there are too few."""
        length = max(self._ended, key=lambda key: len(self._ended[key]), default=0)
        rows = self._ended.get(length, [])
        if len(rows) < self._enough:
            return None
        del self._ended[length]
        question = self._questions[rng.integers(len(self._questions))].to(rows[0].device)
        return torch.cat([torch.stack(rows), question.expand(len(rows), -1)], 1).long()


def write_for(
    writer: Writer,
    prompts: list[Tensor],
    follow_ups: FollowUps,
    seconds: float,
    num_new: int,
    seed: int,
) -> Written:
    """Batches of prompts, [B, P] each, until the time is over; then all that was written."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    found: list[Written] = []
    started, count = time.perf_counter(), 0
    order: list[int] = []
    while time.perf_counter() - started < seconds or not found:
        rows = follow_ups.take(rng)
        asked_again = rows is not None
        if rows is None:
            order = order or list(rng.permutation(len(prompts)))
            rows = prompts[order.pop()].to(writer.device)
        kinds = rng.choice(len(TEMPERATURES), len(rows))
        temperature = torch.tensor([TEMPERATURES[k] for k in kinds], device=writer.device)
        found.append(writer.write(rows, num_new, temperature))
        if not asked_again:
            follow_ups.add(found[-1], writer.eos)
        count += len(found[-1].tokens)
        if len(found) % 8 == 1:
            rate = count / (time.perf_counter() - started)
            print(f"wrote {count} tokens, {rate:.0f} a second, {rows.shape}", flush=True)
    names = Written.__dataclass_fields__
    return Written(*(torch.cat([getattr(w, name) for w in found]) for name in names))
