"""The drafter beside the torch engine's target: the same texts, in fewer steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.own_drafts import Writer, tokens_a_step, write
from tests.world import NUM_BRANCHES, World, opened
from wisp.config import TINY
from wisp.core.drafts import Source
from wisp.core.request import Sampling
from wisp.edge.drafter.transformers import TransformersDrafter
from wisp.errors import ConfigError
from wisp.models.tokenizer import Tokenizer
from wisp.verifier.torch import TorchVerifier

NUM, NUM_TOKENS = 24, 40
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "nucleus": {"temperature": 0.8, "top_p": 0.95},
    "hot": {"temperature": 1.2},
    "penalties": {"temperature": 0.7, "frequency_penalty": 0.4},
}


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = Tokenizer(TINY / "target")
    texts = [p["prompt"] for p in json.loads((TINY / "prompts.json").read_text())]
    return [tokenizer.encode(text)[:24] for text in texts[:NUM]]


@pytest.fixture(scope="module")
def verifier() -> TorchVerifier:
    return TorchVerifier(
        TINY / "target",
        max_sessions=NUM,
        max_model_len=128,
        num_threads=1,
        drafter=TINY / "draft",
    )


@pytest.fixture(scope="module", params=SAMPLINGS)
def samplings(request: pytest.FixtureRequest) -> list[Sampling]:
    return [
        Sampling(max_tokens=NUM_TOKENS, seed=1000 + number, **SAMPLINGS[request.param])
        for number in range(NUM)
    ]


@pytest.fixture(scope="module")
def alone(
    verifier: TorchVerifier, prompts: list[list[int]], samplings: list[Sampling]
) -> list[list[int]]:
    return World(verifier).generate(prompts, samplings)


def test_the_policy_asks_for_them_where_there_is_no_edge(
    verifier: TorchVerifier,
    prompts: list[list[int]],
    samplings: list[Sampling],
    alone: list[list[int]],
) -> None:
    world = World(verifier, max_own=4)
    assert world.generate(prompts, samplings) == alone
    own = [verdict for verdict in world.verdicts if verdict.source is Source.OWN]
    assert sum(verdict.num_accepted for verdict in own) > NUM * NUM_TOKENS / 5
    assert len(world.verdicts) < NUM * NUM_TOKENS / 1.2


@pytest.mark.parametrize("share", [1.0, 0.6], ids=["every step", "some steps"])
def test_mixed_with_an_edges_drafts(
    verifier: TorchVerifier,
    prompts: list[list[int]],
    samplings: list[Sampling],
    alone: list[list[int]],
    share: float,
) -> None:
    writers = [
        Writer(number, prompt, sampling, foreign=text)
        for number, (prompt, sampling, text) in enumerate(
            zip(prompts, samplings, alone, strict=True)
        )
    ]
    write(verifier, writers, max_own=5, share=share)
    assert [writer.text for writer in writers] == alone
    for source in (Source.EDGE, Source.OWN):
        assert sum(writer.num_accepted[source] for writer in writers) > NUM


def test_an_engine_takes_over_from_edges_that_die(
    verifier: TorchVerifier,
    prompts: list[list[int]],
    samplings: list[Sampling],
    alone: list[list[int]],
) -> None:
    """Their drafts, n-gram drafts and own ones, in one engine."""
    drafter = TransformersDrafter(
        TINY / "draft",
        max_sessions=NUM,
        max_branches=1 + NUM * (NUM_BRANCHES - 1),
        max_model_len=128,
    )
    world = World(verifier, max_own=4)
    with opened(drafter, NUM) as propose:
        texts = world.generate(prompts, samplings, propose, dies_after=NUM_TOKENS // 3)
    assert texts == alone
    for source in (Source.EDGE, Source.OWN):
        verdicts = [verdict for verdict in world.verdicts if verdict.source is source]
        assert sum(verdict.num_accepted for verdict in verdicts) > NUM


def test_they_are_made_with_the_noise_of_the_choice(
    verifier: TorchVerifier, prompts: list[list[int]]
) -> None:
    """At a high temperature no other drafts would often be right."""
    writers = [
        Writer(number, prompt, Sampling(max_tokens=NUM_TOKENS, seed=number, temperature=1.2))
        for number, prompt in enumerate(prompts)
    ]
    write(verifier, writers, max_own=4)
    verified = sum(writer.num_verified[Source.OWN] for writer in writers)
    accepted = sum(writer.num_accepted[Source.OWN] for writer in writers)
    assert accepted > 0.25 * verified > 0
    assert tokens_a_step(writers) > 1.2


def test_fewer_slots_than_sessions_cost_time_alone(prompts: list[list[int]]) -> None:
    few = TorchVerifier(
        TINY / "target",
        max_sessions=8,
        max_model_len=128,
        num_threads=1,
        num_slots=3,
        drafter=TINY / "draft",
    )
    samplings = [Sampling(max_tokens=20, seed=n, temperature=0.8) for n in range(8)]
    texts = World(few).generate(prompts[:8], samplings)
    assert World(few, max_own=3).generate(prompts[:8], samplings) == texts


def test_a_drafter_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    other = Path(shutil.copytree(TINY / "draft", tmp_path / "draft"))
    config = json.loads((other / "config.json").read_text())
    _resize(other, config, config["vocab_size"] - 8)
    with pytest.raises(ConfigError, match="must have the target's tokenizer"):
        TorchVerifier(
            TINY / "target", max_sessions=2, max_model_len=64, num_threads=1, drafter=other
        )


def _resize(directory: Path, config: dict[str, Any], vocab_size: int) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory)
    model.resize_token_embeddings(vocab_size)
    model.save_pretrained(directory)
    assert config["vocab_size"] != vocab_size
