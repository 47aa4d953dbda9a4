from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wisp.core.request import Sampling
from wisp.sampling.processors import Row, is_plain, process

VOCAB = 12
GREEDY = 0.0


def sampling(
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    repetition_penalty: float = 1.0,
    logit_bias: dict[int, float] | None = None,
    min_tokens: int = 0,
    stop_token_ids: tuple[int, ...] = (),
) -> Sampling:
    return Sampling(
        max_tokens=100,
        seed=1,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        repetition_penalty=repetition_penalty,
        logit_bias=logit_bias or {},
        min_tokens=min_tokens,
        stop_token_ids=stop_token_ids,
    )


def reference(logits: Sequence[float], row: Row) -> list[float]:
    """Every processor, written from its definition, one token at a time."""
    s = row.sampling
    context = list(row.tokens[: row.position])
    output = context[row.num_prompt :]
    x = list(logits)
    for token, bias in s.logit_bias.items():
        x[token] += bias
    if len(output) < s.min_tokens:
        for token in s.stop_token_ids:
            x[token] = -math.inf
    for token in range(len(x)):
        if token in context:
            good = x[token] > 0
            x[token] = x[token] / s.repetition_penalty if good else x[token] * s.repetition_penalty
        x[token] -= s.frequency_penalty * output.count(token)
        x[token] -= s.presence_penalty * (token in output)
    if s.temperature == 0.0:
        return x
    x = [value / s.temperature for value in x]
    best = max(x)
    if s.min_p > 0:
        x = [v if math.exp(v - best) >= s.min_p else -math.inf for v in x]
    if s.top_k > 0:
        least = sorted(x, reverse=True)[min(s.top_k, len(x)) - 1]
        x = [v if v >= least else -math.inf for v in x]
    if s.top_p < 1:
        total = sum(math.exp(v - best) for v in x)
        mass, least = 0.0, best
        for value in sorted(x, reverse=True):
            if mass >= s.top_p * total:
                break
            mass, least = mass + math.exp(value - best), value
        x = [v if v >= least else -math.inf for v in x]
    return x


def processed(logits: Sequence[float], row: Row) -> list[float]:
    found: list[float] = process(torch.tensor([logits]), [row])[0].tolist()
    return found


def kept(values: Sequence[float]) -> set[int]:
    return {token for token, value in enumerate(values) if value > -math.inf}


def row_of(given_sampling: Sampling, tokens: Sequence[int] = (1, 2), num_prompt: int = 2) -> Row:
    return Row(given_sampling, tokens, num_prompt, len(tokens))


# By hand, one processor at a time.


def test_logit_bias() -> None:
    row = row_of(sampling(logit_bias={0: 2.5, 3: -100.0}))
    assert processed([1.0, 1.0, 1.0, 1.0], row) == [3.5, 1.0, 1.0, -99.0]


@pytest.mark.parametrize(("num_output", "masked"), [(0, True), (1, True), (2, False)])
def test_stop_tokens_are_masked_before_min_tokens(num_output: int, masked: bool) -> None:
    tokens = [0, 0] + [1] * num_output
    row = row_of(sampling(temperature=GREEDY, min_tokens=2, stop_token_ids=(1, 3)), tokens)
    expected = [0.0, -math.inf, 0.0, -math.inf] if masked else [0.0] * 4
    assert processed([0.0] * 4, row) == expected


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_once() -> None:
    row = row_of(sampling(repetition_penalty=2.0), [0, 1, 1, 1], num_prompt=2)
    assert processed([4.0, -4.0, 4.0, -4.0], row) == [2.0, -8.0, 4.0, -4.0]


def test_frequency_and_presence_penalties_count_the_output_only() -> None:
    row = row_of(
        sampling(frequency_penalty=0.5, presence_penalty=0.25), [0, 0, 1, 2, 2], num_prompt=2
    )
    assert processed([0.0] * 4, row) == [0.0, -0.75, -1.25, 0.0]


def test_temperature_divides_and_zero_does_not() -> None:
    assert processed([1.0, -3.0], row_of(sampling(temperature=0.5))) == [2.0, -6.0]
    assert processed([1.0, -3.0], row_of(sampling(temperature=GREEDY))) == [1.0, -3.0]


def test_min_p_is_relative_to_the_most_likely() -> None:
    logits = [math.log(p) for p in (0.5, 0.3, 0.12, 0.08)]
    assert kept(processed(logits, row_of(sampling(min_p=0.2)))) == {0, 1, 2}
    assert kept(processed(logits, row_of(sampling(min_p=1.0)))) == {0}


def test_top_k_keeps_all_tokens_tied_with_the_last() -> None:
    assert kept(processed([3.0, 1.0, 2.0, 2.0, 0.0], row_of(sampling(top_k=2)))) == {0, 2, 3}
    assert kept(processed([3.0, 1.0, 2.0, 2.0, 0.0], row_of(sampling(top_k=99)))) == set(range(5))


def test_top_p_keeps_the_token_that_reaches_it_and_its_ties() -> None:
    logits = [math.log(p) for p in (0.4, 0.2, 0.2, 0.1, 0.1)]
    assert kept(processed(logits, row_of(sampling(top_p=0.3)))) == {0}
    assert kept(processed(logits, row_of(sampling(top_p=0.5)))) == {0, 1, 2}
    assert kept(processed(logits, row_of(sampling(top_p=0.7)))) == {0, 1, 2}
    assert kept(processed(logits, row_of(sampling(top_p=0.99)))) == set(range(5))
    assert kept(processed(logits, row_of(sampling(top_p=0.0)))) == {0}


def test_top_p_stops_where_its_mass_is_reached() -> None:
    logits = [0.0, -0.1, -0.2, -200.0]  # the last weighs nothing: no top-p asks for it
    weights = [math.exp(value) for value in logits]
    two = sum(weights[:2]) / sum(weights)
    assert kept(processed(logits, row_of(sampling(top_p=two - 1e-6)))) == {0, 1}
    assert kept(processed(logits, row_of(sampling(top_p=two + 1e-6)))) == {0, 1, 2}
    assert kept(processed(logits, row_of(sampling(top_p=1 - 1e-9)))) == {0, 1, 2}


def test_top_p_weighs_a_row_by_its_own_most_likely_token() -> None:
    logits = torch.tensor([1.0, 0.5, 0.0, -1.0])
    row = row_of(sampling(top_p=0.7))
    found = process(torch.stack([logits, logits + 64.0]), [row, row])
    assert kept(found[0].tolist()) == kept(found[1].tolist()) == {0, 1}


@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0, 3.0])
def test_top_p_on_a_vocabulary_wider_than_the_first_look(spread: float) -> None:
    logits = torch.randn(3, 6000, generator=torch.Generator().manual_seed(4)) * spread
    row = row_of(sampling(top_p=0.9))
    found = process(logits.clone(), [row] * 3)
    for before, after in zip(logits, found, strict=True):
        p, order = before.double().softmax(-1).sort(descending=True)
        size = int((p.cumsum(-1) < 0.9 - 1e-12).sum()) + 1
        least = before[order[size - 1]]
        assert torch.equal(after > -torch.inf, before >= least)


def test_top_p_follows_top_k() -> None:
    logits = [math.log(p) for p in (0.4, 0.3, 0.2, 0.1)]
    # Of the two most likely, renormalized to 4/7 and 3/7, the first alone has half of the mass.
    assert kept(processed(logits, row_of(sampling(top_k=2, top_p=0.5)))) == {0}
    assert kept(processed(logits, row_of(sampling(top_p=0.5)))) == {0, 1}


def test_tokens_from_the_position_on_are_not_context() -> None:
    s = sampling(repetition_penalty=2.0, frequency_penalty=1.0, min_tokens=2, stop_token_ids=(5,))
    shared = [0, 1, 2, 3]
    for position in range(1, 5):
        whole = processed([1.0] * 6, Row(s, shared, 1, position))
        assert whole == processed([1.0] * 6, Row(s, shared[:position], 1, position))


# All together, against the reference.

# Multiples of 1/4 are exact in float32, and they tie often.
LOGITS = st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=VOCAB, max_size=VOCAB)
TOKEN = st.integers(0, VOCAB - 1)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    tokens = draw(st.lists(TOKEN, min_size=1, max_size=20))
    s = sampling(
        temperature=draw(st.sampled_from([0.0, 0.5, 0.7, 1.0, 1.3])),
        top_p=draw(st.sampled_from([1.0, 0.91, 0.53, 0.17])),
        top_k=draw(st.sampled_from([0, 1, 3, 7, 50])),
        min_p=draw(st.sampled_from([0.0, 0.013, 0.29])),
        presence_penalty=draw(st.sampled_from([0.0, 0.5, -0.5])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.25, -0.25])),
        repetition_penalty=draw(st.sampled_from([1.0, 2.0, 0.5])),
        logit_bias=draw(st.dictionaries(TOKEN, st.sampled_from([-2.0, 1.5]), max_size=3)),
        min_tokens=draw(st.integers(0, 12)),
        stop_token_ids=draw(st.sampled_from([(), (3,), (0, 7)])),
    )
    position = draw(st.integers(1, len(tokens)))
    return Row(s, tokens, draw(st.integers(1, position)), position)


@given(LOGITS, rows())
def test_the_reference(logits: list[float], row: Row) -> None:
    assert processed(logits, row) == pytest.approx(reference(logits, row), abs=1e-5)


@given(LOGITS, rows())
def test_a_plain_row_is_not_changed(logits: list[float], row: Row) -> None:
    if is_plain(row):
        assert processed(logits, row) == logits


@given(LOGITS, rows())
def test_some_token_always_survives(logits: list[float], row: Row) -> None:
    values = processed(logits, row)
    assert max(values) > -math.inf
    assert not any(map(math.isnan, values))


@settings(max_examples=50)
@given(st.lists(st.tuples(LOGITS, rows()), min_size=2, max_size=6))
def test_a_row_is_the_same_in_every_batch(batch: list[tuple[list[float], Row]]) -> None:
    together = process(torch.tensor([logits for logits, _ in batch]), [row for _, row in batch])
    for (logits, row), found in zip(batch, together.tolist(), strict=True):
        assert found == processed(logits, row)
