from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.sim.text import COLUMNS, WRONG, BetaTexts, RecordedTexts


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two texts: 3 positions at temperature 0, all right, and 2 at 0.8, all wrong."""
    path = tmp_path / "texts.npz"
    right = np.array([1, 1, 1, 0, 0], dtype=np.float16)
    seen = {name: 0.1 * np.arange(5, dtype=np.float16) for name in COLUMNS[1:]}
    ends, temperatures = np.array([3, 5]), np.array([0.0, 0.8], dtype=np.float16)
    np.savez(path, right=right, ends=ends, temperatures=temperatures, **seen)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("mean", [0.3, 0.5, 0.7, 0.9])
def test_texts_have_the_acceptance_asked_for_and_confidence_tells_of_it(mean: float) -> None:
    text = BetaTexts(mean).make(20_000, (1,))
    right, confidence = np.array(text.right), np.array(text.confidence)
    assert right.mean() == pytest.approx(mean, abs=0.02)
    bins = np.digitize(confidence, [0.2, 0.4, 0.6, 0.8])
    for number in range(5):
        taken = bins == number
        assert right[taken].mean() == pytest.approx(confidence[taken].mean(), abs=0.06)


def test_a_patch_is_a_run_of_like_positions() -> None:
    confidence = np.array(BetaTexts(0.7, noise=0.0, patch=20.0).make(10_000, (1,)).confidence)
    same = float((np.diff(confidence) == 0.0).mean())
    assert same == pytest.approx(0.95, abs=0.02)


def test_a_wrong_draft_is_no_token_of_the_text() -> None:
    text = BetaTexts(0.5).make(100, (1,))
    tokens = [text.proposal(40 + index, index).token for index in range(100)]
    for index, right in enumerate(text.right):
        assert tokens[index] == (40 + index if right else WRONG)


def test_a_recording_is_replayed_as_it_is(recording: Path) -> None:
    text = RecordedTexts(recording, 0.0).make(7, (1,))
    assert text.right == [True] * 7
    proposal = text.proposal(12, 2)
    assert proposal.token == 12
    seen = [proposal.confidence, proposal.entropy, proposal.margin, proposal.spread]
    assert seen == pytest.approx([0.2] * 4, abs=1e-3)
    assert text.entropy is not None
    assert text.entropy[3] == 0.0  # the text begins anew


def test_a_temperature_that_was_not_recorded_is_refused(recording: Path) -> None:
    assert RecordedTexts(recording, 0.8).acceptance == 0.0
    assert RecordedTexts(recording).acceptance == pytest.approx(0.6)
    with pytest.raises(ValueError, match=r"no texts at temperature 1\.0"):
        RecordedTexts(recording, 1.0)
