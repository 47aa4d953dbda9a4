"""When a device must not draft; the battery is a double."""

from __future__ import annotations

from typing import NamedTuple

import psutil
import pytest

from wisp.config import PowerSettings
from wisp.edge.power import LOOK_S, SHARED_MIN_CHANCE, Power, battery, on_this_machine
from wisp.edge.stream import MIN_CHANCE


class Told(NamedTuple):
    """As psutil tells of a battery."""

    percent: float
    power_plugged: bool | None


@pytest.mark.parametrize(
    ("told", "charge"),
    [
        (Told(25.0, False), 0.25),
        (Told(25.0, True), None),
        (Told(25.0, None), None),  # the system cannot tell
        (None, None),  # there is none
    ],
)
def test_the_charge_counts_while_the_device_runs_on_it(
    monkeypatch: pytest.MonkeyPatch, told: Told | None, charge: float | None
) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: told, raising=False)
    assert battery() == charge


def test_a_system_without_the_sensor_has_no_battery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(psutil, "sensors_battery", raising=False)
    assert battery() is None


def test_it_rests_below_the_threshold_and_goes_on_above() -> None:
    charges: list[float | None] = [0.5, 0.29, 0.1, None]
    power = Power(PowerSettings(min_battery=0.3), lambda: charges.pop(0))
    found = [power.rests(index * LOOK_S) for index in range(4)]
    assert found == [False, True, True, False]


def test_it_looks_now_and_then_and_only_if_asked_to() -> None:
    looks: list[float] = []

    def look() -> float:
        looks.append(0.1)
        return 0.1

    power = Power(PowerSettings(min_battery=0.3), look)
    assert all(power.rests(tenth * LOOK_S / 10) for tenth in range(25))
    assert len(looks) == 3
    careless = Power(PowerSettings(), look)
    assert not careless.rests(0.0)
    assert len(looks) == 3


@pytest.mark.parametrize(("max_share", "pause_s"), [(1.0, 0.0), (0.5, 0.2), (0.25, 0.6)])
def test_it_pauses_so_that_the_share_is_kept(max_share: float, pause_s: float) -> None:
    power = Power(PowerSettings(max_share=max_share))
    assert power.pause_s(1.0) == 0.0
    power.spent(0.2, 1.0)
    assert power.pause_s(1.0) == pytest.approx(pause_s)
    assert power.pause_s(1.1) == pytest.approx(max(0.0, pause_s - 0.1))  # idle time counts
    assert power.pause_s(9.0) == 0.0


@pytest.mark.parametrize(
    ("servers", "here"),
    [
        ("127.0.0.1:8001", True),
        ("localhost:8001, [::1]:8001", True),
        ("gpu-node:8001", False),
        ("127.0.0.1:8001,10.0.0.7:8001", False),
    ],
)
def test_where_the_target_computes(servers: str, here: bool) -> None:
    assert on_this_machine(servers) == here


def test_on_shared_cores_only_likely_drafts_are_made_unless_one_says_otherwise() -> None:
    assert Power(PowerSettings()).min_chance == MIN_CHANCE
    assert Power(PowerSettings(), shares_cores=True).min_chance == SHARED_MIN_CHANCE
    assert Power(PowerSettings(min_chance=0.1), shares_cores=True).min_chance == 0.1
