"""What the demo shows."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from wisp.demo.comparison import Comparison
from wisp.demo.pairs import Pair

DRAFT_STYLE, TARGET_STYLE = "green", "bold yellow"


def explain(console: Console, pair: Pair) -> None:
    if pair.name == "tiny":
        console.print("The bundled pair is tiny: it shows the mechanism, not good answers.")
    legend = Text("Written by ")
    legend.append("the edge's accepted drafts", DRAFT_STYLE).append(" and ")
    legend.append("the target itself", TARGET_STYLE).append(":")
    console.print(legend)


def report(console: Console, pairs: list[Comparison], summary: dict[str, Any]) -> None:
    table = Table(title="Through an edge, and by the target alone")
    columns = "edge", "temp.", "tokens", "accepted", "tok/step", "wasted", "tok/s", "alone", "equal"
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for pair in pairs:
        table.add_row(
            str(pair.edge + 1),
            str(pair.request.temperature),
            str(pair.drafted.num_tokens),
            f"{pair.wisp['acceptance'] or 0:.0%}",
            f"{pair.wisp['tokens_per_step']:.2f}",
            f"{pair.wisp['wasted_draft_share']:.0%}",
            f"{pair.drafted.num_tokens / pair.drafted.time_s:.0f}",
            f"{pair.alone.num_tokens / pair.alone.time_s:.0f}",
            "yes" if pair.equal else "NO",
        )
    console.print(table)
    for temperature, found in summary["by_temperature"].items():
        console.print(
            f"temperature {temperature}: {found['speedup']:.2f} x the speed of the target alone, "
            f"acceptance {found['acceptance']:.0%}, {found['tokens_per_step']:.2f} tokens per "
            f"step of the target, {found['wasted_draft_share']:.0%} of drafting wasted"
        )
    if summary["lossless"]:
        console.print(f"lossless: all {len(pairs)} texts equal what the target writes alone")
    else:
        wrong = sum(not pair.equal for pair in pairs)
        console.print(f"NOT lossless: {wrong} of {len(pairs)} texts differ", style="bold red")
