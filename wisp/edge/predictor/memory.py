"""Where a predictor is kept between runs: one small JSON file for each pair of target and draft."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path

from wisp.edge.predictor.logistic import LogisticPredictor
from wisp.files import write_whole

log = logging.getLogger(__name__)

FORMAT = 2  # of the file, by definition: raise it when a feature or its scale changes


def path_of(folder: Path, target: str, draft: str) -> Path:
    """Readable, and still its own for each pair: names may hold any character."""
    digest = hashlib.sha256(f"{target}\n{draft}".encode()).hexdigest()[:8]
    readable = re.sub(r"[^\w.-]+", "-", f"{target}--{draft}")[:100]
    return folder / f"predictor-{readable}-{digest}.json"


def save(predictor: LogisticPredictor, folder: Path, target: str, draft: str) -> Path:
    """Atomic: a reader sees the old file or the new one. Raises OSError if neither can be."""
    path = path_of(folder, target, draft)
    content = {"format": FORMAT, "target": target, "draft": draft, "predictor": predictor.state()}
    write_whole(path, json.dumps(content).encode())
    return path


class Memory:
    """Recalls what was learned of the pair once the target is known, and saves it again."""

    def __init__(self, folder: Path, draft: str, predictor: LogisticPredictor) -> None:
        self._folder = folder
        self._draft = draft
        self._predictor = predictor
        self._target: str | None = None
        self._num_saved = 0

    def recall(self, target: str) -> None:
        """Take up what is kept of the pair, if anything is; a file that is no use is ignored."""
        self._target = target
        path = path_of(self._folder, target, self._draft)
        try:
            content = json.loads(path.read_text())
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']!r}, not {FORMAT}")
            self._predictor.restore(content["predictor"])
            log.info("%d labels were learned from before", self._predictor.num_labels)
        except FileNotFoundError:
            log.info("nothing is known of '%s' with '%s' yet", target, self._draft)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is ignored, learning begins anew: %r", path, error)
        self._num_saved = self._predictor.num_labels

    def save(self) -> None:
        """Keep what was learned since the last time; a failure is only logged."""
        if self._target is None or self._predictor.num_labels == self._num_saved:
            return
        try:
            save(self._predictor, self._folder, self._target, self._draft)
        except OSError as error:
            log.warning("what the predictor learned cannot be kept: %s", error)
        else:
            self._num_saved = self._predictor.num_labels
