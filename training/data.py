"""Windows of tokens for training, and prompts for the target to continue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CHAT_FRACTION = 0.25
# The lengths of prompts: these bounds hold most first questions of a conversation.
MIN_PROMPT, MAX_PROMPT = 14, 48
# A chat prompt may reach this far into the answer.
MAX_ANSWERED = 8


@dataclass
class Corpus:
    """The token streams on the training device; every draw comes from one seeded generator."""

    text: Tensor
    chat: Tensor
    chat_starts: Tensor
    chat_prompt_lengths: Tensor
    generator: torch.Generator

    @classmethod
    def load(cls, folder: Path, device: torch.device, seed: int) -> Corpus:
        arrays = np.load(folder / "tokens.npz")
        names = ("text", "chat", "chat_starts", "chat_prompt_lengths")
        text, chat, starts, lengths = (
            torch.from_numpy(arrays[name].astype(np.int64)).to(device) for name in names
        )
        return cls(text, chat, starts, lengths, torch.Generator().manual_seed(seed))

    def windows(self, batch: int, length: int) -> Tensor:
        """Text from anywhere, and chat from the beginning of a conversation on."""
        num_chat = round(batch * CHAT_FRACTION)
        return torch.cat(
            [
                self._text(batch - num_chat, length),
                self._chat(self._draw(self.chat_starts.numel(), num_chat), length),
            ]
        )

    def prompts(self, batch: int) -> Tensor:
        """Prompts of one drawn length, so that none needs padding: half text, half chat."""
        length = MIN_PROMPT + int(self._draw(MAX_PROMPT - MIN_PROMPT + 1, 1))
        answered = length - self.chat_prompt_lengths
        (fitting,) = torch.nonzero((answered >= 0) & (answered <= MAX_ANSWERED), as_tuple=True)
        chat = fitting[self._draw(fitting.numel(), batch // 2)]
        return torch.cat([self._text(batch - batch // 2, length), self._chat(chat, length)])

    def _text(self, batch: int, length: int) -> Tensor:
        starts = self._draw(self.text.numel() - length, batch)
        return self.text[starts[:, None] + torch.arange(length, device=starts.device)]

    def _chat(self, conversations: Tensor, length: int) -> Tensor:
        starts = self.chat_starts[conversations]
        index = starts[:, None] + torch.arange(length, device=starts.device)
        return self.chat[index % self.chat.numel()]

    def _draw(self, bound: int, size: int) -> Tensor:
        return torch.randint(bound, (size,), generator=self.generator).to(self.text.device)
