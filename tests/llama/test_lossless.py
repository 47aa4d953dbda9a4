"""Law 1 with a drafter on llama.cpp, forks included: it changes no text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.world import NUM_BRANCHES, World, opened
from wisp.config import TINY, EdgeConfig
from wisp.core.request import Sampling
from wisp.edge.drafter.load import load_drafter
from wisp.models.public.export import Kind, export
from wisp.models.tokenizer import Tokenizer
from wisp.verifier.torch import TorchVerifier

NUM_PROMPTS, NUM_TOKENS, MAX_LEN = 20, 24, 128


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_texts_are_the_targets_own(tmp_path: Path, kind: Kind) -> None:
    export(TINY / "draft", tmp_path / "tiny.gguf", kind)
    tokenizer = Tokenizer(TINY / "target")
    settings = {
        "max_sessions": NUM_PROMPTS,
        "max_branches": 1 + NUM_PROMPTS * (NUM_BRANCHES - 1),
        "max_model_len": MAX_LEN,
    }
    config = EdgeConfig(draft=tmp_path / "tiny.gguf", drafter=settings)
    drafter = load_drafter(config, tokenizer)
    verifier = TorchVerifier(
        TINY / "target", max_sessions=NUM_PROMPTS, max_model_len=MAX_LEN, num_threads=1
    )
    listed = json.loads((TINY / "prompts.json").read_text())[:NUM_PROMPTS]
    prompts = [tokenizer.encode(prompt["prompt"])[:24] for prompt in listed]
    for temperature in (0.0, 0.8, 1.2):
        samplings = [
            Sampling(max_tokens=NUM_TOKENS, temperature=temperature, seed=100 + number)
            for number in range(NUM_PROMPTS)
        ]
        with opened(drafter, NUM_PROMPTS) as propose:
            drafted = World(verifier).generate(prompts, samplings, propose)
        assert drafted == World(verifier).generate(prompts, samplings)
