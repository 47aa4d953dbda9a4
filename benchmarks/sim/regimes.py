"""The regimes of the matrix: what edges, promises and a target are like together."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from benchmarks.load.texts import SessionTexts
from benchmarks.sim.fleet import Setup
from benchmarks.sim.profiles import CELLULAR, DEVICES, LAPTOP, WIFI, WIRED, Device, Network
from benchmarks.sim.step_times import (
    A100,
    H100,
    H200,
    LLAMA_70B,
    QWEN3_8B,
    QWEN3_32B,
    Fitted,
    Gpu,
    LinearTimes,
    StepTimes,
    implied_by_paper,
    roofline,
)
from benchmarks.sim.workload import SHARE_GPT, Lengths, Workload
from wisp.core.slo import Slo
from wisp.estimator.store import read

_LEARNED = Path(__file__).parents[1] / "results" / "h200_32b_step_times.json"

# A laptop with a GPU of its own: as in benchmarks/load/regimes.py.
FAST_LAPTOP = Device("fast-laptop", 200.0, 4000.0)
_ALL = (WIRED, WIFI, CELLULAR)
_LAN = (Network("lan", 0.002, 0.0, 0.0),)  # a team's own server: 2 ms, as in the load test
_WAN30 = (Network("30 ms", 0.030, 0.0, 0.0),)  # as in the load test
_WAN80 = (Network("80 ms", 0.080, 0.0, 0.0),)  # as in the load test
# Tokens of KV: what 80 GB leave beside the 32B shape, by arithmetic and as vLLM gives it.
_KV_A100 = int((A100.memory_bytes - QWEN3_32B.weight_bytes) / QWEN3_32B.kv_bytes)
_KV_32B = 24_000
# What two cards of 80 GB leave beside a 70B shape, and what an H200 leaves beside an 8B one.
_KV_70B = int(2 * 0.9 * A100.memory_bytes - LLAMA_70B.weight_bytes) // LLAMA_70B.kv_bytes
_KV_8B = int((0.9 * H200.memory_bytes - QWEN3_8B.weight_bytes) / QWEN3_8B.kv_bytes)
# Of the Azure conversations of 2023, log-normal by median and 90th percentile.
_AZURE = Workload(Lengths(1350.0, 0.77, most=8192), Lengths(195.0, 0.93, most=1024))
# Turns of a conversation: the prompt is what was said so far, and its user thinks for a while. In
# real ones (Mooncake's trace) half think longer than two minutes; that would be no load here.
_TURNS = _AZURE._replace(think_s=20.0)


def half(step_times: LinearTimes) -> LinearTimes:
    """The paper's, if half of the time is the token's."""
    whole_s = step_times.seat_s + step_times.token_s
    return step_times._replace(seat_s=0.5 * whole_s, token_s=0.5 * whole_s)


_PAPER = implied_by_paper(A100, QWEN3_32B)
_TWO_A100 = Gpu("A100-80GB x2", 160e9, 2 * 2.039e12, 2 * 312e12, 0.67, 0.63)
LAWS: dict[str, StepTimes] = {
    "paper": _PAPER,  # 3.07 ms a session, no floor
    "half": half(_PAPER),
    "a100": roofline(A100, QWEN3_32B),  # scaled from an H200's: a floor of 47 ms
    "h100": roofline(H100, QWEN3_32B),  # as measured: a floor of 25 ms
    "h200": Fitted(read(_LEARNED)),  # learned by a server under load
    "8b": roofline(H200, QWEN3_8B),  # a floor of 5 ms
    "70b": roofline(_TWO_A100, LLAMA_70B),  # a slow target: a floor of 52 ms
}


class Regime(NamedTuple):
    law: str
    rate: float  # tokens/s promised
    loads: tuple[int, ...]  # numbers of devices; the first alone in a quick run
    devices: tuple[Device, ...] = DEVICES
    networks: tuple[Network, ...] = _ALL
    kv_tokens: int = _KV_A100
    workload: Workload = Workload()
    quick: tuple[float, ...] = (0.7,)  # acceptances tried in a quick run
    measured_s: float = 40.0

    def setup(self, acceptance: float, seed: int, measured_s: float | None = None) -> Setup:
        measured_s = measured_s or self.measured_s
        return Setup(
            step_times=LAWS[self.law],
            kv_tokens=self.kv_tokens,
            slo=Slo(tokens_per_s=self.rate, first_token_s=2.0),
            devices=self.devices,
            networks=self.networks,
            workload=self.workload,
            texts=SessionTexts(acceptance),
            warm_up_s=0.5 * measured_s,
            measured_s=measured_s,
            seed=seed,
        )


def _with_prompts(num_prompt: float, num_output: float) -> Workload:
    return Workload(Lengths(num_prompt), SHARE_GPT[1]._replace(mean=num_output))


_FAST = Regime("h100", 60.0, (24, 8, 48), (FAST_LAPTOP,), _LAN, _KV_32B, measured_s=20.0)
_LAPTOPS = _FAST._replace(devices=(LAPTOP,), loads=(24, 8))
REGIMES: dict[str, Regime] = {
    "paper": Regime("paper", 8.0, (60, 20, 90), quick=(0.7, 0.5, 0.85)),
    "paper, prompts 512": Regime("paper", 8.0, (40, 20), workload=_with_prompts(512.0, 256.0)),
    "half": Regime("half", 8.0, (28, 14)),
    "a100": Regime("a100", 8.0, (120, 40)),
    "h200": Regime("h200", 40.0, (72, 24, 96), measured_s=20.0),
    "lan fast": _FAST,
    "lan laptop": _LAPTOPS,
    "30 ms fast": _FAST._replace(rate=40.0, loads=(16, 48), networks=_WAN30),
    "80 ms fast": _FAST._replace(rate=40.0, loads=(16,), networks=_WAN80),
    "fleet": Regime("h100", 8.0, (48, 96, 144), kv_tokens=_KV_32B),
    "long prompts": _LAPTOPS._replace(rate=20.0, loads=(8, 12), workload=_AZURE, measured_s=40.0),
    "turns": _LAPTOPS._replace(rate=20.0, loads=(32, 64), workload=_TURNS, measured_s=120.0),
    "8b": _LAPTOPS._replace(law="8b", loads=(24, 48), kv_tokens=_KV_8B, measured_s=15.0),
    "70b": _LAPTOPS._replace(
        law="70b", rate=20.0, loads=(24, 48), networks=_WAN30, kv_tokens=_KV_70B, measured_s=40.0
    ),
}
