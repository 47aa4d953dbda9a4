"""KV blocks: who loses them, who gets them back, and that none is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.vllm.conftest import BLOCK, NUM_BLOCKS
from tests.vllm.driver import Driver, expected, finish, prompts, same, step
from wisp.core.batch import Batch
from wisp.core.request import FinishReason, Sampling
from wisp.engine.step import InFlightStep
from wisp.errors import Overloaded
from wisp.scheduler.residency import residency

SAMPLING = Sampling(max_tokens=60, seed=3, temperature=0.8)


def long_prompt(number: int, length: int = 100) -> list[int]:
    tokens = [token for prompt in prompts()[number * 12 :] for token in prompt]
    return tokens[:length]


def test_a_seat_computes_no_more_than_it_asks_for(verifier: Any) -> None:
    verifier.scheduler.reset_prefix_cache()
    one, two = Driver(0, long_prompt(0), SAMPLING), Driver(1, long_prompt(1), SAMPLING)
    verifier.open(one.session)
    verifier.open(two.session)
    step(verifier, [(one, one.seat(30)), (two, two.seat(17))])
    assert (one.session.num_computed, two.session.num_computed) == (30, 17)
    step(verifier, [(two, two.seat(5))])
    assert (one.session.num_computed, two.session.num_computed) == (30, 22)
    step(verifier, [(one, one.seat(70)), (two, two.seat(1))])
    assert (one.session.num_computed, two.session.num_computed) == (100, 23)
    assert len(one.text) == 1
    verifier.close(one.session)
    verifier.close(two.session)


def test_closing_frees_the_blocks_at_once(verifier: Any) -> None:
    free = verifier.scheduler.num_free_blocks
    assert verifier.kv_used == 0.0
    driver = Driver(0, long_prompt(0), SAMPLING)
    verifier.open(driver.session)
    step(verifier, [(driver, driver.seat(256))])
    assert verifier.scheduler.num_free_blocks == free - 4
    assert verifier.kv_used == pytest.approx(4 / verifier.scheduler.num_blocks)
    verifier.close(driver.session)
    assert verifier.scheduler.num_free_blocks == free
    verifier.close(driver.session)  # does nothing


def test_a_prompt_found_in_the_cache_while_its_next_chunk_is_in_flight(verifier: Any) -> None:
    """The first chunk finds all of the prompt, so the second one decodes, against all plans."""
    finish(verifier, [Driver(0, long_prompt(4), SAMPLING)])
    again = Driver(1, long_prompt(4), SAMPLING, overlaps=True)
    verifier.open(again.session)
    steps = []
    for _ in range(2):
        seat = again.seat(10)
        steps.append((InFlightStep(Batch([seat]), None, 0.0, 0.0), seat))
        steps[-1][0].launch(verifier)
    for in_flight, seat in steps:
        assert in_flight.collect
        (outcome,) = in_flight.collect()
        in_flight.landed()
        again.take(seat, outcome)
        assert again.session.free == (again.session.num_in_flight == 0)
    while not again.done:
        step(verifier, [(again, again.seat(256))])
    assert same(again)
    verifier.close(again.session)


def test_a_second_turn_recomputes_one_block_at_most(verifier: Any) -> None:
    first = Driver(0, long_prompt(2), SAMPLING)
    finish(verifier, [first])
    prompt = first.session.tokens + long_prompt(3, 10)
    second = Driver(1, prompt, SAMPLING)
    verifier.open(second.session)
    step(verifier, [(second, second.seat(1))])
    # Its last token has no KV: the first turn chose it and ended.
    assert second.session.num_computed >= len(first.session.tokens) - 1 - BLOCK + 1
    while not second.done:
        step(verifier, [(second, second.seat(256))])
    verifier.close(second.session)
    assert second.text == expected(prompt, SAMPLING)


def test_the_last_opened_gives_way_and_resumes(verifier: Any, hoard: Callable[[int], None]) -> None:
    drivers = [Driver(n, long_prompt(n), SAMPLING) for n in range(3)]
    hoard(12)  # 4 blocks hold a prompt, 5 all of a session: three do not fit to the end
    for driver in drivers:
        verifier.open(driver.session)
        step(verifier, [(driver, driver.seat(256))])
    before = verifier.scheduler.num_evictions
    while not drivers[0].done:
        step(verifier, [(drivers[0], drivers[0].seat(256))])
    while not drivers[1].done:
        step(verifier, [(drivers[1], drivers[1].seat(256))])
    assert verifier.scheduler.num_evictions == before + 1
    victim = verifier.scheduler.requests[verifier.requests.names[2]]
    assert victim.num_computed_tokens == 0
    verifier.close(drivers[0].session)
    verifier.close(drivers[1].session)
    while not drivers[2].done:
        step(verifier, [(drivers[2], drivers[2].seat(256, [7, 7]))])
    verifier.close(drivers[2].session)
    assert all(same(driver) for driver in drivers)


def test_when_all_are_seated_the_last_opened_waits(
    verifier: Any, hoard: Callable[[int], None]
) -> None:
    drivers = [Driver(n, long_prompt(n), SAMPLING) for n in range(4)]
    hoard(7)
    finish(verifier, drivers)
    assert all(same(driver) for driver in drivers)


def test_who_does_not_fit_is_let_in_when_there_is_room(
    verifier: Any, hoard: Callable[[int], None]
) -> None:
    """Three prompts of four blocks, and a block more of each, in twelve blocks."""
    drivers = [Driver(n, long_prompt(n), SAMPLING, due_s=n) for n in range(3)]
    hoard(12)
    before = verifier.scheduler.num_evictions
    for driver in drivers:
        verifier.open(driver.session)
    live, lets_in = list(drivers), []
    while live:
        memory = verifier.memory()._replace(num_parkable=0)
        seatable = residency([driver.session for driver in live], memory, 0.0).seatable
        lets_in.append([session.id for session in seatable])
        seated = [driver for driver in live if driver.session in seatable]
        step(verifier, [(driver, driver.seat(256 // len(seated))) for driver in seated])
        for driver in seated:
            if driver.done:
                verifier.close(driver.session)
                live.remove(driver)
    assert lets_in[0] == [0, 1]
    assert lets_in[-1] == [2]
    assert verifier.scheduler.num_evictions == before
    assert all(same(driver) for driver in drivers)


def park(verifier: Any, driver: Driver) -> int:
    (kept,) = verifier.park([driver.session])
    driver.session.moved(kept, parked=kept > 0)
    return int(kept)


def load(verifier: Any, driver: Driver) -> int:
    (found,) = verifier.load([driver.session])
    if found:
        driver.session.moved(found, parked=False)
    return int(found)


def test_a_parked_session_goes_on_with_a_draft_in_the_step_in_which_it_is_back(
    verifier: Any, hoard: Callable[[int], None]
) -> None:
    """What it had in memory was overwritten by another's prompt meanwhile."""
    one, other = Driver(0, long_prompt(0), SAMPLING), Driver(1, long_prompt(1, 250), SAMPLING)
    hoard(9)
    verifier.open(one.session)
    while one.session.num_output < 8:
        step(verifier, [(one, one.seat(256))])
    num_known = one.session.num_computed
    assert park(verifier, one) == num_known == one.session.num_computed
    assert verifier.memory().num_free == 9
    verifier.open(other.session)
    step(verifier, [(other, other.seat(256))])
    assert load(verifier, one) == 0  # there is no room
    verifier.close(other.session)
    verifier.scheduler.reset_prefix_cache()
    assert load(verifier, one) == num_known
    draft = expected(one.prompt, SAMPLING)[8:12]
    step(verifier, [(one, one.seat(256, draft))])
    assert one.num_accepted == 4
    while not one.done:
        step(verifier, [(one, one.seat(256))])
    verifier.close(one.session)
    assert one.text == expected(one.prompt, SAMPLING)


def test_what_was_parked_before_is_not_copied_again(
    verifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parking = verifier.scheduler.parking
    driver = Driver(0, long_prompt(0), SAMPLING)
    verifier.open(driver.session)
    step(verifier, [(driver, driver.seat(256))])
    copied: list[int] = []
    take = parking.take_copies

    def taken() -> Any:
        copies = take()
        copied.append(len(copies[0]))
        return copies

    monkeypatch.setattr(parking, "take_copies", taken)
    for _ in range(2):
        park(verifier, driver)
        load(verifier, driver)
        step(verifier, [(driver, driver.seat(256))])
    # 100 tokens are three full blocks and one that is not; the prefix cache kept those in memory.
    assert copied == [4, 0, 1, 0]
    verifier.close(driver.session)


def test_copies_wait_for_a_step_that_a_closed_session_is_in_and_for_no_later_one(
    verifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While steps follow each other without a pause: it writes to blocks that are nobody's."""
    waited: list[bool] = []
    rpc = verifier._core.collective_rpc  # whether a copy waits shows nowhere but in what is asked

    def noted(method: str, args: tuple[Any, ...] = ()) -> Any:
        if method == "wisp_move":
            waited.append(args[2])
        return rpc(method, args=args)

    monkeypatch.setattr(verifier._core, "collective_rpc", noted)  # see above
    stays, goes, parked = (
        Driver(number, long_prompt(number), SAMPLING, overlaps=True) for number in range(3)
    )
    for driver in (stays, goes, parked):
        verifier.open(driver.session)
        step(verifier, [(driver, driver.seat(256))])

    def launch(*drivers: Driver) -> tuple[InFlightStep, list[tuple[Driver, Any]]]:
        pairs = [(driver, driver.seat(256)) for driver in drivers]
        found = InFlightStep(Batch([seat for _, seat in pairs]), None, 0.0, 0.0)
        found.launch(verifier)
        return found, pairs

    def land(in_flight: InFlightStep, pairs: list[tuple[Driver, Any]]) -> None:
        assert in_flight.collect
        outcomes = in_flight.collect()
        in_flight.landed()
        for (driver, seat), outcome in zip(pairs, outcomes, strict=True):
            if not driver.done:
                driver.take(seat, outcome)

    first = launch(stays, goes)
    verifier.close(goes.session)
    goes.session.finish_reason = FinishReason.STOP
    waited.clear()
    park(verifier, parked)
    second = launch(stays)
    land(*first)
    load(verifier, parked)
    third = launch(stays)
    land(*second)
    park(verifier, parked)
    land(*third)
    assert waited == [True, False, False]
    for driver in (stays, parked):
        verifier.close(driver.session)


def test_host_memory_that_is_full_takes_no_more(verifier: Any) -> None:
    scheduler = verifier.scheduler
    num_slots = scheduler.parking.num_free
    scheduler.parks(6)
    one, two = Driver(0, long_prompt(0), SAMPLING), Driver(1, long_prompt(1), SAMPLING)
    for driver in (one, two):
        verifier.open(driver.session)
        step(verifier, [(driver, driver.seat(256))])
    assert park(verifier, one) == 100
    assert verifier.memory().num_parkable == 2
    assert park(verifier, two) == 0  # it is computed again
    assert load(verifier, one) == 100
    assert verifier.memory().num_parkable == 6  # what nobody relies on gives way
    for driver in (one, two):
        while not driver.done:
            step(verifier, [(driver, driver.seat(256))])
        verifier.close(driver.session)
        assert same(driver)
    scheduler.parks(num_slots)


def goes_on_from_host_memory(verifier: Any, driver: Driver, num_known: int) -> None:
    """To its end; all full blocks of so many tokens are there, but for one that is computed."""
    num_kept = verifier.open(driver.session)
    assert num_kept == (num_known - 1) // BLOCK * BLOCK
    driver.session.moved(num_kept, parked=True)
    assert load(verifier, driver) == num_kept
    while not driver.done:
        step(verifier, [(driver, driver.seat(256))])
    verifier.close(driver.session)


def test_a_turn_that_comes_back_late_finds_its_conversation_in_host_memory(
    verifier: Any,
) -> None:
    """By then others have taken all of the target's memory."""
    first = Driver(0, long_prompt(2), SAMPLING)
    finish(verifier, [first])
    verifier.scheduler.reset_prefix_cache()
    prompt = first.session.tokens + long_prompt(3, 10)
    second = Driver(1, prompt, SAMPLING)
    goes_on_from_host_memory(verifier, second, len(first.session.tokens))
    assert second.text == expected(prompt, SAMPLING)


def test_a_stream_that_is_resumed_finds_its_text_in_host_memory(verifier: Any) -> None:
    """Its edge lost the line in the midst of the text, and comes back when others have had all of
    the target's memory."""
    prompt = long_prompt(2)
    first = Driver(0, prompt, SAMPLING)
    verifier.open(first.session)
    while first.session.num_output < 40:
        step(verifier, [(first, first.seat(256))])
    verifier.close(first.session)
    verifier.scheduler.reset_prefix_cache()
    resumed = Driver(1, prompt, SAMPLING, committed=first.session.tokens[len(prompt) :])
    goes_on_from_host_memory(verifier, resumed, len(first.session.tokens))
    assert resumed.text == expected(prompt, SAMPLING)


def test_who_is_seated_although_it_is_parked_is_computed_from_the_start(verifier: Any) -> None:
    first = Driver(0, long_prompt(2), SAMPLING)
    finish(verifier, [first])
    verifier.scheduler.reset_prefix_cache()
    again = Driver(1, long_prompt(2), SAMPLING)
    assert verifier.open(again.session) > 0
    while not again.done:
        step(verifier, [(again, again.seat(256))])
    verifier.close(again.session)
    assert same(again)


def test_one_that_was_loaded_and_not_seated_yet_can_be_parked_again(verifier: Any) -> None:
    first = Driver(0, long_prompt(2), SAMPLING)
    finish(verifier, [first])
    verifier.scheduler.reset_prefix_cache()
    free = verifier.scheduler.num_free_blocks
    again = Driver(1, long_prompt(2), SAMPLING)
    num_kept = verifier.open(again.session)
    again.session.moved(num_kept, parked=True)
    for _ in range(2):
        assert load(verifier, again) == num_kept
        assert park(verifier, again) == num_kept
        assert verifier.scheduler.num_free_blocks == free
    assert load(verifier, again) == num_kept
    while not again.done:
        step(verifier, [(again, again.seat(256))])
    verifier.close(again.session)
    assert same(again)


def test_what_can_never_fit_is_refused(verifier: Any) -> None:
    scheduler = verifier.scheduler
    assert scheduler.num_blocks == NUM_BLOCKS - 1
    pool = scheduler.kv_cache_manager.block_pool
    all_blocks, pool.num_gpu_blocks = pool.num_gpu_blocks, 4
    driver = Driver(0, long_prompt(0), SAMPLING)
    try:
        with pytest.raises(Overloaded, match="5 KV blocks but there are 3"):
            verifier.open(driver.session)
    finally:
        pool.num_gpu_blocks = all_blocks


def test_more_sessions_than_agreed_are_refused(verifier: Any) -> None:
    drivers = [Driver(n, prompts()[0], SAMPLING) for n in range(65)]
    for driver in drivers[:64]:
        verifier.open(driver.session)
    with pytest.raises(Overloaded, match="all 64 sessions"):
        verifier.open(drivers[64].session)
    for driver in drivers:
        verifier.close(driver.session)


def test_after_a_failed_step_every_text_goes_on(
    verifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drivers = [Driver(n, long_prompt(n), SAMPLING) for n in range(4)]
    for driver in drivers:
        verifier.open(driver.session)
    for _ in range(5):
        step(verifier, [(driver, driver.seat(60)) for driver in drivers])
    with monkeypatch.context() as patch:
        patch.setattr("wisp.verifier.vllm.sampler.choose_unprocessed", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            verifier.step(Batch([driver.seat(60) for driver in drivers[:2]]))
    while live := [driver for driver in drivers if not driver.done]:
        step(verifier, [(driver, driver.seat(60)) for driver in live])
    for driver in drivers:
        verifier.close(driver.session)
        assert same(driver)
