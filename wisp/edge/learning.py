"""What an edge learns of its pair of models, and where that is kept between runs."""

from __future__ import annotations

from wisp.config import EdgeConfig
from wisp.edge.predictor import LogisticPredictor, Memory, Predictor
from wisp.edge.predictor.rounds import LoggedPredictor, RoundLog
from wisp.errors import ConfigError

# Between two saves of what the predictor learned: as much is lost when an edge is killed. Chosen: a
# minute of labels is little beside what a pair's predictor rests on, and a save is a few kilobytes.
SAVE_EVERY_S = 60.0


class Learning:
    """`predictor` is to learn; nothing that cannot be written ends more than its being kept."""

    def __init__(self, config: EdgeConfig) -> None:
        """Raises ConfigError if rounds are to be logged and cannot be."""
        name, folder = config.draft.name, config.state_dir
        self.known = LogisticPredictor()
        self._memory = Memory(folder, name, self.known) if folder else None
        self._rounds = open_log(config, name)
        self.predictor: Predictor = self.known
        if self._rounds:
            self.predictor = LoggedPredictor(self.known, self._rounds)

    def know_target(self, name: str) -> None:
        """Labels from now on are of this target."""
        self.save()  # of the target that it served before
        if self._memory:
            self._memory.recall(name)
        if self._rounds:
            self._rounds.begin(name)

    def save(self) -> None:
        if self._memory:
            self._memory.save()

    def close(self) -> None:
        self.save()
        if self._rounds:
            self._rounds.close()


def open_log(config: EdgeConfig, draft: str) -> RoundLog | None:
    """Raises ConfigError if there should be one and cannot."""
    path = config.log_rounds
    if path is None:
        return None
    try:
        return RoundLog(path, draft, int(config.log_rounds_mib * 2**20))
    except OSError as error:
        raise ConfigError(f"cannot log rounds to {path}: {error.strerror}") from error
