"""Answers that keep to a structure, with drafts and without."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.vllm.driver import Driver, finish, prompts, step
from wisp.config import TINY
from wisp.core.request import Sampling, Structure
from wisp.core.session import Session
from wisp.errors import BadRequest
from wisp.models.tokenizer import Tokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["river", "mountain"]},
        "size": {"type": "integer", "minimum": 0, "maximum": 9999},
    },
    "required": ["name", "kind", "size"],
    "additionalProperties": False,
}
CHOICES = ["a small river", "a large mountain"]


def _is_record(text: str) -> bool:
    found = json.loads(text)
    return (
        set(found) == {"name", "kind", "size"}
        and len(found["name"]) <= 12
        and found["kind"] in ("river", "mountain")
        and 0 <= found["size"] <= 9999
    )


CASES: list[tuple[Structure, Callable[[str], object]]] = [
    (Structure("json", json.dumps(SCHEMA)), _is_record),
    (Structure("regex", r"[a-z]{3,8}-[0-9]{2}"), re.compile(r"[a-z]{3,8}-[0-9]{2}").fullmatch),
    (Structure("choice", json.dumps(CHOICES)), CHOICES.__contains__),
    (
        Structure("grammar", 'root ::= "yes" | "no, " [a-z]+ "."'),
        re.compile("yes|no, [a-z]+[.]").fullmatch,
    ),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TINY / "target")


def sampling(verifier: Any, structure: Structure, **changes: Any) -> Sampling:
    values = {"max_tokens": 120, "seed": 5, "temperature": 0.7} | changes
    ends = tuple(verifier.facts.eos_token_ids)
    return Sampling(structure=structure, stop_token_ids=ends, **values)


def answer(tokenizer: Tokenizer, driver: Driver) -> str:
    *text, end = driver.text
    assert end in driver.session.sampling.stop_token_ids, driver.session.finish_reason
    return tokenizer.decode(text)


def drafter(texts: Sequence[list[int]], seed: int) -> Callable[[Session], list[int]]:
    """The text, each token wrong now and then; also beyond the end of the answer."""
    chance = random.Random(seed)

    def draft(session: Session) -> list[int]:
        right = [*texts[session.id], 7, 7, 7][session.num_output :][: chance.randrange(9)]
        return [t if chance.random() > 0.1 else chance.randrange(4096) for t in right]

    return draft


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.3])
def test_every_answer_keeps_to_its_structure_with_drafts_and_without(
    verifier: Any, tokenizer: Tokenizer, temperature: float
) -> None:
    def drivers() -> list[Driver]:
        return [
            Driver(n, prompts()[n], sampling(verifier, structure, seed=n, temperature=temperature))
            for n, (structure, _) in enumerate(CASES * 4)
        ]

    plain, drafted = drivers(), drivers()
    finish(verifier, plain)
    finish(verifier, drafted, drafter([driver.text for driver in plain], seed=1))
    for alone, helped, (_, keeps) in zip(plain, drafted, CASES * 4, strict=True):
        assert helped.text == alone.text
        if alone.session.finish_reason == "stop":
            assert keeps(answer(tokenizer, alone))
    assert sum(driver.session.finish_reason == "stop" for driver in plain) >= 12
    assert sum(driver.num_accepted for driver in drafted) > 50
    assert sum(driver.num_steps for driver in drafted) < sum(d.num_steps for d in plain)


def test_others_in_the_batch_are_not_touched(verifier: Any) -> None:
    free = Sampling(max_tokens=30, seed=2, temperature=0.9)
    alone = Driver(0, prompts()[3], free)
    finish(verifier, [alone])
    beside = Driver(0, prompts()[3], free)
    finish(
        verifier,
        [
            beside,
            *(Driver(9 + n, prompts()[n], sampling(verifier, s)) for n, (s, _) in enumerate(CASES)),
        ],
    )
    assert beside.text == alone.text


@pytest.mark.parametrize("after", [1, 4])
def test_a_resumed_answer_goes_on_inside_its_structure(verifier: Any, after: int) -> None:
    asked = sampling(verifier, CASES[0][0])
    whole = Driver(0, prompts()[0], asked)
    finish(verifier, [whole])
    resumed = Driver(1, prompts()[0], asked, committed=whole.text[:after])
    finish(verifier, [resumed])
    assert resumed.text == whole.text


def test_an_answer_survives_the_loss_of_its_kv(verifier: Any, hoard: Callable[[int], None]) -> None:
    asked = sampling(verifier, CASES[0][0])
    whole = Driver(0, prompts()[0], asked)
    finish(verifier, [whole])
    parted = Driver(1, prompts()[0], asked)
    verifier.open(parted.session)
    while parted.session.num_output < 5:
        step(verifier, [(parted, parted.seat(64))])
    verifier.scheduler.evict(next(iter(verifier.scheduler.requests.values())))
    parted.session.computed(0)
    while not parted.done:
        step(verifier, [(parted, parted.seat(64))])
    verifier.close(parted.session)
    assert parted.text == whole.text


def test_a_session_may_close_before_its_grammar_is_compiled(verifier: Any) -> None:
    many = {"anyOf": [{"type": "object", "properties": {f"p{n}": SCHEMA}} for n in range(60)]}
    driver = Driver(0, prompts()[0], sampling(verifier, Structure("json", json.dumps(many))))
    verifier.open(driver.session)
    verifier.close(driver.session)


@pytest.mark.parametrize(
    "structure",
    [
        Structure("json", "{"),
        Structure("json", '{"type": "nonsense"}'),
        Structure("regex", "(["),
        Structure("choice", "[]"),
        Structure("grammar", "root ::= "),
    ],
)
def test_a_structure_that_is_not_valid_is_refused(verifier: Any, structure: Structure) -> None:
    driver = Driver(0, prompts()[0], sampling(verifier, structure))
    with pytest.raises(BadRequest, match="structure"):
        verifier.open(driver.session)
