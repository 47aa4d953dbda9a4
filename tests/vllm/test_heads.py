"""An EAGLE-3 head as the own drafter inside vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.heads import VOCAB, Reference, write_head, write_mtp_target
from tests.own_drafts import Writer, tokens_a_step, write
from tests.vllm import static_passes
from tests.vllm.conftest import second_engine
from tests.vllm.driver import expected
from tests.vllm.writing import SAMPLINGS, num_other, pairs_of, write_overlapped
from tests.world import World
from wisp.core.drafts import Source
from wisp.errors import ConfigError

GPT2 = """{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 192, "n_head": 4,
"n_layer": 2, "n_positions": 512, "vocab_size": 4096, "eos_token_id": 2}"""


@pytest.fixture(scope="module", params=[VOCAB, VOCAB // 2], ids=["all tokens", "half of them"])
def draft_vocab(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def drafting(draft_vocab: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    head = write_head(tmp_path_factory.mktemp("head"), draft_vocab)
    with second_engine({}, drafter_method="eagle3", drafter=head) as loaded:
        yield loaded


@pytest.mark.parametrize(("name", "mixed"), [("greedy", True), ("nucleus", True), ("hot", False)])
def test_texts_are_the_torch_verifiers(drafting: Any, name: str, mixed: bool) -> None:
    pairs = pairs_of(name)
    writers = [
        Writer(number, *pair, foreign=expected(*pair) if mixed else ())
        for number, pair in enumerate(pairs)
    ]
    write(drafting, writers, max_own=5)
    assert num_other(writers) <= 1, "float ties are rarer than that"
    verified = sum(writer.num_verified[Source.OWN] for writer in writers)
    print(verified, sum(writer.num_accepted[Source.OWN] for writer in writers))
    assert verified > len(writers)


def check(drafting: Any, writers: list[Writer], draft_vocab: int) -> int:
    """All that was proposed is what the head drafts behind that text; returns how much it was."""
    reference, num, num_wrong = Reference(draft_vocab), 0, 0
    for writer in writers:
        for end, tokens in writer.proposed:
            right = reference.drafts(writer.session.tokens[:end], len(tokens))
            num, num_wrong = num + 1, num_wrong + (tokens != right)
    assert num_wrong <= num // 50, f"{num_wrong} of {num}: float ties are rarer than that"
    return num


def test_drafts_are_those_of_the_head(drafting: Any, draft_vocab: int) -> None:
    """With prompts in parts, edges' drafts of which many are rejected, steps without own drafts,
    and the beginning of a text in the prefix cache."""
    pairs = pairs_of("greedy", 6)
    drafting.scheduler.reset_prefix_cache()
    for _ in range(2):
        writers = [Writer(n, *pair, foreign=expected(*pair)) for n, pair in enumerate(pairs)]
        write(drafting, writers, max_own=5, share=0.7, room=24)
        assert check(drafting, writers, draft_vocab) > 40


def test_behind_a_step_that_rejections_move_back(drafting: Any, draft_vocab: int) -> None:
    """Launched while another one runs: nobody but the device knows where the texts end."""
    writers = [
        Writer(number, *pair, foreign=expected(*pair), overlaps=True)
        for number, pair in enumerate(pairs_of("greedy", 6))
    ]
    write_overlapped(drafting, writers)
    assert num_other(writers) <= 1
    assert check(drafting, writers, draft_vocab) > 40


def test_passes_of_a_fixed_size_draft_the_same(drafting: Any, draft_vocab: int) -> None:
    """As a CUDA graph has them: with tokens of nobody, and with requests that are not there."""
    # The head is in the worker's process, which nobody else asks for anything.
    drafting._core.collective_rpc(static_passes.install)
    writers = [Writer(number, *pair) for number, pair in enumerate(pairs_of("greedy", 6))]
    write(drafting, writers, max_own=5, share=0.7)
    assert check(drafting, writers, draft_vocab) > 40
    # As above.
    (num_chained, num_replayed), *_ = drafting._core.collective_rpc(static_passes.remove)
    assert min(num_chained, num_replayed) > 40


def test_a_target_without_layers_for_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="no MTP layers"), second_engine({}, drafter_method="mtp"):
        pass


def test_pipeline_stages_are_refused(tmp_path: Path) -> None:
    head = write_head(tmp_path)
    with (
        pytest.raises(ConfigError, match="do not go together"),
        second_engine({"pipeline_parallel_size": 2}, drafter_method="eagle3", drafter=head),
    ):
        pass


def test_a_target_that_shows_no_hidden_states_is_refused(tmp_path: Path) -> None:
    target, head = tmp_path / "target", write_head(tmp_path / "head")
    target.mkdir()
    (target / "config.json").write_text(GPT2)  # it is refused before there are any weights
    with (
        pytest.raises(ConfigError, match="does not show its hidden states"),
        second_engine({}, target=target, drafter_method="eagle3", drafter=head),
    ):
        pass


@pytest.fixture(scope="module")
def predicting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A target with an MTP layer of its own."""
    target = write_mtp_target(tmp_path_factory.mktemp("target"))
    with second_engine({}, target=target, drafter_method="mtp") as loaded:
        yield loaded


@pytest.mark.parametrize("name", SAMPLINGS)
def test_the_targets_own_layers_draft(predicting: Any, name: str) -> None:
    before = predicting.scheduler.num_free_blocks
    pairs, texts = pairs_of(name, 12), []
    for max_own in (0, 4):
        writers = [Writer(number, *pair) for number, pair in enumerate(pairs)]
        write(predicting, writers, max_own=max_own, share=0.8)
        texts.append([writer.text for writer in writers])
    assert sum(a != b for a, b in zip(*texts, strict=True)) <= 1, "float ties are rarer than that"
    verified = sum(writer.num_verified[Source.OWN] for writer in writers)
    accepted = sum(writer.num_accepted[Source.OWN] for writer in writers)
    print(f"{accepted} of {verified} own drafts, {tokens_a_step(writers):.2f} tokens a step")
    assert accepted > 0.5 * verified > 0
    assert predicting.scheduler.num_free_blocks == before


def test_a_whole_engine_whose_steps_overlap(predicting: Any) -> None:
    """The drafts of one step are verified in the next before the host knows them."""
    pairs = pairs_of("hot", 12)
    prompts, samplings = [prompt for prompt, _ in pairs], [sampling for _, sampling in pairs]
    texts, accepted = [], 0
    for max_own in (0, 4):
        world = World(predicting, max_own=max_own)
        texts.append(world.generate(prompts, samplings))
        own = [verdict for verdict in world.verdicts if verdict.source is Source.OWN]
        accepted = sum(verdict.num_accepted for verdict in own)
    assert sum(a != b for a, b in zip(*texts, strict=True)) <= 1, "float ties are rarer than that"
    assert accepted > 0.3 * sum(map(len, texts[1]))
