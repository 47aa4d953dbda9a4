"""The verifier without a model: the test double for everything above the verifier, shipped.

Its own choice at a position is a pure function of (seed, position, previous token), so the whole
text is known in advance. It checks what a real verifier relies on, and raises AssertionError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

from wisp.core.batch import Batch, Seat
from wisp.core.drafts import TokenLogprob
from wisp.core.kv_memory import KvMemory
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.errors import Overloaded
from wisp.sampling.accept import num_accepted
from wisp.verifier.base import Collect, Facts, Outcome, Verifier

_MASK = (1 << 64) - 1  # of the 64-bit words of splitmix64 (Steele, Lea and Flood, 2014)


def scripted_choice(seed: int, position: int, previous: int, vocab_size: int) -> int:
    """The token at `position`, after `previous`: a hash (splitmix64) of its arguments."""
    mixed = (seed * 0x9E3779B97F4A7C15 + position * 0xBF58476D1CE4E5B9 + previous + 1) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return (mixed ^ (mixed >> 31)) % vocab_size


class ScriptedVerifier(Verifier):
    """Implements `wisp.verifier.base.Verifier`.

    `on_step` is called with each batch when it is launched: tests advance their virtual clock in
    it, sleep, or raise. With `on_collect`, steps overlap; it is called before outcomes are made.
    With `num_slots`, so many sessions are resident at once, and all others can be parked.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 4096,
        max_model_len: int = 2048,
        max_sessions: int = 64,
        eos_token_ids: tuple[int, ...] = (),
        model: str = "scripted",
        on_step: Callable[[Batch], None] | None = None,
        on_collect: Callable[[Batch], None] | None = None,
        num_slots: int | None = None,
    ) -> None:
        self.facts = Facts(
            model=model,
            vocab_size=vocab_size,
            max_model_len=max_model_len,
            max_sessions=max_sessions,
            eos_token_ids=eos_token_ids,
            device="none",
            on_gpu=False,
            engine="scripted",
        )
        self.on_step = on_step
        self.on_collect = on_collect
        self.num_steps = 0
        self.closed = False
        self._computed: dict[int, list[int]] = {}  # tokens whose KV each session would hold
        self._num_slots = num_slots
        self._resident: set[int] = set()  # sessions
        self._parked: set[int] = set()
        self.num_parked = 0  # so far

    @property
    def num_open(self) -> int:
        return len(self._computed)

    def expected(self, prompt: Sequence[int], sampling: Sampling, n: int) -> list[int]:
        """The first n output tokens, up to and with a stop token or the limit."""
        tokens: list[int] = []
        previous = prompt[-1]
        for position in range(len(prompt), len(prompt) + min(n, sampling.max_tokens)):
            previous = self.choice(sampling, position, previous)
            tokens.append(previous)
            if previous in sampling.stop_token_ids:
                break
        return tokens

    def choice(self, sampling: Sampling, position: int, previous: int) -> int:
        return scripted_choice(sampling.seed, position, previous, self.facts.vocab_size)

    def open(self, session: Session) -> int:
        assert not self.closed, "the verifier was shut down"
        assert session.id not in self._computed, f"session {session.id} is opened twice"
        assert session.num_computed == 0, "a session just opened has nothing computed"
        assert session.tokens, "a session has a prompt"
        if len(self._computed) >= self.facts.max_sessions:
            raise Overloaded(f"all {self.facts.max_sessions} sessions of the target are taken")
        self._computed[session.id] = []
        return 0

    def close(self, session: Session) -> None:
        self._computed.pop(session.id, None)
        self._resident.discard(session.id)
        self._parked.discard(session.id)

    def memory(self) -> KvMemory | None:
        if self._num_slots is None:
            return None
        return KvMemory(self.facts.max_model_len, self._num_slots - len(self._resident), 1 << 30)

    def park(self, sessions: Sequence[Session]) -> list[int]:
        for session in sessions:
            assert not session.num_in_flight, f"session {session.id} is in a step"
            self._resident.remove(session.id)
            self._parked.add(session.id)
        self.num_parked += len(sessions)
        return [session.num_computed for session in sessions]

    def load(self, sessions: Sequence[Session]) -> list[int]:
        found = []
        for session in sessions:
            assert session.id in self._parked, f"session {session.id} is not parked"
            has_room = len(self._resident) < (self._num_slots or 0)
            if has_room:
                self._parked.remove(session.id)
                self._resident.add(session.id)
            found.append(session.num_computed if has_room else 0)
        return found

    def shutdown(self) -> None:
        self._computed.clear()
        self.closed = True

    def step(self, batch: Batch) -> list[Outcome]:
        return self.launch(batch)()

    def overlaps(self, sampling: Sampling) -> bool:
        return self.on_collect is not None

    def launch(self, batch: Batch) -> Collect:
        assert not self.closed, "the verifier was shut down"
        ids = [seat.session.id for seat in batch.seats]
        assert len(set(ids)) == len(ids), f"a session has two seats in one batch: {ids}"
        for seat in batch.seats:
            self._check(seat)
        self._seat(ids)
        parts = [(seat, seat.chooses, len(seat.session.tokens)) for seat in batch.seats]
        if self.on_step is not None:
            self.on_step(batch)
        return lambda: self._collect(batch, parts)

    def _seat(self, ids: Sequence[int]) -> None:
        assert self._parked.isdisjoint(ids), "the KV of a seat is in host memory"
        self._resident.update(ids)
        assert self._num_slots is None or len(self._resident) <= self._num_slots, "no room"

    def _collect(self, batch: Batch, parts: list[tuple[Seat, bool, int]]) -> list[Outcome]:
        if self.on_collect is not None:
            self.on_collect(batch)
        outcomes = [self._verify(*part) for part in parts]
        self.num_steps += 1
        return outcomes

    def _check(self, seat: Seat) -> None:
        session = seat.session
        assert session.id in self._computed, f"session {session.id} is not open"
        assert session.finish_reason is None, f"session {session.id} has finished"
        assert seat.num_context > 0, "a seat computes at least one committed token"
        assert seat.num_context <= session.num_missing, "a seat goes beyond the committed tokens"
        assert not seat.draft or seat.chooses, "drafts are verified behind all committed tokens"
        assert session.num_in_flight < 2, f"session {session.id} is in two steps"
        assert not session.num_in_flight or session.overlaps, f"session {session.id} is in a step"
        end = session.num_computed + seat.num_tokens
        assert end <= self.facts.max_model_len, f"{end} tokens do not fit the model"
        drafts = [seat.draft, *[each.drafts for each in seat.alternatives]]
        assert not seat.alternatives or session.num_in_flight, "they are to a step in flight"
        for token in chain.from_iterable(drafts):
            assert 0 <= token < self.facts.vocab_size, f"token {token} is not in the vocabulary"

    def _verify(self, seat: Seat, chooses: bool, num_launched: int) -> Outcome:
        """`num_launched`: the text's length when the step was launched."""
        session = seat.session
        start = session.num_computed - session.num_computing  # this is the first step in flight
        computed = self._computed.get(session.id)
        if computed is None or session.finish_reason:  # it ended while the step ran
            return Outcome([])
        assert start <= len(computed), f"tokens from {len(computed)} to {start} were never computed"
        assert computed[:start] == session.tokens[:start], "computed tokens are not the committed"
        # What a real verifier holds now: rejected drafts too, until a later step overwrites them.
        length = start + seat.num_context
        assert length <= len(session.tokens), "a seat goes beyond the committed tokens"
        draft = seat.drafts_behind(session.tokens[num_launched:])
        computed[start:] = session.tokens[start:length] + draft
        if not chooses:
            return Outcome([])
        before = [session.tokens[length - 1], *draft]
        choices = [
            self.choice(session.sampling, length + index, previous)
            for index, previous in enumerate(before)
        ]
        tokens = choices[: num_accepted(draft, choices) + 1]
        if session.sampling.num_logprobs is None:
            return Outcome(tokens)
        top = [(token, 0.0) for token in tokens]
        num_top = min(1, session.sampling.num_logprobs)
        return Outcome(tokens, [TokenLogprob(0.0, [pair][:num_top]) for pair in top])
