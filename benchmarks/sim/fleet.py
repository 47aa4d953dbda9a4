"""A whole simulation: a target, a policy, a fleet of devices, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from statistics import median

from msgspec import structs

from benchmarks.sim.colocated import Colocated, ColocatedTarget, OwnTarget
from benchmarks.sim.edge import Edge, Result, Tally
from benchmarks.sim.events import Events
from benchmarks.sim.network import Way
from benchmarks.sim.profiles import CELLULAR, DEVICES, WIFI, WIRED, Device, Network
from benchmarks.sim.server import Server
from benchmarks.sim.step_times import A100, HOST, QWEN3_32B, Host, StepTimes, roofline
from benchmarks.sim.target import SLOWING, SimulatedTarget, Slowing
from benchmarks.sim.text import BetaTexts, Texts
from benchmarks.sim.workload import Presence, Workload, steady
from wisp.core.drafts import Directive
from wisp.core.slo import Slo
from wisp.edge.predictor import ConfidencePredictor, Predictor
from wisp.engine.engine import Engine
from wisp.engine.profiling import profile
from wisp.estimator.base import Estimator
from wisp.estimator.step_time import StepTimeEstimator
from wisp.scheduler.policy import make_policy
from wisp.scheduler.tuning import MAX_WINDOW, PolicyChoice, PolicyName, Tuning
from wisp.testing.clock import VirtualClock

A100_STEP_TIMES = roofline(A100, QWEN3_32B)
EIGHT = Slo(tokens_per_s=8.0, first_token_s=2.0)
CHAT = Workload()
# One device in so many is promised something else. Chosen: few of a fleet, all of one kind.
_FEW = 12


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a simulation depends on; times are seconds."""

    step_times: StepTimes = A100_STEP_TIMES
    kv_tokens: int = int((A100.memory_bytes - QWEN3_32B.weight_bytes) / QWEN3_32B.kv_bytes)
    host_kv_tokens: int = 0  # whose KV may be parked in host memory
    slowing: Slowing = SLOWING  # of steps beside copies between the two
    max_sessions: int = 2048
    slo: Slo = EIGHT
    few: Slo | None = None  # of one device in twelve, in place of that
    devices: Sequence[Device] = DEVICES  # equal shares
    networks: Sequence[Network] = (WIRED, WIFI, CELLULAR)  # equal shares
    workload: Workload = CHAT
    texts: Texts = field(default_factory=lambda: BetaTexts(0.7))
    predictor: Callable[[], Predictor] = ConfidencePredictor  # makes the one for all devices
    edge_block_tokens: int = 1  # the default of wisp-edge
    max_forks: int = 0  # of a session's drafts; 0: edges do not fork
    host: Host = HOST
    overlap: bool = True  # a step is launched while another runs
    # Devices ask what the users of the load test ask, draw for draw (benchmarks/load/users.py). The
    # first answer of each is half-way, as a user met at any moment is.
    met_halfway: bool = False
    colocated: Colocated | None = None  # a drafter beside the target, on its GPU
    own: Colocated | None = None  # likewise, which drafts for whom the policy asks
    edges_draft: bool = True  # False: devices have no drafter
    warm_up_s: float = 20.0
    measured_s: float = 100.0
    seed: int = 1

    @property
    def end_s(self) -> float:
        return self.warm_up_s + self.measured_s

    def from_to(self, start_s: float, end_s: float) -> Setup:
        """Measured in that time alone."""
        return replace(self, warm_up_s=start_s, measured_s=end_s - start_s)


@dataclass(slots=True)
class Report:
    """Of sessions alive after the warm-up, tokens received after it, and all steps."""

    sessions: list[Result]  # whenever they were opened: none can be starved for free
    end_s: float
    tokens_per_s: float
    goodput: float  # of those, what was there when a reader at the promised rate wanted it
    num_steps: int
    tokens_per_step: float
    seats_per_step: float
    busy: float
    recomputed: float  # share of the tokens computed whose KV had been taken away
    copied_per_s: float  # tokens whose KV was parked or loaded
    found: float  # share of the tokens of prompts whose KV was in host memory
    num_events: int

    @property
    def attainment(self) -> float:
        """Share of sessions whose promise was attained as the device saw it: the first token in
        time, and from there on at least the promised rate on average.

        Sessions still running at the end count by what they got; those still waiting for a first
        token count as broken once it is late. 1 without any session.
        """
        return self._attainment(self.sessions)

    def attained_of(self, slo: Slo) -> float:
        """The same of those that were promised this."""
        return self._attainment(each for each in self.sessions if each.attainment.slo == slo)

    def _attainment(self, sessions: Iterable[Result]) -> float:
        judged = [met for each in sessions if (met := each.met(self.end_s)) is not None]
        return sum(judged) / len(judged) if judged else 1.0

    @property
    def first_token_s(self) -> float:
        """The median wait, of the sessions that have a first token; infinite if none has."""
        waits = [each.attainment.first_token_s for each in self.sessions]
        return median([wait for wait in waits if wait is not None] or [math.inf])

    @property
    def acceptance(self) -> float:
        """Accepted of drafted tokens, over the sessions that ended."""
        drafted = sum(each.num_drafted for each in self.sessions)
        return sum(each.num_accepted for each in self.sessions) / max(1, drafted)

    @property
    def waste_per_token(self) -> tuple[float, float]:
        """Seconds of wasted drafting, blocking and overlapped, for each token of ended sessions."""
        ended = [each for each in self.sessions if each.ended_s is not None]
        num_tokens = max(1, sum(each.attainment.num_tokens for each in ended))
        blocking_s = sum(each.waste.blocking_s for each in ended)
        return blocking_s / num_tokens, sum(e.waste.overlapped_s for e in ended) / num_tokens


def simulate(
    policy: PolicyName,
    num_devices: int | Sequence[Presence],
    setup: Setup,
    tuning: Tuning,
    *,
    estimator: Estimator | None = None,
    tally: Tally | None = None,
    moments: Sequence[tuple[float, Callable[[], None]]] = (),
) -> Report:
    """`estimator`: None learns one from a profile of the target, as a server does at its start.

    `tally`: of what users get; None: of all after the warm-up. `moments`: what is called when.
    """
    events, clock = Events(), VirtualClock()
    target = make_target(setup, clock)
    choice = PolicyChoice(policy=policy, **structs.asdict(tuning))
    first = choice.first
    engine = Engine(
        target,
        make_policy(
            choice,
            estimator or learn(setup, tuning),
            max_own=setup.own.num_drafts if setup.own else 0,
        ),
        max_window=MAX_WINDOW,
        max_forks=setup.max_forks,
        drafts_own=setup.own is not None,
        clock=clock,
    )
    server = Server(events, engine, clock, first, setup.host)
    predictor = setup.predictor()
    tally = tally or Tally(setup.warm_up_s)
    for at_s, what in moments:
        events.at(at_s, what)
    presences = (
        steady(num_devices, setup.warm_up_s, setup.seed)
        if isinstance(num_devices, int)
        else num_devices
    )
    for number, presence in enumerate(presences):
        _add_edge(number, presence, events, server, setup, predictor, first, tally)
    events.run(setup.end_s)
    return Report(
        sessions=[each for each in tally.sessions if (each.ended_s or math.inf) >= setup.warm_up_s],
        end_s=setup.end_s,
        tokens_per_s=tally.num_tokens / setup.measured_s,
        goodput=tally.num_in_time / setup.measured_s,
        num_steps=target.num_steps,
        tokens_per_step=target.num_tokens / max(1, target.num_steps),
        seats_per_step=target.num_seats / max(1, target.num_steps),
        busy=target.busy_s / setup.end_s,
        recomputed=target.num_recomputed / max(1, target.num_tokens),
        copied_per_s=target.num_copied / setup.end_s,
        found=target.num_found / max(1, target.num_asked),
        num_events=events.num_done,
    )


def make_target(setup: Setup, clock: VirtualClock) -> SimulatedTarget:
    make: Callable[..., SimulatedTarget] = SimulatedTarget
    if setup.colocated:
        make = partial(ColocatedTarget, drafter=setup.colocated)
    elif setup.own:
        make = partial(OwnTarget, drafter=setup.own)
    return make(
        setup.step_times,
        clock,
        kv_tokens=setup.kv_tokens,
        host_kv_tokens=setup.host_kv_tokens,
        max_sessions=setup.max_sessions,
        seed=setup.seed,
        host=setup.host,
        overlap=setup.overlap,
        slowing=setup.slowing,
    )


def learn(setup: Setup, tuning: Tuning) -> StepTimeEstimator:
    """The startup profile of the real server, on the simulated target."""
    clock = VirtualClock()
    estimator = StepTimeEstimator()
    observations = profile(
        make_target(setup, clock),
        max_step_tokens=tuning.max_step_tokens,
        max_window=MAX_WINDOW,
        clock=clock,
        seed=setup.seed,
    )
    estimator.fit(observations)
    return estimator


def _add_edge(
    number: int,
    presence: Presence,
    events: Events,
    server: Server,
    setup: Setup,
    predictor: Predictor,
    first: Directive,
    tally: Tally,
) -> None:
    # Devices and networks are dealt out evenly, each device kind on every network.
    profile = setup.devices[number % len(setup.devices)]
    network = setup.networks[number // len(setup.devices) % len(setup.networks)]
    up, down = (
        Way(events, network, Random(f"{way} {setup.seed} {number}")) for way in ("up", "down")
    )
    Edge(
        number,
        events,
        server,
        profile,
        up,
        down,
        slo=setup.few if setup.few and number % _FEW == 0 else setup.slo,
        workload=setup.workload,
        presence=presence,
        texts=setup.texts,
        predictor=predictor,
        drafts=first.window > 0 and setup.edges_draft,
        block_tokens=setup.edge_block_tokens,
        max_forks=setup.max_forks,
        met_halfway=setup.met_halfway,
        seed=setup.seed,
        tally=tally,
    )
