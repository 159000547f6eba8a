"""Which clips belong to one conversation: those whose ids name the same video."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from msabench.data.file_words import conversation_of

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Conversations:
    """The conversations of a split of N clips.

    Attributes:
        number: int64 ``(N,)``, the conversation of each clip, counted from 0 in the order of the file.
        turn: int64 ``(N,)``, the clip's place in its conversation, from 0 in order of time.
        order: int64 ``(N,)``, the split's rows conversation by conversation, each in order of time.
        sizes: Clips of each conversation.
    """

    number: Tensor
    turn: Tensor
    order: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, ids: list[str]) -> Conversations:
        """Group the clips of a split.

        Args:
            ids: Clip ids ``video$_$clip``, where ``clip`` is or begins with a running number or a time; clips are
                ordered by it. An id without ``$_$`` names no video: its clip is a conversation of its own.
        """
        rows_of: dict[str, list[int]] = {}
        for row, clip in enumerate(ids):
            rows_of.setdefault(conversation_of(clip), []).append(row)
        sizes = tuple(map(len, rows_of.values()))
        in_time = (sorted(rows, key=lambda row: (_time(ids[row]), row)) for rows in rows_of.values())
        order = torch.tensor([row for rows in in_time for row in rows], dtype=torch.int64)
        number, turn = torch.empty_like(order), torch.empty_like(order)
        number[order] = torch.repeat_interleave(torch.tensor(sizes, dtype=torch.int64))
        turn[order] = torch.tensor([place for size in sizes for place in range(size)], dtype=torch.int64)
        return cls(number, turn, order, sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def rows(self) -> list[Tensor]:
        """Rows of each conversation in order of time, int64."""
        return list(torch.split(self.order, list(self.sizes)))

    @property
    def place(self) -> Tensor:
        """int64 ``(N,)``: what stands in ``order``, indexed with this, stands in the order of the file."""
        return torch.argsort(self.order)

    def packed(self, n_clips: int) -> list[Tensor]:
        """Batches of whole conversations in ``order``.

        Args:
            n_clips: Clips in a batch at most, unless one conversation alone has more.
        """
        sizes: list[int] = []
        for size in self.sizes:
            if sizes and sizes[-1] + size <= n_clips:
                sizes[-1] += size
            else:
                sizes.append(size)
        return list(torch.split(self.order, sizes))

    def to(self, device: torch.device) -> Conversations:
        """The same with ``number`` and ``turn`` on a device; ``order`` stays, loaders read it on the host."""
        return replace(self, number=self.number.to(device), turn=self.turn.to(device))


def _time(clip: str) -> tuple[float, str]:
    name = clip.rpartition("$_$")[2]
    number = _NUMBER.search(name)
    return (float(number[0]) if number else float("inf"), name)
