"""What can be asked of a target: each check once, with one text, for every front."""

from __future__ import annotations

import math

import pytest
from msgspec import structs

from wisp.core.card import ModelCard
from wisp.core.request import Request, Sampling, check_sampling
from wisp.errors import BadRequest, ModelNotFound, PromptTooLong

CARD = ModelCard(id="target", created=0, max_model_len=8, vocab_size=10, eos_token_ids=(0,))
REQUEST = Request(prompt=[1, 2, 3], sampling=Sampling(max_tokens=5, seed=1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_k", -2),
        ("top_k", 2**31),  # the wire has no room for more
        ("min_p", 1.5),
        ("min_tokens", 2),
        ("presence_penalty", math.inf),
        ("frequency_penalty", math.nan),
        ("repetition_penalty", 0.0),
        ("logit_bias", {1: math.inf}),
        ("num_logprobs", 21),  # the logprobs of a whole vocabulary would hold all others up
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: object) -> None:
    with pytest.raises(BadRequest, match=name):
        check_sampling(Sampling(**{"max_tokens": 1, "seed": 0, name: value}))  # type: ignore[arg-type]


def test_the_range_is_told() -> None:
    with pytest.raises(BadRequest, match="top_p is above 0 to 1, not 0") as caught:
        check_sampling(structs.replace(REQUEST.sampling, top_p=0.0))
    assert caught.value.param == "top_p"
    with pytest.raises(BadRequest, match="max_tokens is at least 1, not 0"):
        check_sampling(structs.replace(REQUEST.sampling, max_tokens=0))


def test_what_fits_is_taken() -> None:
    CARD.check(REQUEST)
    CARD.check(structs.replace(REQUEST, committed=[1, 2, 3, 4]))


@pytest.mark.parametrize(
    ("change", "param", "sentence"),
    [
        ({"prompt": []}, "prompt", "the prompt is empty"),
        ({"prompt": [10]}, "prompt", "prompt holds token 10, but the model's are 0 to 9"),
        ({"committed": [-1]}, "committed", "committed holds token -1"),
        ({"committed": [1] * 5}, "committed", "already complete"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, list[int]], param: str, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence) as caught:
        CARD.check(structs.replace(REQUEST, **change))
    assert caught.value.param == param


def test_prompt_and_answer_fit_the_context() -> None:
    with pytest.raises(PromptTooLong, match=r"has 4 and the answer may have 5: .* at most 4"):
        CARD.check(structs.replace(REQUEST, prompt=[1] * 4))
    with pytest.raises(PromptTooLong, match=r"shorten the prompt$"):
        CARD.check(structs.replace(REQUEST, prompt=[1] * 8))


def test_a_name_is_the_target_or_an_adapter() -> None:
    card = structs.replace(CARD, adapters=("law",))
    assert (card.adapter("target"), card.adapter("law")) == (None, "law")
    with pytest.raises(ModelNotFound, match="use 'target' or 'law'"):
        card.adapter("other")
