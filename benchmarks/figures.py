"""The figures of the documentation, from committed CSV files.

    make figures        (or: python -m benchmarks.figures [--out docs/figures])

The same files give the same bytes: no dates, and identifiers that do not change.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt

from benchmarks.estimator import DATA, Guess, guess, read

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
POLICIES = {
    "wisp": "#d55e00",
    "wisp-paper": "#e69f00",
    "sled": "#0072b2",
    "centralized": "#777777",
}
WASTE = {"blocking_ms": ("blocking", "#d55e00"), "overlapped_ms": ("overlapped", "#e6b48c")}
LANES = {"draft": "edge drafts", "up": "drafts travel", "step": "target", "down": "verdict travels"}
LANE_COLOURS = {"draft": "#d55e00", "up": "#bbbbbb", "step": "#0072b2", "down": "#bbbbbb"}
SHOWN_S = 2.5  # of the timeline
GPU_FLEET = "h100_32b_parked"  # everybody in one run
# Two runs, each with plain vLLM: a bar is of the first one that has it.
GPU_REGIMES = ("h200_32b_graphs_by_eighths", "h200_32b_own_drafter")
# Of the figures of a GPU: the parts of `benchmarks.load.suite`.
PARTS = {
    "plain vLLM": ("vllm",),
    "WISP": ("wisp", "wisp-parked"),
    "WISP + 0.6B drafter": ("wisp-drafter",),
    "vLLM + 0.6B drafter": ("vllm-draft-4",),
    "WISP + EAGLE-3 head": ("wisp-eagle",),
    "vLLM + EAGLE-3 head": ("vllm-eagle-4",),
    "vLLM, offload": ("vllm-offload",),
}
PEERS = {
    "WISP": "#d55e00",
    "WISP + 0.6B drafter": "#e6a06c",
    "vLLM + 0.6B drafter": "#0072b2",
    "WISP + EAGLE-3 head": "#009e73",
    "vLLM + EAGLE-3 head": "#56b4e9",
    "vLLM, offload": "#999999",
}
REGIMES = {
    "lan-fast-60": "fast laptops, LAN",
    "lan-laptop-60": "laptops, LAN",
    "wan30-fast-40": "fast laptops, 30 ms",
    "wan-mix-8": "mixed fleet",
}
Rows = list[dict[str, str]]

plt.rcParams.update(
    {
        "svg.hashsalt": "wisp",
        "svg.fonttype": "none",  # text stays text
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e6e6e6",
        "axes.axisbelow": True,
        "figure.facecolor": "white",
        "legend.frameon": False,
    }
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        try:
            figure = draw()
        except FileNotFoundError as missing:
            print(f"{name}: not drawn without {missing.filename}")
            continue
        figure.savefig(options.out / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
        plt.close(figure)


def loads() -> Any:
    """Goodput and attainment over the number of devices."""
    rows = _read("sim_loads_paper")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for policy, colour in POLICIES.items():
        mine = [row for row in rows if row["policy"] == policy]
        devices = [int(row["devices"]) for row in mine]
        for axis, column, scale in ((axes[0], "goodput", 1.0), (axes[1], "attainment", 100.0)):
            values = [scale * float(row[column]) for row in mine]
            axis.plot(devices, values, "o-", color=colour, label=policy, markersize=4)
    axes[0].set(xlabel="devices", ylabel="goodput, tokens/s", ylim=(0, None))
    axes[1].set(xlabel="devices", ylabel="sessions with their promise kept, %", ylim=(0, 104))
    axes[1].axhline(95, color="black", linewidth=0.8, linestyle=":")
    axes[0].legend()
    return figure


def estimator() -> Any:
    """Predicted against measured steps, each of a batch size that the fit has not seen."""
    rows = read(DATA)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained", sharey=True)
    for axis, kind in zip(axes, ("wisp", "paper"), strict=True):
        found: list[Guess] = []
        for batch in sorted({row.batch for row in rows}):
            kept = [row for row in rows if row.batch != batch]
            found += guess(kind, kept, [row for row in rows if row.batch == batch])
        measured = [1e3 * each.row.median_s for each in found]
        predicted = [1e3 * each.predicted_s for each in found]
        ends = (0.9 * min(measured), 1.1 * max(measured))
        axis.plot(ends, ends, color="black", linewidth=0.8)
        axis.loglog(measured, predicted, ".", color=POLICIES["wisp"], markersize=4)
        errors = [abs(p / m - 1.0) for p, m in zip(predicted, measured, strict=True)]
        error = 100.0 * sum(errors) / len(errors)
        title = "this estimator" if kind == "wisp" else "the paper's linear form"
        axis.set(xlabel="measured, ms", title=f"{title}: mean error {error:.1f} %")
    axes[0].set_ylabel("predicted, ms")
    return figure


def timeline() -> Any:
    """Who works when, in one session."""
    rows = _read("sim_timeline")
    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure, axes = plt.subplots(2, 1, figsize=(9, 3.8), layout="constrained", sharex=True)
    for axis, case in zip(axes, cases, strict=True):
        mine = [row for row in rows if row["case"] == case]
        for lane, kind in enumerate(reversed(LANES)):
            spans = [
                (float(row["start_s"]), float(row["end_s"]) - float(row["start_s"]))
                for row in mine
                if row["kind"] == kind and float(row["start_s"]) < SHOWN_S
            ]
            axis.broken_barh(spans, (lane - 0.35, 0.7), color=LANE_COLOURS[kind], linewidth=0)
        shown = [row for row in mine if row["kind"] == "down" and float(row["end_s"]) <= SHOWN_S]
        committed = sum(int(row["tokens"]) for row in shown)
        axis.set_yticks(range(len(LANES)), [LANES[kind] for kind in reversed(LANES)])
        axis.set(xlim=(0, SHOWN_S), title=f"{case}: {committed} tokens in {SHOWN_S:g} s")
        axis.grid(axis="y", visible=False)
    axes[-1].set_xlabel("seconds since the request")
    return figure


def waste() -> Any:
    """Drafting for nothing, for each token that reached the user."""
    rows = _read("sim_waste_paper")
    figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
    names = [row["case"] for row in rows]
    bottom = [0.0] * len(rows)
    for column, (label, colour) in WASTE.items():
        values = [float(row[column]) for row in rows]
        axis.bar(names, values, 0.6, bottom=bottom, color=colour, label=label)
        bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    axis.set_ylabel("wasted drafting, ms per token")
    axis.grid(axis="x", visible=False)
    axis.legend()
    return figure


def regimes() -> Any:
    """Gain over plain vLLM under the same load on the same GPU in the same run, by regime."""
    rows = [row for name in reversed(GPU_REGIMES) for row in _read(name) if row["gain"]]
    loads = list(dict.fromkeys((row["regime"], row["devices"]) for row in rows))
    shown = {name: colour for name, colour in PEERS.items() if any(_is(row, name) for row in rows)}
    figure, axis = plt.subplots(figsize=(9, 3.6), layout="constrained")
    width = 0.8 / len(shown)
    for index, (name, colour) in enumerate(shown.items()):
        mine = {(row["regime"], row["devices"]): row for row in rows if _is(row, name)}
        places = [at for at, load in enumerate(loads) if load in mine]
        gains = [float(mine[loads[at]]["gain"]) for at in places]
        at = [place + (index - (len(shown) - 1) / 2) * width for place in places]
        axis.bar(at, gains, width, color=colour, label=name)
    axis.axhline(1.0, color="black", linewidth=0.8)
    labels = [f"{REGIMES[regime]}\n{devices} devices" for regime, devices in loads]
    axis.set_xticks(range(len(loads)), labels, fontsize=8)
    axis.set_ylabel("goodput over plain vLLM's")
    axis.grid(axis="x", visible=False)
    figure.legend(loc="outside upper center", ncols=len(shown))
    return figure


def fleet() -> Any:
    """A mixed fleet that outgrows the KV memory: goodput and promises attained."""
    rows = [row for row in _read(GPU_FLEET) if row["regime"] == "wan-mix-8"]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for name, colour in ({"plain vLLM": "#777777"} | PEERS).items():
        found = {int(row["devices"]): row for row in rows if _is(row, name)}
        devices = sorted(found)
        mine = [found[number] for number in devices]
        for axis, column, scale in ((axes[0], "goodput", 1.0), (axes[1], "attainment", 100.0)):
            values = [scale * float(row[column]) for row in mine]
            if values:
                axis.plot(devices, values, "o-", color=colour, label=name, markersize=4)
    axes[0].set(xlabel="devices", ylabel="goodput, tokens/s", ylim=(0, None))
    axes[1].set(xlabel="devices", ylabel="promises attained, %", ylim=(0, 104))
    axes[0].legend()
    return figure


def _is(row: dict[str, str], name: str) -> bool:
    """Whether the row is of this column of the figures."""
    return row["part"] in PARTS[name]


def _read(name: str) -> Rows:
    with (RESULTS / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


FIGURES: dict[str, Callable[[], Any]] = {
    "loads": loads,
    "estimator": estimator,
    "timeline": timeline,
    "waste": waste,
    "regimes": regimes,
    "fleet": fleet,
}

if __name__ == "__main__":
    main()
