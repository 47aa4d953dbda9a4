"""Where edges should win, where they cannot, and how far: the loads of the suite by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.load.campaign import Load, Times
from benchmarks.load.running import fixed
from benchmarks.load.worker import Population
from benchmarks.sim.profiles import CELLULAR, DEVICES, LAPTOP, WIFI, WIRED, Device, Network
from benchmarks.sim.workload import SHARE_GPT, SHARE_GPT_TURNS, Lengths, Workload
from wisp.testing.drafter import COVERAGE

# A laptop with a GPU of its own: llama.cpp drafts 132 tokens/s with 1.5 billion parameters on an
# RTX 4050; scaled to 0.6 billion, less what does not scale (assumed), and rounded to 5 ms a token.
FAST_LAPTOP = Device("fast-laptop", 200.0, 4000.0)
THINK_S = 1.0
TURN_THINK_S = 20.0  # before the next turn of a conversation; benchmarks/sim/regimes.py says why
# Half of the turns of a public trace (Mooncake's) come back after 126 s, 90 % within 480 s: of a
# log-normal time, its median and the spread of its logarithm.
RETURN_S, RETURN_SIGMA = 126.0, 1.044
# What of that a load test of some minutes waits.
_SHORTENED = 0.1
# What is left for KV on a card of 80 GB beside the 32B shape in bfloat16, and so what larger cards
# are given, too; and what lies well within that on two cards beside the 70B shape (3.7 GiB on
# each). Other shapes take what there is.
KV_TOKENS = {"32b": 24_000, "70b": 24_000}


class Regime(NamedTuple):
    """Devices of one kind, or of all, at one distance, or at all; and the promise made to them."""

    name: str
    about: str
    devices: tuple[Device, ...]
    networks: tuple[Network, ...]
    rate: float  # tokens/s promised
    loads: tuple[int, ...]  # numbers of devices
    prompt: Lengths = SHARE_GPT[0]
    shape: str | None = None  # of the target; None: what the suite is told
    think_s: float = THINK_S  # mean, before a device asks again
    turns: float = 1.0  # of a conversation; with more the time to think is log-normal
    times: Times | None = None  # None: as the suite is told

    def load(self, devices: int, acceptance: float, coverage: tuple[float, ...] = COVERAGE) -> Load:
        workload = Workload(self.prompt, SHARE_GPT[1], self.think_s, turns=self.turns)
        if self.turns > 1.0:
            workload = workload._replace(think_sigma=RETURN_SIGMA)
        population = Population(self.devices, self.networks, workload)
        return Load(population, self.rate, acceptance, devices, self.name, coverage, self.times)


_LAN = (fixed(2.0),)
_ALL_NETWORKS = (WIRED, WIFI, CELLULAR)
# Prompts of some 1,500 tokens once the longest are cut off where the target's context ends.
_LONG = Lengths(2000.0)

REGIMES = (
    Regime(
        "lan-fast-60",
        "laptops that draft a token in 5 ms, 2 ms away",
        (FAST_LAPTOP,),
        _LAN,
        60.0,
        (24, 8, 16, 48),
    ),
    Regime(
        "lan-laptop-60",
        "laptops that draft a token in 10 ms, 2 ms away",
        (LAPTOP,),
        _LAN,
        60.0,
        (24, 8, 16, 48),
    ),
    Regime(
        "wan30-fast-40",
        "fast laptops, 30 ms away",
        (FAST_LAPTOP,),
        (fixed(30.0),),
        40.0,
        (16, 8, 24, 48),
    ),
    Regime(
        "wan80-fast-40",
        "fast laptops, 80 ms away",
        (FAST_LAPTOP,),
        (fixed(80.0),),
        40.0,
        (16, 8, 24, 48),
    ),
    Regime(
        "wan-mix-8",
        "all devices on all networks; from about 60 on not all of them fit into the KV memory",
        DEVICES,
        _ALL_NETWORKS,
        8.0,
        (48, 96, 144),
    ),
    Regime(
        "wan-mix-turns-8",
        "the same with conversations whose turns come back, a tenth as late as a public trace's",
        DEVICES,
        _ALL_NETWORKS,
        8.0,
        (160,),
        think_s=_SHORTENED * RETURN_S,
        turns=SHARE_GPT_TURNS,
        times=Times(warm_s=80.0, measure_s=120.0),
    ),
    Regime(
        "lan-laptop-long-40",
        "laptops, 2 ms away, long prompts",
        (LAPTOP,),
        _LAN,
        40.0,
        (8, 4, 12),
        prompt=_LONG,
    ),
    Regime(
        "lan-laptop-turns-20",
        "laptops, 2 ms away, turns of a conversation with time to think between them",
        (LAPTOP,),
        _LAN,
        20.0,
        (32, 16, 64),
        prompt=_LONG,
        think_s=TURN_THINK_S,
    ),
    Regime(
        "lan-laptop-60-8b",
        "laptops, 2 ms away, before a small fast target: nothing can be won",
        (LAPTOP,),
        _LAN,
        60.0,
        (24, 8, 48),
        shape="8b",
    ),
)
NAMES = tuple(regime.name for regime in REGIMES)


def chosen(asked: Sequence[str]) -> list[Regime]:
    """Of `all`, NAME or NAME:DEVICES,...; in the order above, which is that of their worth.

    Raises ValueError for a name that there is not, or devices that are no numbers.
    """
    loads: dict[str, tuple[int, ...] | None] = {}
    for each in asked:
        name, _, devices = each.partition(":")
        if name not in (*NAMES, "all"):
            raise ValueError(f"there is no regime '{name}': choose from {', '.join(NAMES)}")
        loads[name] = tuple(int(number) for number in devices.split(",")) if devices else None
    found = [each for each in REGIMES if each.name in loads or "all" in loads]
    return [each._replace(loads=loads.get(each.name) or each.loads) for each in found]


def in_turn(
    regimes: Sequence[Regime], acceptance: float, coverage: tuple[float, ...] = COVERAGE
) -> list[Load]:
    """The first load of each regime, then the second of each: what a short budget should see."""
    most = max((len(regime.loads) for regime in regimes), default=0)
    return [
        regime.load(regime.loads[turn], acceptance, coverage)
        for turn in range(most)
        for regime in regimes
        if turn < len(regime.loads)
    ]
