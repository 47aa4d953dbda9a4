"""What is drafted, and what goes over the wire of a draft stream: blocks up, verdicts down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct

from wisp.core.request import FinishReason


class Source(StrEnum):
    """Where drafts come from; a session's step verifies those of one source."""

    EDGE = "edge"  # a device's drafter, over the wire
    NGRAM = "ngram"  # made by the server of the text itself
    OWN = "own"  # the server's drafter, beside the target


class Directive(Struct, frozen=True):
    """What the server asks of an edge from now on."""

    window: int  # how many draft tokens may lie beyond the committed text; 0: the edge rests
    threshold: float  # it drafts on while the cumulative acceptance is not below this


# By definition the directive under which an edge drafts nothing.
REST = Directive(window=0, threshold=1.0)


class DraftBlock(Struct, frozen=True):
    """Candidates for positions position, position + 1, ... of one epoch, and for its forks."""

    epoch: int
    position: int
    tokens: list[int]
    acceptance: list[float]  # of each token: P(accepted | all before it were)
    draft_time_s: float = 0.0  # that the drafter spent on all of them, forks included
    complete: bool = False  # the edge sends no more of this epoch before it hears a verdict
    # Of a fork, as it begins: the epoch with which it agrees up to `position`; 0: it begins from
    # the committed text, and replaces all that waits.
    parent: int = 0
    forks: list[DraftBlock] = []  # blocks of other epochs, without forks of their own

    @property
    def num_tokens(self) -> int:
        """Of the block and its forks."""
        return len(self.tokens) + sum(len(fork.tokens) for fork in self.forks)


class Alternative(Struct, frozen=True, gc=False):
    """Drafts for a step that is launched while another runs, should that one choose otherwise than
    its session's path goes on."""

    num_accepted: int  # of the session's drafts in the step that runs: exactly so many stand
    token: int  # and this is chosen behind them
    drafts: list[int]  # then these may follow

    def cut(self, count: int) -> Alternative:
        """With so many drafts at most."""
        if len(self.drafts) <= count:
            return self
        return Alternative(self.num_accepted, self.token, self.drafts[:count])


class Rejection(StrEnum):
    """What became of an edge's stream when the target chose another token than its path's."""

    UNCOVERED = "uncovered"  # no fork goes on with the choice
    COVERED = "covered"  # one does, and ends with it
    SEAMLESS = "seamless"  # one does, and has drafts behind it: the next step can verify them

    @staticmethod
    def of(covered: bool, has_drafts: bool) -> Rejection:
        if not covered:
            return Rejection.UNCOVERED
        return Rejection.SEAMLESS if has_drafts else Rejection.COVERED


def chances(acceptance: Sequence[float], calibration: float) -> list[float]:
    """P(each draft token is accepted, with all before it), `acceptance` being P(it is | all before
    it were)."""
    chance, found = 1.0, []
    for probability in acceptance:
        chance *= min(1.0, calibration * probability)
        found.append(chance)
    return found


def expected_accepted(acceptance: Sequence[float], calibration: float) -> float:
    """Of draft tokens, `acceptance` being P(each is accepted | all before it were)."""
    return sum(chances(acceptance, calibration))


class Drafts(ABC):
    """What one source proposes for the positions right behind a session's committed text."""

    source: Source

    def __init__(self) -> None:
        self.tokens: list[int] = []
        # Of each: P(accepted | all before it were), as its source says.
        self.acceptance = array("d")

    @property
    def calibration(self) -> float:
        """What the source's acceptances are to be multiplied by."""
        return 1.0

    @property
    def expected(self) -> float:
        """How many of its tokens the target will accept."""
        return expected_accepted(self.acceptance, self.calibration)

    @abstractmethod
    def learn(self, num_drafted: int, num_accepted: int) -> None:
        """A step verified the first so many of its tokens; `committed` is told afterwards."""

    @abstractmethod
    def committed(self, tokens: Sequence[int], end: int, *, keep: bool = False) -> None:
        """The text went on with these tokens up to position `end`, whoever drafted them.

        `keep`: a step in flight verifies drafts of this source; they stay chosen while they live.
        """


class DraftCounts(Struct, frozen=True):
    """Draft tokens of one source."""

    num_drafted: int = 0  # that steps verified
    num_accepted: int = 0  # of these

    def __add__(self, other: DraftCounts) -> DraftCounts:
        return DraftCounts(
            self.num_drafted + other.num_drafted, self.num_accepted + other.num_accepted
        )


class TokenLogprob(Struct, frozen=True):
    """Of one committed token, from the model's unprocessed distribution (OpenAI's meaning)."""

    logprob: float
    top: list[tuple[int, float]] = []  # (token, logprob) of the likeliest tokens, in this order


class Verdict(Struct, frozen=True, kw_only=True):
    """What one step of the target committed for one session."""

    position: int  # of tokens[0] in the whole token sequence
    tokens: list[int]
    num_drafted: int = 0  # draft tokens that the step verified
    num_accepted: int = 0  # the first so many of `tokens` are these
    source: Source = Source.EDGE  # of those drafts
    rejection: Rejection | None = None  # of the edge's drafts that waited; None: they agree
    directive: Directive
    finish_reason: FinishReason | None = None  # None: the session goes on
    logprobs: list[TokenLogprob] | None = None  # of `tokens`, if they were asked for
    server_time_s: float = 0.0  # from the arrival of the last block it answers until it left
    step_time_s: float = 0.0  # the part of it that was spent inside the verifier
    alone_time_s: float = 0.0  # what a step of its mean seat alone would have taken; 0: unknown
    committed_s: float = 0.0  # when it was made, by the server's clock; does not leave the server

    @property
    def edge_drafts(self) -> DraftCounts:
        """Of its drafts, those of the session's edge: all of them or none."""
        if self.source is not Source.EDGE:
            return DraftCounts()
        return DraftCounts(self.num_drafted, self.num_accepted)
