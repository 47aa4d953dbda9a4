"""When a device must not draft; the battery is a double."""

from __future__ import annotations

from typing import NamedTuple

import psutil
import pytest

from wisp.config import PowerSettings
from wisp.edge.power import (
    FEEL_S,
    LOOK_S,
    MIN_SHARE,
    SHARED_MIN_CHANCE,
    Power,
    battery,
    on_this_machine,
)
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


def test_a_sensor_that_fails_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request, and no draft, may end with it."""

    def fail() -> None:
        raise ValueError("invalid literal for int() with base 10: 'unknown'")

    monkeypatch.setattr(psutil, "sensors_battery", fail, raising=False)
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


def test_a_hot_device_drafts_less_and_a_cool_one_as_before() -> None:
    degrees: list[float | None] = [60.0, 76.0, 80.0, 74.0, 72.0, 71.0, None]
    power = Power(PowerSettings(max_share=0.8, max_celsius=75), heat=lambda: degrees.pop(0))
    found = []
    for index in range(7):
        power.spent(0.1, index * FEEL_S)
        found.append(power.share)
    assert found == [0.8, 0.4, 0.2, 0.2, 0.4, 0.8, 0.8]


def test_heat_is_felt_now_and_then_and_only_if_asked_to() -> None:
    looks: list[float] = []

    def heat() -> float:
        looks.append(90.0)
        return 90.0

    power = Power(PowerSettings(max_celsius=75), heat=heat)
    for tenth in range(25):
        power.spent(0.1, tenth * FEEL_S / 10)
    assert len(looks) == 3
    assert power.pause_s(24 * FEEL_S / 10) == pytest.approx(0.7)  # an eighth of the time
    for index in range(3, 20):
        power.spent(0.1, index * FEEL_S)
    assert power.share == MIN_SHARE
    careless = Power(PowerSettings(), heat=heat)
    careless.spent(0.1, 0.0)
    assert (len(looks), careless.share) == (20, 1.0)


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
