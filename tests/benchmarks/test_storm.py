from __future__ import annotations

from benchmarks.storm import ATTEMPT_S, storm


def test_a_queue_that_every_edge_waits_for_is_worked_off_in_its_time() -> None:
    """40 edges for each of the 10 replicas that are left, at 20 a second, in 2 s."""
    outcome = storm(1200, 30, 20.0, lost_share=2 / 3)
    assert 2.0 <= outcome.all_s < ATTEMPT_S + 1.0
    assert outcome.half_s < outcome.most_s <= outcome.all_s


def test_a_replica_that_works_for_those_who_have_left_never_ends() -> None:
    """The same edges at 2 a second: 40 s of handshakes, of which 5 s are waited for."""
    outcome = storm(1200, 30, 2.0, lost_share=2 / 3, limit_s=60.0)
    assert outcome.all_s == 60.0
    assert outcome.attempts > 5


def test_more_handshakes_a_second_bring_them_back_sooner() -> None:
    slow, fast = (storm(3000, 30, rate) for rate in (50.0, 200.0))
    assert fast.most_s < slow.most_s
