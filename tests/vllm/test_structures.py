"""Answers that keep to a structure, with drafts and without."""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import xgrammar

from tests.vllm.driver import Driver, finish, prompts, step
from wisp.config import TINY
from wisp.core.request import Sampling, Structure
from wisp.core.session import Session
from wisp.core.structure_cost import check_cost
from wisp.errors import BadRequest
from wisp.models.tokenizer import Tokenizer
from wisp.verifier.vllm.compiling import Compiler, GrammarError

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
        Structure("json", '{"type": "array", "uniqueItems": true}'),
        Structure("regex", "a\x00"),
        Structure("choice", "[]"),
        Structure("grammar", " "),
    ],
)
def test_a_structure_that_is_not_what_it_says_is_refused(
    verifier: Any, structure: Structure
) -> None:
    driver = Driver(0, prompts()[0], sampling(verifier, structure))
    with pytest.raises(BadRequest, match="structure"):
        verifier.open(driver.session)


def refusals(verifier: Any, *drivers: Driver) -> dict[int, str]:
    """What sessions are told that cannot go on; the others are written to their end."""
    for driver in drivers:
        verifier.open(driver.session)
    told: dict[int, str] = {}
    left = list(drivers)
    while left:
        step(verifier, [(driver, driver.seat(64)) for driver in left])
        told |= {session.id: str(error) for session, error in verifier.refused()}
        for driver in [each for each in left if each.done or each.session.id in told]:
            verifier.close(driver.session)
            left.remove(driver)
    return told


@pytest.mark.parametrize(
    "structure",
    [
        Structure("json", '{"type": "nonsense"}'),
        Structure("regex", "(["),
        Structure("grammar", "root ::= "),
    ],
)
def test_a_structure_that_is_not_valid_ends_its_session_alone(
    verifier: Any, structure: Structure
) -> None:
    """It was found where the others waited for it."""
    wrong = Driver(0, prompts()[0], sampling(verifier, structure))
    right = Driver(1, prompts()[0], sampling(verifier, CASES[1][0]))
    assert list(refusals(verifier, wrong, right)) == [0]
    assert right.done


# Within the bounds of wisp/core/structure_cost.py. The first takes for ever to compile, the others
# to tell what may follow.
BOMBS = [
    Structure(
        "grammar",
        "root ::= r0\n"
        + "\n".join(f"r{n} ::= r{(n + 1) % 2000} r{(n * 7) % 2000} | [a-z]" for n in range(2000)),
    ),
    Structure(
        "grammar",
        "\n".join(
            ["root ::= r0", *(f"r{n} ::= r{n + 1} r{n + 1}" for n in range(30)), 'r30 ::= "a" | ""']
        ),
    ),
    Structure("regex", "((.{1,20}b?){1,20}c?){1,20}"),
    Structure("regex", "(a*)*" * 2000),
]


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_structure_without_end_ends_its_session_alone(verifier: Any, bomb: Structure) -> None:
    """A step took seconds with some of them, and never came to its end with others."""
    check_cost(bomb.kind, bomb.text)
    hostile = Driver(0, prompts()[0], sampling(verifier, bomb))
    others = [Driver(n, prompts()[0], sampling(verifier, CASES[1][0], seed=n)) for n in (1, 2)]
    told = refusals(verifier, hostile, *others)
    assert list(told) == [0]
    assert "it takes more than" in told[0]


def test_what_grows_slow_deep_inside_ends_then(
    verifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wisp.verifier.vllm.compiling.MAX_TOKEN_S", 0.0)
    slow = Driver(0, prompts()[0], sampling(verifier, CASES[2][0]))
    free = Driver(1, prompts()[0], Sampling(max_tokens=9, seed=1))
    told = refusals(verifier, slow, free)
    assert list(told) == [0]
    assert "too long" in told[0]
    assert free.done


@pytest.mark.parametrize(
    ("limits", "told"),
    [({"max_mib": 1}, "more than 1 MiB"), ({"max_cpu_s": 1}, "more than 1 s")],
)
def test_what_a_grammar_may_take_to_compile_has_a_limit(
    verifier: Any, limits: dict[str, int], told: str
) -> None:
    compiler = compiler_of(verifier, **limits)
    try:
        for _ in range(2):  # the second time it is known
            with pytest.raises(GrammarError, match=told):
                compiler.compile_grammar(BOMBS[0].text)
        if "max_cpu_s" in limits:  # another process tries the next one
            assert compiler.compile_regex("[a-z]{3,8}").memory_size_bytes > 0
    finally:
        compiler.stop()


def test_a_structure_that_cannot_be_tried_now_is_no_fault_of_whoever_asks(
    verifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("Cannot allocate memory")

    compiler = compiler_of(verifier)
    ours = verifier._core.structured_output_manager.backend  # nobody else has to know it
    try:
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", fail)
            patch.setattr(ours, "compiler", compiler)
            driver = Driver(0, prompts()[0], sampling(verifier, Structure("regex", "[a-c]{3}")))
            told = refusals(verifier, driver)
        assert told == {0: "structures cannot be tried now: send the request again later"}
        assert compiler.compile_regex("[a-c]{3}").memory_size_bytes > 0  # now it can
    finally:
        compiler.stop()


def compiler_of(verifier: Any, **limits: int) -> Compiler:
    """With the tokenizer of the target."""
    manager = verifier._core.structured_output_manager  # nobody else has to know it
    vocab_size = verifier.facts.vocab_size
    info = xgrammar.TokenizerInfo.from_huggingface(manager.tokenizer, vocab_size=vocab_size)
    return Compiler(xgrammar.GrammarCompiler(info), **limits)
