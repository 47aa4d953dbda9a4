"""The embedded verifier: Hugging Face transformers over a slot cache, on CPU or GPU."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig

from wisp.core.batch import Batch, Seat
from wisp.core.drafts import TokenLogprob
from wisp.core.kv_memory import KvMemory
from wisp.core.session import Session
from wisp.errors import Overloaded
from wisp.models.check import is_exact
from wisp.models.slots import Item, SlotModel
from wisp.sampling.accept import num_accepted
from wisp.sampling.choice import choose
from wisp.sampling.processors import Row
from wisp.verifier.base import Facts, Outcome, Verifier
from wisp.verifier.own_drafter import OwnDrafter

log = logging.getLogger(__name__)


class TorchVerifier(Verifier):
    """Implements `wisp.verifier.base.Verifier`: slots for resident sessions, one forward a step.

    `facts.vocab_size` is the number of logits; a model may have more of them than its tokenizer has
    tokens, and those beyond are never masked: a trained model does not choose them.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        max_sessions: int,
        max_model_len: int | None = None,
        device: str = "cpu",
        dtype: torch.dtype | str | None = None,
        num_threads: int | None = None,
        model: str | None = None,
        num_slots: int | None = None,
        host_kv_bytes: int = 0,
        drafter: Path | None = None,
    ) -> None:
        """`num_slots`: sessions that are resident at once; None: all. `host_kv_bytes`: of the
        memory in which the KV of others is parked. `drafter`: directory of a small model that
        makes own drafts; None: there are none."""
        num_slots = min(num_slots or max_sessions, max_sessions)
        self._model = SlotModel(directory, num_slots, max_model_len, device, dtype, num_threads)
        self.facts = Facts(
            model=model or Path(directory).resolve().name,
            vocab_size=self._model.vocab_size,
            max_model_len=self._model.max_len,
            max_sessions=max_sessions,
            eos_token_ids=eos_token_ids(Path(directory), self._model.config.eos_token_id),
            device=_device_name(self._model.device, torch.get_num_threads()),
            on_gpu=self._model.device.type != "cpu",
            exact=is_exact(self._model),
            engine=f"torch {torch.__version__} {str(self._model.dtype).removeprefix('torch.')}",
        )
        if not self.facts.exact:
            log.warning(
                "texts may differ in near-ties on this machine (%s): a token's logits are not the "
                "same bits in every batch",
                self.facts.device,
            )
        self._drafter = drafter and OwnDrafter(
            drafter,
            num_slots=num_slots,
            max_model_len=self._model.max_len,
            vocab_size=self._model.vocab_size,
            device=device,
            dtype=dtype,
        )
        self._all_fit = num_slots == max_sessions
        self._free = list(range(num_slots))[::-1]
        self._slots: dict[int, int] = {}  # of resident sessions, by id
        self._open: set[int] = set()  # ids of sessions
        self._parked: dict[int, list[Tensor]] = {}  # by session id
        self._num_parkable = host_kv_bytes // self._model.kv_bytes  # tokens, while none is parked

    def open(self, session: Session) -> int:
        if session.id in self._open:
            raise ValueError(f"session {session.id} is open already")
        if len(self._open) >= self.facts.max_sessions:
            raise Overloaded(f"all {self.facts.max_sessions} sessions of the target are taken")
        self._open.add(session.id)
        if self._all_fit:
            self._slot(session)
        return 0

    def close(self, session: Session) -> None:
        self._open.discard(session.id)
        self._parked.pop(session.id, None)
        if self._drafter:
            self._drafter.close(session)
        self._leave(session)

    def memory(self) -> KvMemory | None:
        """In slots: a session has one, or none."""
        if self._all_fit:
            return None
        length = self._model.max_len
        return KvMemory(length, len(self._free), self._num_to_park)

    @property
    def _num_to_park(self) -> int:
        """Tokens that the host has room for."""
        return self._num_parkable - sum(len(saved[0]) for saved in self._parked.values())

    def park(self, sessions: Sequence[Session]) -> list[int]:
        kept = []
        for session in sessions:
            fits = session.num_computed <= self._num_to_park
            if fits:
                self._parked[session.id] = self._model.save(
                    self._slots[session.id], session.num_computed
                )
            kept.append(session.num_computed if fits else 0)
            self._leave(session)
        return kept

    def load(self, sessions: Sequence[Session]) -> list[int]:
        found = []
        for session in sessions:
            if self._free:
                self._model.restore(self._slot(session), self._parked.pop(session.id))
            found.append(session.num_computed if session.id in self._slots else 0)
        return found

    def _slot(self, session: Session) -> int:
        """That it is resident in, from now on if it was not."""
        if session.id not in self._slots:
            self._slots[session.id] = self._free.pop()
        return self._slots[session.id]

    def _leave(self, session: Session) -> None:
        slot = self._slots.pop(session.id, None)
        if slot is not None:
            self._free.append(slot)

    @property
    def kv_used(self) -> float:
        """Share of the slots."""
        return len(self._slots) / self._model.num_slots

    def shutdown(self) -> None:
        self._slots.clear()
        self._free.clear()
        self._parked.clear()

    def step(self, batch: Batch) -> list[Outcome]:
        if not batch:
            return []
        logits = self._model.forward([self._item(seat) for seat in batch.seats])
        found = outcomes(batch.seats, logits)
        if self._drafter:
            start_s = time.perf_counter()
            _draft(self._drafter, batch.seats, found)
            self.drafting_s = time.perf_counter() - start_s
        return found

    def _item(self, seat: Seat) -> Item:
        session = seat.session
        start = session.num_computed
        tokens = session.tokens[start : start + seat.num_context] + seat.draft
        num_logits = len(seat.draft) + 1 if seat.chooses else 0
        return Item(self._slot(session), start, tokens, num_logits)


def _draft(drafter: OwnDrafter, seats: Sequence[Seat], found: Sequence[Outcome]) -> None:
    """Own drafts for the seats that ask, behind what was chosen."""
    asking = [
        (seat, outcome)
        for seat, outcome in zip(seats, found, strict=True)
        if seat.num_own and outcome.tokens
    ]
    if not asking:
        return
    asked = [(seat.session, outcome.tokens, seat.num_own) for seat, outcome in asking]
    for (_, outcome), proposed in zip(asking, drafter.propose(asked), strict=True):
        outcome.own = proposed


def outcomes(seats: Sequence[Seat], logits: Tensor) -> list[Outcome]:
    """Choices and acceptance: logits [rows, vocab], len(draft) + 1 rows for each choosing seat."""
    rows = [row for seat in seats if seat.chooses for row in _rows(seat)]
    choices, logprobs = choose(logits, rows)
    found: list[Outcome] = []
    end = 0
    for seat in seats:
        if not seat.chooses:
            found.append(Outcome([]))
            continue
        first, end = end, end + len(seat.draft) + 1
        found.append(_outcome(seat, choices[first:end], logprobs[first:end]))
    return found


def _rows(seat: Seat) -> list[Row]:
    """One row for each choice: after the committed tokens, then after each draft token."""
    session = seat.session
    tokens = session.tokens + seat.draft
    length = len(session.tokens)
    return [
        Row(session.sampling, tokens, session.num_prompt, position)
        for position in range(length, length + len(seat.draft) + 1)
    ]


def _outcome(
    seat: Seat, choices: Sequence[int], logprobs: Sequence[TokenLogprob | None]
) -> Outcome:
    # What was accepted equals the target's choices, so its tokens and logprobs are theirs.
    count = num_accepted(seat.draft, choices) + 1
    asked = [logprob for logprob in logprobs[:count] if logprob is not None]
    return Outcome(list(choices[:count]), asked or None)


def _device_name(device: torch.device, num_threads: int) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()} x{num_threads}" if device.type == "cpu" else device.type


def processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def eos_token_ids(directory: Path, configured: int | Sequence[int] | None) -> tuple[int, ...]:
    """End tokens of config.json and generation_config.json together, in order."""
    found = _ids(configured)
    if (directory / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(directory, local_files_only=True)
        found += _ids(generation.eos_token_id)
    return tuple(dict.fromkeys(found))


def _ids(value: int | Sequence[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)
