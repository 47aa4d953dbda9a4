"""The drafter inside vLLM: the same texts in fewer steps, and no KV block lost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from tests.own_drafts import Writer, tokens_a_step, write
from tests.vllm import static_passes
from tests.vllm.conftest import second_engine
from tests.vllm.driver import expected, prompts
from tests.vllm.writing import NUM, SAMPLINGS, num_other, pairs_of, write_overlapped
from tests.world import World
from wisp.config import TINY
from wisp.core.batch import Batch, Seat
from wisp.core.drafts import Source
from wisp.core.own_drafts import COMING
from wisp.core.request import Sampling
from wisp.errors import ConfigError


@pytest.fixture(scope="module")
def drafting() -> Iterator[Any]:
    with second_engine({}, drafter_method="draft_model", drafter=TINY / "draft") as loaded:
        yield loaded


@pytest.mark.parametrize("mixed", [False, True], ids=["own", "with an edge's"])
@pytest.mark.parametrize("name", SAMPLINGS)
def test_texts_are_the_torch_verifiers(drafting: Any, name: str, mixed: bool) -> None:
    pairs = pairs_of(name)
    writers = [
        Writer(number, *pair, foreign=expected(*pair) if mixed else ())
        for number, pair in enumerate(pairs)
    ]
    write(drafting, writers, max_own=5)
    assert num_other(writers) <= 1, "float ties are rarer than that"
    verified = sum(writer.num_verified[Source.OWN] for writer in writers)
    accepted = sum(writer.num_accepted[Source.OWN] for writer in writers)
    print(f"{accepted} of {verified} own drafts, {tokens_a_step(writers):.2f} tokens a step")
    assert accepted > (0.3 if name == "greedy" else 0.2) * verified > 0
    assert tokens_a_step(writers) > 1.2


def test_the_drafter_catches_up_with_what_it_has_not_seen(drafting: Any) -> None:
    """Those that are in few steps, and those whose edges wrote most of the text."""
    pairs = pairs_of("greedy")
    writers = [Writer(n, *pair, foreign=expected(*pair)) for n, pair in enumerate(pairs)]
    write(drafting, writers, max_own=3, share=0.4)
    assert num_other(writers) <= 1
    verified = sum(writer.num_verified[Source.OWN] for writer in writers)
    accepted = sum(writer.num_accepted[Source.OWN] for writer in writers)
    assert accepted > 0.3 * verified > 0, "a hole in its KV shows in what is accepted"


def test_a_second_turn_in_the_prefix_cache_has_drafts_as_good(drafting: Any) -> None:
    sampling = Sampling(max_tokens=60, seed=3, temperature=0.0)
    first = Writer(0, [token for prompt in prompts()[:4] for token in prompt][:100], sampling)
    write(drafting, [first], max_own=0)  # no drafter: its KV has holes from here on
    again = [*first.session.tokens, *prompts()[9][:8]]
    rates = []
    for turn in range(2):
        second = Writer(1, again, Sampling(max_tokens=200, seed=3, temperature=0.0))
        if turn:
            drafting.scheduler.reset_prefix_cache()
        write(drafting, [second], max_own=4)
        rates.append(second.num_accepted[Source.OWN] / second.num_verified[Source.OWN])
    assert rates[0] == pytest.approx(rates[1], abs=0.02)


def test_too_few_blocks(drafting: Any) -> None:
    """Sessions lose their KV to others, and drafts are written to blocks that are there."""
    pool, evictions = (
        drafting.scheduler.kv_cache_manager.block_pool,
        drafting.scheduler.num_evictions,
    )
    taken = pool.get_new_blocks(pool.get_num_free_blocks() - 16)
    pairs = pairs_of("nucleus", 12)
    writers = [Writer(n, *pair, foreign=expected(*pair)) for n, pair in enumerate(pairs)]
    write(drafting, writers, max_own=5, share=0.5)
    pool.free_blocks(taken)
    assert num_other(writers) <= 1
    assert drafting.scheduler.num_evictions > evictions


def test_a_text_longer_than_a_step_of_the_drafter(drafting: Any) -> None:
    """It is caught up with over several steps, and its drafts come then."""
    drafting.scheduler.drafts_own(64, 512)
    prompt = [token for each in prompts()[:12] for token in each][:300]
    writer = Writer(0, prompt, Sampling(max_tokens=60, seed=3, temperature=0.0))
    write(drafting, [writer], max_own=4)
    assert writer.num_accepted[Source.OWN] > 0
    assert num_other([writer]) <= 1


def test_a_session_that_ends_while_its_drafts_are_made(drafting: Any) -> None:
    pairs = pairs_of("greedy", 2)
    writers = [Writer(number, *pair) for number, pair in enumerate(pairs)]
    for writer in writers:
        drafting.open(writer.session)
    seats = [writer.seat(100, 0) for writer in writers]
    for seat in seats:
        seat.num_own = 3
    collect = drafting.launch(Batch(seats))
    drafting.close(writers[0].session)
    outcomes = collect()
    assert (outcomes[0].tokens, outcomes[0].own) == ([], None)
    assert outcomes[1].own is not None
    assert len(outcomes[1].own.tokens) == 3
    drafting.close(writers[1].session)


def test_a_whole_engine_whose_steps_overlap(drafting: Any) -> None:
    pairs = pairs_of("nucleus")
    prompts_, samplings = [prompt for prompt, _ in pairs], [sampling for _, sampling in pairs]
    world = World(drafting, max_own=4)
    texts = world.generate(prompts_, samplings)
    num_same = sum(text == expected(*pair) for text, pair in zip(texts, pairs, strict=True))
    assert num_same >= NUM - 1
    own = [verdict for verdict in world.verdicts if verdict.source is Source.OWN]
    assert sum(verdict.num_accepted for verdict in own) > NUM


@pytest.mark.parametrize("name", ["greedy", "hot"])
def test_own_drafts_are_verified_before_the_host_knows_them(drafting: Any, name: str) -> None:
    """Whole engines, whose steps overlap or not: the same texts, by drafts as good."""
    pairs = pairs_of(name)
    prompts_, samplings = [prompt for prompt, _ in pairs], [sampling for _, sampling in pairs]
    rates, num_verified, num_coming = [], [], []
    for overlap in (False, True):
        seats: list[Seat] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(drafting, "_overlap", overlap)
            # One each, whatever the times of a busy processor say; of more, a step would take
            # those that look well where the host knows them.
            patch.setattr("wisp.scheduler.own._best_count", lambda *_: 1)
            launch = drafting.launch

            def noted(batch: Batch, launch: Any = launch, seats: list[Seat] = seats) -> Any:
                seats.extend(batch.seats)
                return launch(batch)

            patch.setattr(drafting, "launch", noted)
            world = World(drafting, max_own=4)
            texts = world.generate(prompts_, samplings)
        num_same = sum(text == expected(*pair) for text, pair in zip(texts, pairs, strict=True))
        assert num_same >= NUM - 1
        own = [verdict for verdict in world.verdicts if verdict.source is Source.OWN]
        num_verified.append(sum(verdict.num_drafted for verdict in own))
        rates.append(sum(verdict.num_accepted for verdict in own) / num_verified[-1])
        num_coming.append(sum(COMING in seat.draft for seat in seats) / len(seats))
    print(f"{rates} of {num_verified} own drafts accepted, {num_coming} of seats had them unseen")
    assert num_coming[0] == 0.0
    assert num_coming[1] > 0.5
    # Other steps verify others of the same drafts: three standard deviations of so many.
    spread = math.sqrt(rates[0] * (1.0 - rates[0]) * sum(1.0 / num for num in num_verified))
    assert rates[1] == pytest.approx(rates[0], abs=3.0 * spread)
    assert spread < 0.1


@pytest.mark.parametrize("name", ["greedy", "hot"])
def test_behind_a_step_that_rejections_move_back(drafting: Any, name: str) -> None:
    """Launched while another one runs, whose drafts are partly wrong: nobody but the device knows
    where the texts end."""
    pairs = pairs_of(name)
    writers = [
        Writer(number, *pair, foreign=expected(*pair), overlaps=True)
        for number, pair in enumerate(pairs)
    ]
    write_overlapped(drafting, writers)
    assert num_other(writers) <= 1
    verified = sum(writer.num_verified[Source.OWN] for writer in writers)
    accepted = sum(writer.num_accepted[Source.OWN] for writer in writers)
    print(f"{accepted} of {verified} own drafts")
    assert accepted > (0.35 if name == "greedy" else 0.25) * verified > 0


def test_passes_of_a_fixed_size_draft_the_same(drafting: Any) -> None:
    """As a CUDA graph has them: with tokens of nobody, and with requests that are not there."""
    found = []
    for is_fixed in (False, True):
        if is_fixed:
            # The drafter is in the worker's process, which nobody else asks for anything.
            drafting._core.collective_rpc(static_passes.install)
        writers = [Writer(number, *pair) for number, pair in enumerate(pairs_of("nucleus", 12))]
        write(drafting, writers, max_own=5, share=0.7)
        assert num_other(writers) == 0
        found.append([(w.num_verified[Source.OWN], w.num_accepted[Source.OWN]) for w in writers])
    # As above.
    (num_chained, num_replayed), *_ = drafting._core.collective_rpc(static_passes.remove)
    assert min(num_chained, num_replayed) > 40
    assert found[1] == found[0]


def test_pipeline_stages_are_refused() -> None:
    with (
        pytest.raises(ConfigError, match="do not go together"),
        second_engine(
            {"pipeline_parallel_size": 2}, drafter_method="draft_model", drafter=TINY / "draft"
        ),
    ):
        pass
