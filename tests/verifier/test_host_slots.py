"""Which slots of host memory keep what."""

from __future__ import annotations

from random import Random

from wisp.verifier.vllm.host_slots import HostSlots


def test_equal_prefixes_are_kept_once() -> None:
    slots = HostSlots(4)
    assert slots.hold(["a", "b"]) == {"a", "b"}
    assert slots.hold(["a", "c"]) == {"c"}
    assert slots.num_free == 1
    slots.release(["a", "b"])
    assert slots.num_free == 2  # "b": somebody else holds "a"
    assert "b" in slots


def test_what_nobody_holds_gives_way_the_longest_unused_first() -> None:
    slots = HostSlots(3)
    for name in "abc":
        slots.hold([name])
        slots.release([name])
    slots.hold(["a"])
    slots.release(["a"])
    assert slots.hold(["d"]) == {"d"}
    assert [name in slots for name in "abc"] == [True, False, True]


def test_of_a_sequence_the_end_gives_way_first() -> None:
    slots = HostSlots(3)
    slots.hold(["a", "b", "c"])
    slots.release(["a", "b", "c"])
    slots.hold(["d"])
    assert ["a" in slots, "b" in slots, "c" in slots] == [True, True, False]


def test_where_there_is_no_room_nothing_changes() -> None:
    slots = HostSlots(3)
    slots.hold(["a"])
    slots.hold(["b"])
    slots.release(["b"])
    assert slots.hold(["b", "c", "d"]) is None
    assert slots.num_free == 2
    assert slots.hold(["c", "d"]) == {"c", "d"}
    assert "b" not in slots


def test_a_slot_has_one_name() -> None:
    slots, rng = HostSlots(8), Random(1)
    held: list[list[str]] = []
    for _ in range(2000):
        if held and rng.random() < 0.5:
            slots.release(held.pop(rng.randrange(len(held))))
            continue
        names = rng.sample("abcdefghijkl", 3)
        if slots.hold(names) is not None:
            held.append(names)
        used = {name: slots.slot(name) for each in held for name in each}
        assert len(set(used.values())) == len(used) <= 8
        assert slots.num_free == 8 - len(used)
