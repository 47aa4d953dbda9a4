"""The verifier's interface: one page, whatever engine is behind it.

A session is opened once, takes part in any number of steps, and is closed once. Between steps the
verifier keeps the KV of its first `session.num_computed` tokens; what a step computed for rejected
draft tokens lies beyond that and is overwritten by the next step (so rollback costs nothing and has
no call of its own). The caller sets `num_computed` (`Outcome.computed_after`); the verifier only
reads it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec import Struct

from wisp.core.batch import Batch, Seat
from wisp.core.drafts import TokenLogprob
from wisp.core.kv_memory import KvMemory
from wisp.core.own_drafts import Proposed
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.errors import BadRequest, Overloaded


class Facts(Struct, frozen=True, kw_only=True):
    """What the rest of the server must know about the target."""

    model: str
    vocab_size: int  # token ids are 0 .. vocab_size - 1
    max_model_len: int  # prompt and output tokens together
    max_sessions: int  # that can be open at once
    eos_token_ids: tuple[int, ...]
    # What the time of a step depends on beside the model:
    device: str  # name of the GPU or the processor, and how many, as "NVIDIA H200 x2"
    on_gpu: bool
    engine: str  # with its version and number format, as "vllm 0.26.0 bfloat16"
    adapters: tuple[str, ...] = ()  # what `Session.adapter` may be
    # Whether a sample of logits had the same bits however they were computed; None: not looked at.
    exact: bool | None = None
    structures: bool = False  # can keep an answer to `Sampling.structure`


@dataclass(slots=True)
class Outcome:
    """Of one seat: the accepted draft tokens, then the target's own next choice.

    Empty when the step ended inside the prompt (`Seat.chooses` is false), and when the verifier had
    given the session's KV to a more urgent one: then nothing is committed, and the session has more
    to compute.
    """

    tokens: list[int]
    logprobs: list[TokenLogprob] | None = None  # one for each of `tokens`, if they were asked for
    # Committed tokens, those of this step included, whose KV the verifier now holds, where that is
    # not what the seat asked for: more after a hit in a prefix cache, fewer if KV was taken away.
    # What a step still in flight computes does not count.
    num_computed: int | None = None
    own: Proposed | None = None  # own drafts behind the last of `tokens`, if the seat asked

    @property
    def num_accepted(self) -> int:
        return max(0, len(self.tokens) - 1)

    def computed_after(self, seat: Seat) -> int:
        """What `session.num_computed` is from now on."""
        return self._planned(seat) if self.num_computed is None else self.num_computed

    def as_planned(self, seat: Seat) -> bool:
        """The seat found as much KV as its session knew of; to be asked before that changes."""
        return self.num_computed in (None, self._planned(seat))

    def _planned(self, seat: Seat) -> int:
        session = seat.session
        return session.num_computed - session.num_computing + seat.num_context + self.num_accepted


Collect = Callable[[], list[Outcome]]  # what `Verifier.step` returns, once


class Verifier(ABC):
    """The target. One caller, one thread."""

    facts: Facts
    # When the choices of the step collected last arrived, by `time.monotonic`; None: before it was
    # collected.
    arrived_s: float | None = None
    # How long own drafts were made in the step collected last, before it was over.
    drafting_s: float = 0.0
    # What that step took beside them, by the device's own clock; None: it has none.
    took_s: float | None = None
    # How long the device had had the step launched last when `launch` returned: what is launched
    # behind the target's part takes time, too.
    had_s: float = 0.0

    @abstractmethod
    def open(self, session: Session) -> int:
        """Reserve what the session needs; its prompt, sampling and adapter do not change again.

        Returns how many of its first tokens have KV in host memory: with more than 0 it is parked,
        and is computed from the start if it is seated before it was loaded.
        Raises Overloaded if all of it is taken, BadRequest if its structure is not valid.
        """

    @abstractmethod
    def step(self, batch: Batch) -> list[Outcome]:
        """One forward of the target; outcomes in the order of the batch's seats.

        Each seat computes the `num_context` tokens behind its session's `num_computed`, and the
        draft tokens behind those. If it raises, nothing of the step is committed.

        For seats that ask (`Seat.num_own`) the server's drafter makes so many own drafts at most
        behind what was chosen, before the step is over. None are made where no drafter was loaded.
        """

    @property
    def kv_used(self) -> float | None:
        """Share of the KV memory that sessions hold, 0 to 1; None: unknown."""
        return None

    def overlaps(self, sampling: Sampling) -> bool:
        """Whether such sessions may be in a step that is launched while another runs."""
        return False

    def memory(self) -> KvMemory | None:
        """The KV memory as the steps launched so far leave it; None: each open session has room."""
        return None

    def evicted(self) -> list[Session]:
        """Those that lost their KV since this was asked last: the texts of others grew."""
        return []

    def park(self, sessions: Sequence[Session]) -> list[int]:
        """Copy their KV to host memory, and free what it took; none of them is in a step.

        Returns how many tokens of each the host keeps; 0 where it has no room. The copies are
        hidden behind the step that runs; whatever is called next may rely on them.
        """
        return [0 for _ in sessions]

    def load(self, sessions: Sequence[Session]) -> list[int]:
        """Copy the KV of parked sessions back, to be in a step that is launched from now on.

        Returns for how many tokens of each KV is there again; 0: there is no room, it is parked as
        before.
        """
        return [0 for _ in sessions]

    def refused(self) -> list[tuple[Session, BadRequest | Overloaded]]:
        """Open sessions that proved to ask for what cannot be given; the caller closes them."""
        return []

    def launch(self, batch: Batch) -> Collect:
        """Begin a step, as `step` has it. Where all its sessions overlap this returns while the
        target works, and one more step may be launched before `Collect` is called, which waits for
        the outcomes.

        That one may hold sessions of this step again. It is decided on as if this one accepted all
        its drafts (`Session.num_pending`); what is rejected the verifier puts right: the session
        goes on behind its last choice, with the same tokens as drafts, or with those of the one of
        `Seat.alternatives` that applies. Own drafts in the making can be verified before anybody
        but the device knows them: `COMING` stands for each in the seat. If either call raises,
        nothing of the steps launched so far will be collected.
        """
        outcomes = self.step(batch)
        return lambda: outcomes

    @abstractmethod
    def close(self, session: Session) -> None:
        """Free the session's KV at once; closing an unknown session does nothing."""

    @abstractmethod
    def shutdown(self) -> None:
        """Free everything; the verifier is not used again."""
