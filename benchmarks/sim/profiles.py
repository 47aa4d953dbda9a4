"""What edges and networks are like. Each number says where it comes from, or that it is assumed."""

from __future__ import annotations

from typing import NamedTuple

from wisp.edge.breadth import Breadth


class Device(NamedTuple):
    """Drafts with some 0.6 billion parameters in 4 bits (llama.cpp), for one session at a time."""

    name: str
    tokens_per_s: float  # drafting
    prefill_tokens_per_s: float  # of a prompt, before the first draft
    jitter: float = 0.1  # standard deviation of the logarithm of a token's time (assumed)
    # Tokens of context at which a draft takes twice as long: their KV (Qwen3-0.6B: 28 layers, 8
    # heads of 128, 115 kB a token) is then as much to read as 0.4 GB of weights in 4 bits.
    doubling_tokens: float = 3500.0
    # What a step of 1, 2, 3, 4 branches takes, in steps of one: measured for the bundled pair's
    # drafter on one core (docs/measurements/forks.md).
    branch_costs: tuple[float, ...] = (1.0, 1.18, 1.32, 1.42)

    def draft_s(self, num_context: int) -> float:
        """Of one token behind so many."""
        return (1.0 + num_context / self.doubling_tokens) / self.tokens_per_s

    def breadth(self) -> Breadth:
        """What such a device has measured at its start."""
        found = Breadth()
        for size, cost in enumerate(self.branch_costs, 1):
            found.observe(size, cost / self.tokens_per_s)
        return found


# Single-board computer: 4-bit models of 0.5 to 0.6 billion parameters draft 10 to 20 tokens a
# second on its four cores: 0.4 GB of weights at some 9 GB/s (assumed; the reports that we found,
# such as syaffers.xyz/posts/llms-on-mobile-cpu and arXiv 2511.07425, agree with the order).
RASPBERRY_PI_5 = Device("raspberry-pi-5", 15.0, 120.0)
# smolhub.com/posts/jetson-nano-super-benchmark-non-reasoning: LFM2.5-1.2B at 54 tokens/s with
# llama.cpp in the 25 W mode; scaled by half the weights less what does not scale (assumed).
JETSON_ORIN_NANO = Device("jetson-orin-nano", 80.0, 1500.0)
# dev.to/as1as: Qwen3-1.7B Q8_0 at 16.6 tokens/s with llama.cpp on an Adreno GPU; scaled by the
# weights read for a token, 1.8 GB against 0.64 GB (assumed).
PHONE = Device("phone", 40.0, 300.0, jitter=0.2)
# jitesh.dev/blog/qwen35-apple-silicon-benchmark: a model of 0.8 billion parameters in Q4_K_M at
# 103 tokens/s, prompts at 2,085, with llama.cpp on an Apple M4.
LAPTOP = Device("laptop", 100.0, 2000.0)

DEVICES = (RASPBERRY_PI_5, JETSON_ORIN_NANO, PHONE, LAPTOP)


class Network(NamedTuple):
    """A path between an edge and the server, the same both ways; all numbers are assumed.

    A lost packet is sent again after `resend_s`, and what follows it waits (one ordered stream).
    """

    name: str
    round_trip_s: float
    jitter_s: float  # mean of what each way takes beyond half of `round_trip_s` (exponential)
    loss: float  # of a message
    resend_s: float = 0.2  # the least retransmission timeout of TCP on Linux


WIRED = Network("wired", 0.010, 0.001, 0.0)  # chosen: all its numbers are assumed
WIFI = Network("wifi", 0.030, 0.004, 0.002)  # chosen: all its numbers are assumed
CELLULAR = Network("cellular", 0.060, 0.012, 0.005)  # chosen: all its numbers are assumed
FAR = Network("far", 0.120, 0.015, 0.005)  # chosen: all its numbers are assumed

NETWORKS = {network.name: network for network in (WIRED, WIFI, CELLULAR, FAR)}
