"""Who has KV in the target's memory, who is parked, and who waits."""

from __future__ import annotations

from tests.scheduler.worlds import make_session
from wisp.core.kv_memory import KvMemory
from wisp.core.session import Session
from wisp.scheduler.residency import Residency, residency

BLOCK = 16
# A session of 99 computed tokens of 100 holds 7 blocks, and room is kept for one more.
HELD, WANTED = 7, 8


def inside(number: int, due_s: float) -> Session:
    return make_session(number, due_s=due_s)


def parked(number: int, due_s: float) -> Session:
    session = make_session(number, due_s=due_s)
    session.moved(99, parked=True)
    return session


def new(number: int, due_s: float) -> Session:
    return make_session(number, due_s=due_s, missing=100)


def decide(sessions: list[Session], num_free: int, num_parkable: int = 1000) -> list[list[int]]:
    """Numbers of those seatable, leaving, entering; twice the same."""
    memory = KvMemory(BLOCK, num_free, num_parkable, host_block_tokens=BLOCK)
    found = residency(sessions, memory, 0.0)
    assert residency(sessions, memory, 0.0) == found
    groups = found.seatable, found.leaving, found.entering
    return [sorted(each.id for each in group) for group in groups]


def test_where_there_is_room_nothing_moves() -> None:
    sessions = [inside(0, 5.0), inside(1, 0.1)]
    assert residency(sessions, KvMemory(BLOCK, 0), 0.0) == Residency(sessions)
    assert residency([new(2, 0.1)], None, 0.0).seatable
    assert decide([*sessions, new(2, 0.1)], num_free=2 + WANTED) == [[0, 1, 2], [], []]


def test_memory_is_full_while_somebody_waits_for_room() -> None:
    def is_full(sessions: list[Session], num_free: int) -> bool:
        return residency(sessions, KvMemory(BLOCK, num_free, 1000, BLOCK), 0.0).is_full

    assert not is_full([inside(0, 5.0)], num_free=0)
    assert not is_full([inside(0, 0.1), new(1, 0.1)], num_free=2 + WANTED)
    assert is_full([inside(0, 0.1), new(1, 0.1)], num_free=2)
    assert is_full([inside(0, 0.1), parked(1, 0.1)], num_free=2)
    assert is_full([inside(0, 3.0), parked(1, 0.1)], num_free=2)  # one leaves for the other


def test_who_is_ahead_of_its_reader_leaves_for_one_whose_next_token_is_due() -> None:
    sessions = [inside(0, 3.0), inside(1, 0.5), parked(2, 0.2)]
    assert decide(sessions, num_free=2) == [[1], [0], [2]]
    assert decide(sessions, num_free=2 + WANTED) == [[0, 1], [], [2]]  # there is room already


def test_nobody_leaves_for_one_who_has_about_as_much_time() -> None:
    assert decide([inside(0, 1.0), parked(1, 0.2)], num_free=1) == [[0], [], []]
    assert decide([inside(0, 1.3), parked(1, 0.2)], num_free=1) == [[], [0], [1]]


def test_without_host_memory_others_wait_in_the_order_of_their_deadlines() -> None:
    sessions = [inside(0, 3.0), new(1, 0.3), new(2, 0.2)]
    assert decide(sessions, num_free=1, num_parkable=0) == [[0], [], []]
    assert decide(sessions, num_free=1 + WANTED, num_parkable=0) == [[0, 2], [], []]


def test_a_prompt_waits_until_who_leaves_for_it_has_left() -> None:
    assert decide([inside(0, 3.0), new(1, 0.2)], num_free=1) == [[], [0], []]


def test_one_who_is_computing_its_prompt_does_not_leave() -> None:
    prompt = make_session(0, due_s=3.0, missing=50)
    assert decide([prompt, new(1, 0.2)], num_free=4) == [[0], [], []]


def test_no_more_leave_than_host_memory_holds() -> None:
    sessions = [inside(0, 4.0), inside(1, 3.0), parked(2, 0.1), parked(3, 0.1)]
    assert decide(sessions, num_free=2, num_parkable=HELD) == [[1], [0], [2]]


def test_who_is_late_already_does_not_make_others_late() -> None:
    assert decide([inside(0, 0.1), parked(1, -1.5), parked(2, 0.2)], WANTED + 1) == [[0], [], [2]]
    assert decide([inside(0, -1.5), parked(1, 0.2)], num_free=1) == [[], [0], [1]]


def test_one_that_got_nothing_for_long_comes_first() -> None:
    late = parked(1, -30.0)
    late.committed_s = -30.0
    assert decide([inside(0, 1.5), late, parked(2, 0.2)], num_free=1) == [[], [0], [1]]


def test_one_that_fits_alone_is_let_in_however_little_room_there_is() -> None:
    assert decide([new(0, 0.1), new(1, 0.2)], num_free=3) == [[0], [], []]
