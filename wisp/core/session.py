"""A generation: its committed tokens, and the rules of its draft stream.

Nothing here does I/O or reads a clock: times are arguments, in seconds of a monotonic clock.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from wisp.core.drafts import REST, Directive, DraftBlock
from wisp.core.edge_stats import EdgeHistory
from wisp.core.ngram import NgramDrafter
from wisp.core.request import FinishReason, Sampling
from wisp.core.slo import Slo
from wisp.errors import ProtocolError

_AIM = 1.03  # times the promised rate: who aims at just that is late as often as not
_MAX_AHEAD_S = 3.0
_MAX_ROUNDS = 256  # that can be on the way between a server and an edge


class Session:
    """One generation: its committed tokens, and the live epoch of its draft stream.

    The stream is addressed by position: duplicates, late and reordered blocks are decided by
    (epoch, position, equality with what is committed), so handling a block twice changes nothing.
    """

    def __init__(
        self,
        session_id: int,
        prompt: Sequence[int],
        sampling: Sampling,
        slo: Slo,
        *,
        directive: Directive = REST,
        committed: Sequence[int] = (),
        adapter: str | None = None,
        has_edge: bool = False,
        max_window: int = 64,
        max_ngram: int = 0,
        now: float = 0.0,
    ) -> None:
        self.id = session_id
        self.tokens: list[int] = [*prompt, *committed]
        self.num_prompt = len(prompt)
        self._num_resumed = len(committed)  # output tokens that it was opened with
        self.num_computed = 0  # tokens whose KV the verifier holds
        self.num_prefilled = 0  # tokens computed beside those that it decoded
        self.overlaps = False  # it may be in a step that is launched while another runs
        self.num_in_flight = 0  # steps that it is in, whose outcomes are not known yet
        self.num_pending = 0  # tokens that those choose for certain
        self.sampling = sampling
        self.adapter = adapter  # of the target, that chooses its tokens; None: the target alone
        self.end = len(prompt) + sampling.max_tokens  # the position behind its last token
        self.slo = slo
        self.directive = directive
        self.has_edge = has_edge
        self.max_window = max_window
        self.committed_s = now  # when its last token was committed, or it was opened
        self.due_s = now + slo.first_token_s  # when its edge is waited for no longer
        self.promised_s = self.due_s  # when its next token is late, by its rate from the start
        self.aimed_s = self.due_s  # and when it should be there: a little sooner
        self.finish_reason: FinishReason | None = None
        self.epoch = 0
        self.epoch_dead = False
        self.buffer: list[int] = []  # draft tokens for positions len(tokens), ...
        self.acceptance = array("d")  # of each: P(accepted | all before it were)
        self.block_complete = False  # the edge waits for a verdict on the buffer
        self.edge_late = False  # the last token had to be decoded without its edge
        self.block_arrived_s = now  # when the last block that changed the buffer came
        self.history = EdgeHistory()
        self._sent_s: dict[int, float] = {}  # of the last verdicts, by where they ended
        self._ngram = NgramDrafter(self.tokens) if max_ngram else None
        self._max_ngram = max_ngram
        self.ngram_drafts: list[int] = []  # for the same positions, while the buffer is empty
        self.ngram_acceptance = array("d")

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_remaining(self) -> int:
        """Output tokens still to come at most."""
        return self.end - len(self.tokens)

    @property
    def num_missing(self) -> int:
        """Tokens that the verifier must still compute; 1 when it only decodes."""
        return len(self.tokens) + self.num_pending - self.num_computed

    @property
    def decoding(self) -> bool:
        return self.num_missing == 1

    @property
    def free(self) -> bool:
        """It can be seated: no step runs with it, or one whose only outcome is its next token.

        Drafts continue the committed text, so a session that may have some waits for its token.
        """
        drafts = self.buffer or self.ngram_drafts or self.waits_for_edge
        return self.num_in_flight == 0 or (self.decodes_on and not drafts)

    @property
    def decodes_on(self) -> bool:
        """A step runs that only chooses its next token: it can decode in the one behind it."""
        return self.num_in_flight == self.num_pending == 1 < self.num_remaining

    @property
    def waits_for_edge(self) -> bool:
        """Drafts are expected: there is an edge, it is asked to draft, and it is in time."""
        return self.has_edge and self.directive.window > 0 and not self.edge_late

    @property
    def edge_resting(self) -> bool:
        """Waiting longer brings no more drafts: the edge itself waits for a verdict."""
        most = min(self.directive.window, self.num_remaining - 1)  # the last is the target's own
        return self.block_complete or len(self.buffer) >= most

    def offer(self, block: DraftBlock, now: float) -> None:
        """Take a block into the buffer.

        Raises ProtocolError on a gap, on a rewrite inside one epoch, and beyond `max_window`.
        """
        self._check_room(len(block.tokens))  # of a stale block, too: it is refused at any moment
        if block.epoch < self.epoch or (block.epoch == self.epoch and self.epoch_dead):
            return
        new = block.epoch > self.epoch
        # An epoch begins where the verdict ended that contradicted the one before.
        answers_s = self._sent_s.get(block.position) if new else None
        self.history.arrived(block, answers_s, now)
        if new:
            self.epoch, self.epoch_dead = block.epoch, False
            self._forget_buffer()
        end = len(self.tokens) + len(self.buffer)
        if block.position > end:
            raise ProtocolError(
                f"draft block starts at position {block.position} but the stream ends at {end}: "
                "send the tokens between, or start a new epoch"
            )
        for offset, token in enumerate(block.tokens):
            position = block.position + offset
            if position < len(self.tokens):
                if token != self.tokens[position]:
                    self._kill_epoch()
                    return
            elif position < end:
                if token != self.buffer[position - len(self.tokens)]:
                    raise ProtocolError(
                        f"draft block rewrites position {position} inside epoch {block.epoch}: "
                        "start a new epoch"
                    )
            else:
                self.buffer.append(token)
                self.acceptance.append(block.acceptance[offset])
        self._check_room(len(self.buffer))
        if self.buffer:
            self.edge_late = False
            self.block_complete = block.complete
            self.block_arrived_s = now

    def _check_room(self, num_waiting: int) -> None:
        if num_waiting > self.max_window:
            raise ProtocolError(
                f"{num_waiting} draft tokens are waiting but at most {self.max_window} may: "
                "keep to the window of the last directive"
            )

    def commit(self, tokens: Sequence[int], now: float) -> list[int]:
        """Append what a step chose, up to a stop or the limit; returns what was appended.

        The rest of the buffer lives on if it agrees with all of it, else the epoch is dead.
        """
        taken: list[int] = []
        for token in tokens:
            taken.append(token)
            if token in self.sampling.stop_token_ids:
                self.finish_reason = FinishReason.STOP
            elif self.num_output + len(taken) >= self.sampling.max_tokens:
                self.finish_reason = FinishReason.LENGTH
            if self.finish_reason:
                break
        self.tokens.extend(taken)
        self.committed_s = now
        if self.has_edge:
            self._sent_s[len(self.tokens)] = now
            if len(self._sent_s) > _MAX_ROUNDS:
                del self._sent_s[next(iter(self._sent_s))]
        period_s = 1.0 / self.slo.tokens_per_s
        self.due_s = now + period_s
        ahead_s = now + period_s + _MAX_AHEAD_S
        if self.num_output - len(taken) == self._num_resumed:
            self.promised_s = self.aimed_s = now  # the rate begins with the first token
        self.promised_s = min(self.promised_s + len(taken) * period_s, ahead_s)
        self.aimed_s = min(self.aimed_s + len(taken) * period_s / _AIM, ahead_s)
        overlap = min(len(taken), len(self.buffer))
        if self.buffer[:overlap] != taken[:overlap]:
            self._kill_epoch()
        elif len(taken) >= len(self.buffer):
            self._forget_buffer()
        else:
            del self.buffer[:overlap], self.acceptance[:overlap]
        if self._ngram:
            self._draft_ngram(self._ngram, taken)
        return taken

    def _draft_ngram(self, drafter: NgramDrafter, taken: Sequence[int]) -> None:
        drafter.extend(taken)
        self.ngram_drafts = drafter.drafts(self._max_ngram)
        acceptance = self.history.ngram_accepted / self.history.ngram_examined
        self.ngram_acceptance = array("d", [acceptance]) * len(self.ngram_drafts)

    def _forget_buffer(self) -> None:
        self.buffer.clear()
        del self.acceptance[:]
        self.block_complete = False

    def _kill_epoch(self) -> None:
        self.epoch_dead = True
        self._forget_buffer()
