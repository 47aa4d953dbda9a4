from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wisp.core.request import Sampling
from wisp.sampling.choice import choose, choose_likely, choose_unprocessed
from wisp.sampling.draft import rank
from wisp.sampling.philox import gumbel_numpy, signed
from wisp.sampling.processors import Row, needs_processing, process

VOCAB = 301  # no multiple of four, nor of a vector's width


def sampling(**changes: Any) -> Sampling:
    return Sampling(**{"max_tokens": 100, "seed": 7, **changes})


def row_of(position: int, **changes: Any) -> Row:
    return Row(sampling(**changes), [3] * position, 1, position)


def logits_of(num_rows: int, vocab: int = VOCAB, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, vocab, generator=torch.Generator().manual_seed(seed)) * 2


def choice(logits: Tensor, row: Row) -> int:
    return choose(logits[None], [row])[0][0]


KINDS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.0, "repetition_penalty": 1.3},
    {"temperature": 0.0, "logit_bias": {5: 4.0}, "num_logprobs": 2},
    {},
    {"temperature": 0.7},
    {"temperature": 1.3, "top_p": 0.8},
    {"top_k": 20},
    {"min_p": 0.05, "temperature": 1.5},
    {"frequency_penalty": 0.4, "presence_penalty": 0.3, "num_logprobs": 0},
    {"min_tokens": 40, "stop_token_ids": (1, 2, 3), "top_k": 7, "top_p": 0.9},
]


def test_a_choice_is_the_same_in_every_batch_and_order() -> None:
    random = np.random.default_rng(1)
    tokens = random.integers(0, VOCAB, 64).tolist()
    rows = [
        Row(sampling(seed=int(random.integers(2**64, dtype=np.uint64)), **kind), tokens, 5, 5 + i)
        for i, kind in enumerate(KINDS * 5)
    ]
    logits = logits_of(len(rows))
    alone = [choice(logits[i], row) for i, row in enumerate(rows)]
    for size in (2, 7, 50):
        order = random.permutation(len(rows))[:size].tolist()
        found, _ = choose(logits[order], [rows[i] for i in order])
        assert found == [alone[i] for i in order]


def test_a_choice_depends_on_the_seed_and_the_position() -> None:
    flat = torch.zeros(1000)
    by_seed = {choice(flat, row_of(9, seed=seed)) for seed in (1, 2, 2**32 + 1, 2**63 + 1)}
    by_position = {choice(flat, row_of(position)) for position in range(4)}
    assert len(by_seed) == 4
    assert len(by_position) == 4


def test_the_law_in_numpy() -> None:
    """argmax(logits / temperature + gumbel(seed, position, token))."""
    seed = 2**63 + 12345
    logits = logits_of(20)
    rows = [row_of(i, seed=seed, temperature=0.8) for i in range(20)]
    noise = gumbel_numpy(np.full(20, seed, np.uint64), np.arange(20), VOCAB)
    expected = (logits.numpy() / np.float32(0.8) + noise).argmax(axis=-1)
    assert choose(logits, rows)[0] == expected.tolist()


# 0 and 1e-6 are below what counts as a temperature; 1e-4 is a real one, whose noise cannot matter.
@pytest.mark.parametrize("temperature", [0.0, 1e-6, 1e-4])
def test_no_temperature_is_the_argmax_and_the_lowest_id_wins_a_tie(temperature: float) -> None:
    logits = torch.tensor([0.0, 5.0, 1.0, 5.0])
    if temperature > 1e-5:
        logits[3] = 4.0
    rows = [row_of(position, temperature=temperature) for position in range(50)]
    assert choose(logits.repeat(50, 1), rows)[0] == [1] * 50


@pytest.mark.parametrize(
    "changes",
    [
        {"logit_bias": {0: 100.0}},
        {"min_tokens": 200, "stop_token_ids": tuple(range(150))},
        {"repetition_penalty": 1e-6},
        {"frequency_penalty": -2.0},
        {"presence_penalty": -2.0},
    ],
)
def test_processors_move_a_greedy_choice_and_noise_does_not(changes: dict[str, Any]) -> None:
    """Also beside rows that have noise."""
    logits = logits_of(100)
    tokens = [0] * 110
    greedy = Row(sampling(temperature=0.0, **changes), tokens, 1, 105)
    noisy = Row(sampling(), tokens, 1, 105)
    found = choose(logits, [greedy, noisy] * 50)[0][::2]
    assert found == process(logits[::2].clone(), [greedy] * 50).argmax(dim=-1).tolist()
    assert found != logits[::2].argmax(dim=-1).tolist()


def test_the_logits_are_left_as_they_are() -> None:
    logits = logits_of(len(KINDS))
    before = logits.clone()
    choose(logits, [row_of(9, **kind) for kind in KINDS])
    choose(logits, [row_of(9, top_k=3)] * len(KINDS))
    assert torch.equal(logits, before)


def test_half_precision_logits_choose_as_their_float32_values() -> None:
    logits = logits_of(len(KINDS)).bfloat16()
    rows = [row_of(9, **kind) for kind in KINDS]
    assert choose(logits, rows)[0] == choose(logits.float(), rows)[0]


def test_an_empty_batch() -> None:
    assert choose(torch.empty(0, VOCAB), []) == ([], [])


def test_rows_and_logits_must_match() -> None:
    with pytest.raises(ValueError, match="2 rows of logits for 1"):
        choose(logits_of(2), [row_of(1)])


# The distribution of choices.


def chi_square(observed: np.ndarray[Any, np.dtype[np.int64]], p: Tensor) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom; cells that expect under 5 are merged."""
    expected = p.double().numpy() * observed.sum()
    rare = expected < 5
    cells = [*zip(observed[~rare], expected[~rare], strict=True)]
    if expected[rare].sum() >= 5:
        cells.append((observed[rare].sum(), expected[rare].sum()))
    return sum((o - e) ** 2 / e for o, e in cells), len(cells) - 1


@pytest.mark.parametrize("temperature", [0.7, 1.3])
@pytest.mark.parametrize(
    "filters", [{}, {"top_k": 8}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_k": 10, "top_p": 0.9}]
)
def test_choices_follow_the_softmax_of_the_processed_logits(
    temperature: float, filters: dict[str, Any]
) -> None:
    num, vocab = 8_000, 30
    logits = logits_of(1, vocab, seed=3) * 0.7
    s = sampling(temperature=temperature, seed=2**63 + 99, **filters)
    tokens = [0] * num
    rows = [Row(s, tokens, 1, position) for position in range(num)]
    found, _ = choose(logits.expand(num, vocab), rows)
    observed = np.bincount(found, minlength=vocab)
    p = process(logits.clone(), rows[:1])[0].softmax(dim=-1)
    assert not observed[(p == 0).numpy()].any()
    statistic, freedom = chi_square(observed, p)
    assert freedom >= 3
    # Wilson and Hilferty's approximation of the 99.9 % quantile.
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3


def test_neighbouring_positions_are_independent() -> None:
    num = 10_000
    tokens = [0] * num
    rows = [Row(sampling(), tokens, 1, position) for position in range(num)]
    found = np.array(choose(torch.zeros(num, 4), rows)[0])
    pairs = np.bincount(4 * found[:-1] + found[1:], minlength=16)
    statistic, freedom = chi_square(pairs, torch.full((16,), 1 / 16))
    assert freedom == 15
    assert statistic < 37.7  # 99.9 %


# Logprobs.


def test_logprobs_are_of_the_unprocessed_distribution() -> None:
    logits = logits_of(3)
    rows = [
        row_of(9, temperature=0.3, logit_bias={11: 50.0}, num_logprobs=4),
        row_of(9),
        row_of(9, temperature=0.0, num_logprobs=0),
    ]
    tokens, found = choose(logits, rows)
    assert tokens[0] == 11
    p = logits.double().softmax(dim=-1)
    first, none, last = found
    assert first is not None
    assert last is not None
    assert none is None
    assert first.logprob == pytest.approx(math.log(p[0, 11]), abs=1e-5)
    assert last.logprob == pytest.approx(math.log(p[2].max()), abs=1e-5)
    assert last.top == []
    order = p[0].argsort(descending=True)[:4].tolist()
    assert [token for token, _ in first.top] == order
    assert [v for _, v in first.top] == pytest.approx([math.log(p[0, t]) for t in order], abs=1e-5)


def test_more_logprobs_than_tokens_are_all_of_them() -> None:
    _, [found] = choose(logits_of(1, 5), [row_of(3, num_logprobs=20)])
    assert found is not None
    assert sorted(token for token, _ in found.top) == [0, 1, 2, 3, 4]


# The edge's form.


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_a_draft_with_the_same_logits_is_the_choice(temperature: float) -> None:
    logits = logits_of(60)
    rows = [row_of(i, temperature=temperature, seed=2**64 - 1 - i) for i in range(60)]
    ranked = rank(logits.numpy(), [row.sampling for row in rows], range(60), 1)
    assert [each.tokens[0] for each in ranked] == choose(logits, rows)[0]


@pytest.mark.parametrize("temperatures", [[0.0], [0.7], [0.0, 1.0, 0.3, 1.7]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_arrays_of_rows_give_the_same_choices(
    temperatures: list[float], dtype: torch.dtype
) -> None:
    seeds = [3, 2**64 - 5, 2**63, 12345678901234567]
    rows = [
        row_of(5 + number, temperature=temperature, seed=seeds[number % 4])
        for number, temperature in enumerate(temperatures * 8)
    ]
    logits = logits_of(len(rows)).to(dtype)
    given = np.array([signed(row.sampling.seed) for row in rows])
    positions = torch.tensor([row.position for row in rows])
    heat = np.array([row.sampling.temperature for row in rows], np.float32)
    choices = choose_unprocessed(logits, given, positions, heat)
    assert choices.tolist() == choose(logits, rows)[0]
    on_device = torch.from_numpy(given), positions, torch.from_numpy(heat)
    tokens, likelihoods = choose_likely(logits, *on_device)
    assert tokens.tolist() == choices.tolist()
    divisors = torch.from_numpy(np.where(heat < 1e-5, np.float32(1), heat))[:, None]
    chances = torch.softmax(logits.float() / divisors, dim=1)
    assert torch.allclose(likelihoods, chances[range(len(rows)), tokens], rtol=1e-4)


def test_only_temperature_and_seed_need_no_processing() -> None:
    for kind in [*KINDS, {"num_logprobs": 2}]:
        other = set(kind) - {"temperature", "num_logprobs"}
        assert needs_processing(sampling(**kind)) == bool(other)
