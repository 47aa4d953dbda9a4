from __future__ import annotations

from typing import Any

import pytest

from benchmarks.distance import chosen
from benchmarks.pair_speed import summarise
from wisp.demo.comparison import Comparison, Question, Reply


def compared(kind: str, temperature: float, alone_s: float, text: str = "same") -> Comparison:
    counts: dict[str, Any] = {
        "accepted_tokens": 3,
        "drafted_tokens": 4,
        "steps": 2,
        "edge_drafted_tokens": 8,
        "edge_wasted_tokens": 2,
        "rejections": 4,
        "covered_rejections": 1,
    }
    usage = {"completion_tokens": 6, "wisp": counts}
    question = Question(kind, "?", temperature, seed=1)
    return Comparison(question, 0, Reply("same", usage, 1.0), Reply(text, usage, alone_s))


def test_each_kind_and_temperature_has_a_row_of_its_own() -> None:
    rows = summarise(
        [
            compared("code", 0.0, alone_s=3.0),
            compared("code", 0.0, alone_s=2.0),
            compared("chat", 0.8, alone_s=1.5, text="other"),
        ]
    )
    assert [(row["kind"], row["temperature"]) for row in rows] == [("chat", 0.8), ("code", 0.0)]
    chat, code = rows
    assert code["speedup"] == pytest.approx(2.5)
    assert code["coverage"] == pytest.approx(0.25)
    assert (code["tokens"], code["lossless"]) == (12, True)
    assert (chat["speedup"], chat["lossless"]) == (1.5, False)


def test_at_a_distance_a_pair_without_texts_answers_questions_of_each_kind() -> None:
    asked = [{"kind": kind, "prompt": f"{kind}{n}"} for kind in ("chat", "code") for n in range(4)]
    assert [each["kind"] for each in chosen(asked, 4)] == ["chat", "chat", "code", "code"]
    assert len({each["prompt"] for each in chosen(asked, 4)}) == 4
    asked.append({"kind": "text", "prompt": "on"})
    assert chosen(asked, 4) == [{"kind": "text", "prompt": "on"}]
