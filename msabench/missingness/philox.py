"""Counter-based random numbers in integer tensor arithmetic.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps a 128-bit counter and a
64-bit key to four 32-bit words. A draw is thus a pure function of what it is for, and no batch order, batch size,
device or number of processes can change it.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msabench.errors import MSABenchError
from msabench.missingness.conditions import MODALITIES

Words = tuple[Tensor, Tensor, Tensor, Tensor]

WORD = 1 << 32
ROUNDS = 10
DRAW_BITS = 24
"""Bits of a draw; a draw ``r`` stands for ``r / 2**24`` in [0, 1)."""

# Multipliers and key increments of the paper's section 5.3. The multipliers are reduced by 2**32: this keeps the
# product of a word and a multiplier within int64, leaves its low word alone, and lowers its high word by the word.
_MULTIPLIERS = (0xD2511F53 - WORD, 0xCD9E8D57 - WORD)
_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_UNREDUCED = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_MASK = WORD - 1

# Blocks drawn at once: intermediate results stay in the cache on a CPU, launches stay few on an accelerator.
_CPU_BLOCKS, _ACCELERATOR_BLOCKS = 1 << 15, 1 << 22


def philox4x32(counter: Words, key: tuple[int, int], rounds: int = ROUNDS) -> Words:
    """Philox4x32 of a tensor of counters (Salmon et al. 2011, section 5.3).

    Args:
        counter: Four int64 tensors with values in [0, 2**32), of shapes that broadcast; first word first.
        key: Two integers in [0, 2**32), first word first.
        rounds: Number of rounds; 10 is the recommended and tested number.

    Returns:
        Four int64 tensors with values in [0, 2**32), of the broadcast shape.
    """
    word0, word1, word2, word3 = counter
    key0, key1 = key
    for _ in range(rounds):
        product0, product1 = word0 * _MULTIPLIERS[0], word2 * _MULTIPLIERS[1]
        high0, high1 = (product0 >> 32).add_(word0), (product1 >> 32).add_(word2)
        # Words 1 and 3 keep dirt above their 32 bits: they are only ever combined by xor, and cleaned after it.
        word0 = (high1 ^ word1).bitwise_xor_(key0).bitwise_and_(_MASK)
        word2 = (high0 ^ word3).bitwise_xor_(key1).bitwise_and_(_MASK)
        word1, word3 = product1, product0
        key0, key1 = (key0 + _INCREMENTS[0]) & _MASK, (key1 + _INCREMENTS[1]) & _MASK
    words = torch.broadcast_tensors(word0, word1 & _MASK, word2, word3 & _MASK)  # type: ignore[no-untyped-call]
    return words[0], words[1], words[2], words[3]


def draws24(seed: int, purpose: int, epoch: int, uid: Tensor, n_frames: dict[str, int]) -> dict[str, Tensor]:
    """One draw per clip, modality and frame.

    The key is ``seed`` (low, high word), the counter ``(uid low, uid high, frame >> 2, purpose << 28 | modality << 24 |
    epoch)`` with modalities numbered in the order text, audio, vision; a frame's draw is the upper 24 bits of output
    word ``frame & 3``.

    Args:
        seed: In [0, 2**64).
        purpose: What the draws are for, in [0, 16).
        epoch: In [0, 2**24).
        uid: int64 ``(N, 2)`` in [0, 2**32): low and high word of each clip's key. Draws are made on its device.
        n_frames: modality -> number of frames T_m.

    Returns:
        modality -> int64 ``(N, T_m)`` in [0, 2**24).

    Raises:
        MSABenchError: A number is out of its range.
    """
    return {
        modality: blocks24(
            seed, purpose, epoch, uid, modality, torch.arange(-(-length // 4), device=uid.device).unsqueeze(0)
        )[:, :length]
        for modality, length in n_frames.items()
    }


def blocks24(seed: int, purpose: int, epoch: int, uid: Tensor, modality: str, block: Tensor) -> Tensor:
    """Draws of one modality by blocks of four: block k has those of the frames 4k to 4k + 3, see ``draws24``.

    Args:
        seed: In [0, 2**64).
        purpose: What the draws are for, in [0, 16).
        epoch: In [0, 2**24).
        uid: int64 ``(N, 2)`` in [0, 2**32).
        modality: The modality.
        block: int64 ``(N, K)`` numbers of blocks, or ``(1, K)`` for the same ones of every clip.

    Returns:
        int64 ``(N, 4K)`` in [0, 2**24).

    Raises:
        MSABenchError: A number is out of its range.
    """
    for what, value, bits in (("seed", seed, 64), ("purpose of draws", purpose, 4), ("epoch", epoch, 24)):
        if not 0 <= value < 1 << bits:
            raise MSABenchError(f"{what} {value} is not allowed; give an integer in [0, 2**{bits})")
    key, n_blocks = (seed & _MASK, seed >> 32), block.shape[1]
    words = uid.new_empty(len(uid), n_blocks, 4)
    last_word = block.new_full((1, n_blocks), purpose << 28 | MODALITIES.index(modality) << 24 | epoch)
    budget = _CPU_BLOCKS if uid.device.type == "cpu" else _ACCELERATOR_BLOCKS
    clips_at_once = max(1, budget // max(1, n_blocks))
    chunks = torch.split(uid, clips_at_once)
    blocks = [block] * len(chunks) if len(block) == 1 else torch.split(block, clips_at_once)
    for chunk, theirs, out in zip(chunks, blocks, torch.split(words, clips_at_once), strict=True):
        counter = (chunk[:, :1], chunk[:, 1:], theirs, last_word)
        if uid.device.type == "cpu":
            _draw_on_cpu(counter, key, out.numpy())
            continue
        for position, word in enumerate(philox4x32(counter, key)):
            torch.bitwise_right_shift(word, 32 - DRAW_BITS, out=out[:, :, position])
    return words.flatten(1)


def _draw_on_cpu(counter: Words, key: tuple[int, int], out: NDArray[np.int64]) -> None:
    """Write the draws of ``philox4x32`` into int64 ``(N, K, 4)``; on words of 32 bits, of which torch has no products.

    A product of two words is one of 64 bits, whose halves are read where they lie.
    """
    low, high = (0, 1) if sys.byteorder == "little" else (1, 0)
    word0, word1, word2, word3 = (word.numpy().astype(np.uint32) for word in counter)
    key0, key1 = key
    for _ in range(ROUNDS):
        product0, product1 = (
            np.multiply(word, multiplier, dtype=np.uint64).view(np.uint32).reshape(*word.shape, 2)
            for word, multiplier in zip((word0, word2), _UNREDUCED, strict=True)
        )
        word0 = product1[..., high] ^ word1
        word0 ^= np.uint32(key0)
        word2 = product0[..., high] ^ word3
        word2 ^= np.uint32(key1)
        word1, word3 = product1[..., low], product0[..., low]
        key0, key1 = (key0 + _INCREMENTS[0]) & _MASK, (key1 + _INCREMENTS[1]) & _MASK
    for position, word in enumerate((word0, word1, word2, word3)):
        np.right_shift(word, np.uint32(32 - DRAW_BITS), out=out[..., position], casting="safe")
