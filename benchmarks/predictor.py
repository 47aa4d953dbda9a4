"""How well rejections are predicted, and what that is worth, replayed on a pair's own text.

    python -m benchmarks.predictor [--json] [--target DIR --draft DIR --prompts FILE] [--num 40]
                                   [--step 6]

The target writes on from prompts that neither model was trained on; half of them are learned from
(online, one pass) and tune every policy's threshold, the other half are measured, with what was
learned left as it is. All positions count: a false accept is a wrong draft whose probability
reaches the threshold at which the given share of the right ones does.

Goodput is committed tokens in the time of one draft token, in a model: a round takes its drafts'
time, a round trip, and one step of the target, which costs the same whatever it holds; the next
round begins when the verdict is there. The oracle knows the first rejection before it drafts it.
The figures at the top are over all positions of both temperatures; goodput is the mean over both
and all round trips.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.predictor_replay import (
    Costs,
    CumulativeAcceptance,
    EntropyBound,
    Fixed,
    Oracle,
    Policy,
    labels,
    replay,
    tune,
)
from benchmarks.predictor_traces import Trace, record
from benchmarks.setting import describe, setting
from wisp.config import TINY
from wisp.core.drafts import REST, Verdict
from wisp.edge.predictor import ConfidencePredictor, Label, LogisticPredictor, fit
from wisp.edge.predictor.calibration import Calibration
from wisp.edge.stream import Stream

SEED = 7  # of everything drawn at random here; chosen: any number does, and one makes it repeatable
TEMPERATURES = (0.0, 0.8)
MAX_TOKENS = 80
WINDOW = 12  # most drafts of a round, for every policy
STEP = 6.0  # one step of the target in draft tokens: measured for the bundled pair on one core
ROUND_TRIPS = (0.0, 5.0, 20.0)  # in draft tokens
THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ENTROPIES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--target", type=Path, default=TINY / "target", help="target directory")
    parser.add_argument("--draft", type=Path, default=TINY / "draft", help="drafter directory")
    parser.add_argument("--prompts", type=Path, default=TINY / "prompts.json", help="held out")
    parser.add_argument("--num", type=int, help="of them, evenly; otherwise all")
    parser.add_argument("--tokens", type=int, default=MAX_TOKENS, help="of each text")
    parser.add_argument("--step", type=float, default=STEP, help="of the target, in draft tokens")
    options = parser.parse_args()
    traces = record(
        options.target,
        options.draft,
        TEMPERATURES,
        options.tokens,
        WINDOW,
        SEED,
        options.prompts,
        options.num,
    )
    halves = [
        [t for i, t in enumerate(traces) if i // len(TEMPERATURES) % 2 == half] for half in (0, 1)
    ]
    predictor = fit(labels(halves[0]))
    by_temperature = {}
    for temperature in TEMPERATURES:
        train, test = ([t for t in half if t.temperature == temperature] for half in halves)
        by_temperature[f"{temperature}"] = _measure(predictor, train, test, options.step)
    judged = list(labels(halves[1]))
    result = {
        "setting": _setting(options),
        **_quality(_predicted(predictor, judged), _truth(judged)),
        **_mean_goodput(by_temperature),
        "us_per_token": _cost_us(halves[1]),
        "temperature": by_temperature,
    }
    if options.json:
        print(json.dumps(result))
    else:
        _report(result)


def _setting(options: argparse.Namespace) -> dict[str, Any]:
    return setting(
        SEED,
        target=str(options.target) if options.target != TINY / "target" else "bundled",
        draft=str(options.draft) if options.draft != TINY / "draft" else "bundled",
        max_tokens=options.tokens,
        window=WINDOW,
        step_in_draft_tokens=options.step,
        round_trips_in_draft_tokens=ROUND_TRIPS,
        drafts="ranked with the noise of the choice",
        halves="by prompt: even ones learned from and tuned on, odd ones measured",
    )


def _measure(
    predictor: LogisticPredictor, train: Sequence[Trace], test: Sequence[Trace], step: float
) -> dict[str, Any]:
    judged = list(labels(test))
    truth = _truth(judged)
    chances = np.array([chance for trace in test for chance in trace.chances])
    confidences = np.array([label.features.proposal.confidence for label in judged])
    prior = LogisticPredictor()
    return {
        "positions": len(judged),
        "acceptance": float(truth.mean()),
        **_quality(_predicted(predictor, judged), truth),
        "before_learning": _quality(_predicted(prior, judged), truth),
        "confidence_alone": _quality(confidences, truth),
        # At temperature 0 the target is certain, and this says nothing.
        "target_itself": _quality(chances, truth) if test[0].temperature else None,
        "round_trip": _policies(predictor, train, test, step),
    }


def _truth(judged: Sequence[Label]) -> Any:
    return np.array([label.accepted for label in judged])


def _mean_goodput(by_temperature: dict[str, Any]) -> dict[str, float]:
    """Over temperatures and round trips, in shares of the oracles'."""
    rows = [rows for found in by_temperature.values() for rows in found["round_trip"].values()]
    mine = [row["predictor"]["goodput"] for row in rows]
    return {
        f"goodput_vs_{oracle}": fmean(
            goodput / row[oracle]["goodput"] for goodput, row in zip(mine, rows, strict=True)
        )
        for oracle in ("oracle", "oracle_that_looks")
    }


def _predicted(predictor: LogisticPredictor, judged: Sequence[Label]) -> Any:
    return np.array([predictor.acceptance(label.features) for label in judged])


def _quality(predicted: Any, truth: Any) -> dict[str, float]:
    calibration = Calibration(num_recent=len(truth))
    for probability, happened in zip(predicted.tolist(), truth.tolist(), strict=True):
        calibration.add(probability, happened)
    return {
        "auc": _auc(predicted, truth),
        "calibration_error": calibration.error,
        "false_accept_at_90_recall": _false_accept(predicted, truth, 0.9),
        "false_accept_at_80_recall": _false_accept(predicted, truth, 0.8),
    }


def _auc(predicted: Any, truth: Any) -> float:
    """P(a right draft is given more than a wrong one), a tie being half of that."""
    right, wrong = predicted[truth], np.sort(predicted[~truth])
    below = np.searchsorted(wrong, right, "left") + np.searchsorted(wrong, right, "right")
    return float(below.mean() / 2 / len(wrong))


def _false_accept(predicted: Any, truth: Any, recall: float) -> float:
    threshold = np.quantile(predicted[truth], 1.0 - recall)
    return float((predicted[~truth] >= threshold).mean())


def _policies(
    predictor: LogisticPredictor, train: Sequence[Trace], test: Sequence[Trace], step: float
) -> dict[str, Any]:
    """By round trip and policy."""
    costs = [Costs(step, round_trip) for round_trip in ROUND_TRIPS]
    confidence = ConfidencePredictor()
    entropy_bounds = tune(EntropyBound, ENTROPIES, train, WINDOW, costs)
    plain = tune(lambda t: CumulativeAcceptance(confidence, t), THRESHOLDS, train, WINDOW, costs)
    learned = tune(lambda t: CumulativeAcceptance(predictor, t), THRESHOLDS, train, WINDOW, costs)
    found: dict[str, Any] = {}
    for cost in costs:
        policies: dict[str, Policy] = {
            "no_drafts": Fixed(0),
            **{f"fixed_{length}": Fixed(length) for length in (2, 4, 8)},
            "entropy_bound": EntropyBound(entropy_bounds[cost]),
            "confidence": CumulativeAcceptance(confidence, plain[cost]),
            "predictor": CumulativeAcceptance(predictor, learned[cost]),
            "oracle_that_looks": Oracle(foresees=False),
            "oracle": Oracle(foresees=True),
        }
        tallies = {name: replay(test, policy, WINDOW) for name, policy in policies.items()}
        best = tallies["oracle"].goodput(cost)
        rows = {
            name: {
                "goodput": tally.goodput(cost),
                "vs_oracle": tally.goodput(cost) / best,
                "wasted_share": tally.wasted_share,
                "tokens_per_round": tally.num_committed / tally.num_rounds,
            }
            for name, tally in tallies.items()
        }
        rows["entropy_bound"]["tuned"] = entropy_bounds[cost]
        rows["confidence"]["tuned"] = plain[cost]
        rows["predictor"]["tuned"] = learned[cost]
        found[f"{cost.round_trip:g}"] = rows
    return found


def _cost_us(traces: Sequence[Trace]) -> float:
    """Of a draft token beside the drafter: features, prediction, the stream's part, learning."""
    times_s = []
    for _ in range(5):
        predictor = LogisticPredictor()
        start_s = time.perf_counter()
        for trace in traces:
            _stream(predictor, trace)
        times_s.append(time.perf_counter() - start_s)
    return 1e6 * min(times_s) / sum(len(trace.drafts) for trace in traces)


def _stream(predictor: LogisticPredictor, trace: Trace) -> None:
    stream = Stream([0, 0], len(trace.drafts))
    for draft, accepted in zip(trace.drafts, trace.accepted, strict=True):
        token = draft.proposal.token
        features = stream.features(draft.proposal, trace.temperature)
        stream.append(token, predictor.acceptance(features), features=features)
        choice = token if accepted else token + 1
        position = len(stream.committed)
        stream.take_verdict(Verdict(position=position, tokens=[choice], directive=REST))
        for label in stream.take_labels():
            predictor.learn(label)


def _report(result: dict[str, Any]) -> None:
    print(describe(result["setting"]))
    print(
        f"all positions: {_described(result)}\ngoodput {result['goodput_vs_oracle']:.3f} of the "
        f"oracle's, {result['goodput_vs_oracle_that_looks']:.3f} of that of an oracle that looks; "
        f"{result['us_per_token']:.1f} us a token"
    )
    for temperature, found in result["temperature"].items():
        print(f"\ntemperature {temperature}: acceptance {found['acceptance']:.3f}")
        for name in ("predictor", "before_learning", "confidence_alone", "target_itself"):
            if row := found if name == "predictor" else found[name]:
                print(f"  {name:17} {_described(row)}")
        for round_trip, rows in found["round_trip"].items():
            print(f"  round trip {round_trip}:")
            for name, row in rows.items():
                print(
                    f"    {name:17} goodput {row['goodput']:.4f} ({row['vs_oracle']:.3f} of the "
                    f"oracle's), wasted {row['wasted_share']:.3f}"
                    + (f", tuned to {row['tuned']}" if "tuned" in row else "")
                )


def _described(quality: dict[str, float]) -> str:
    return (
        f"AUC {quality['auc']:.3f}, calibration error {quality['calibration_error']:.3f}, "
        f"false accepts {quality['false_accept_at_90_recall']:.3f} at 90 % recall, "
        f"{quality['false_accept_at_80_recall']:.3f} at 80 %"
    )


if __name__ == "__main__":
    main()
