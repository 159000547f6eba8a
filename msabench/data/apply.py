"""Masks and clips make a batch: what is dropped is zeroed, or replaced in the token ids."""

from __future__ import annotations

import torch
from torch import Tensor

from msabench.data.alterations import Alterations, require_features
from msabench.data.batch import Batch
from msabench.data.corpus import SplitData
from msabench.errors import MSABenchError
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import CLS, SEP, UNK, MissingConfig
from msabench.missingness.patterns import Masks, inner_steps


def build_batch(
    split: SplitData,
    masks: Masks,
    index: Tensor | slice,
    *,
    config: MissingConfig,
    with_tokens: bool,
    scale: dict[str, tuple[Tensor, Tensor]] | None = None,
    alterations: Alterations | None = None,
) -> Batch:
    """Pick clips of a split and apply their masks.

    Args:
        split: The split.
        masks: Masks of all its clips, made under the same ``config``.
        index: Rows of the split as an integer tensor ``(B,)``, or a slice of them.
        config: Says at which level text is dropped and how.
        with_tokens: Whether the method reads token ids. The batch then has tokens in place of text features.
        scale: modality -> (mean, standard deviation), each float32 ``(D_m,)``, applied to the features before the
            drop; None leaves features as they are.
        alterations: What the cell does to values; None for nothing. Noise is added before features are scaled.

    Returns:
        The batch, on the split's device and in memory of its own. ``index`` is set if a tensor was given. At level
        ``vectors`` tokens are complete unless text is removed: there the text encoder's states are dropped by
        ``observed``.

    Raises:
        MSABenchError: Tokens are asked for and the corpus has none, ``level: tokens`` and nobody reads tokens, or noise
            is to be added to text and a text encoder reads tokens.
    """
    if with_tokens and split.tokens is None:
        raise MSABenchError(
            "the feature file has no token ids for the method's text encoder; choose a file with token ids "
            "(an mmsa feature family) or let the method read precomputed text features"
        )
    if config.level == "tokens" and not with_tokens:
        raise MSABenchError(
            "level 'tokens' drops words before the text encoder, but text comes as precomputed features; "
            "set level to 'vectors' or give the method a text encoder that reads token ids"
        )
    if alterations is not None:
        require_features(alterations.cell, with_tokens)
    picked = masks.pick(index) if isinstance(index, Tensor) else _slice(masks, index)
    keep = picked.keep_bits()
    batch = Batch(
        features={
            modality: _features(split, modality, index, keep[modality], (scale or {}).get(modality), alterations)
            for modality in (MODALITIES[1:] if with_tokens else MODALITIES)
        },
        valid=picked.valid,
        observed=picked.observed,
        last=picked.last,
        labels=_pick(split.labels, index),
        index=index.long() if isinstance(index, Tensor) else None,
    )
    if with_tokens:
        _add_tokens(batch, split, index, config, alterations)
    return batch


def _slice(masks: Masks, index: slice) -> Masks:
    fields = (masks.observed, masks.valid, masks.last)
    return Masks(*({modality: _pick(rows, index) for modality, rows in field.items()} for field in fields))


def _pick(rows: Tensor, index: Tensor | slice) -> Tensor:
    # A slice would be a view: the batch must never be a way to write into the split.
    return rows[index].clone() if isinstance(index, slice) else rows.index_select(0, index)


def _features(
    split: SplitData,
    modality: str,
    index: Tensor | slice,
    keep: Tensor,
    scale: tuple[Tensor, Tensor] | None,
    alterations: Alterations | None,
) -> Tensor:
    if alterations is not None:
        index = alterations.rows(modality, index)
    owned = isinstance(index, Tensor)
    rows = split.features[modality]
    picked = rows.index_select(0, index) if isinstance(index, Tensor) else rows[index]
    noise = (
        None
        if alterations is None
        else alterations.noise(modality, split.uid[index], rows.shape[1], keep.squeeze(-1) != 0)
    )
    if noise is not None:
        picked, owned = picked + noise, True
    if scale is not None:
        mean, deviation = scale
        picked = (picked.sub_(mean) if owned else picked - mean).div_(deviation)
        owned = True
    # Bits are cleared rather than numbers multiplied by 0: as fast, and no -0.0 or NaN tells what was there.
    bits = picked.view(torch.int32)
    return (bits.bitwise_and_(keep) if owned else bits & keep).view(picked.dtype)


def _add_tokens(
    batch: Batch, split: SplitData, index: Tensor | slice, config: MissingConfig, alterations: Alterations | None
) -> None:
    assert split.tokens is not None
    if alterations is not None:
        index = alterations.rows("text", index)
    tokens = _pick(split.tokens, index)
    if alterations is not None:
        alterations.replace_words(tokens, split.uid[index], inner_steps(batch.valid["text"]))
    valid, observed = batch.valid["text"], batch.observed["text"]
    removed = ~observed.any(1, keepdim=True)
    dropped = inner_steps(valid) & (~observed if config.level == "tokens" else removed)
    if config.lengths == "hide":
        tokens = torch.where(removed.unsqueeze(1), _silence(tokens), tokens)
    tokens[:, 0].masked_fill_(dropped, UNK)
    batch.tokens, batch.text_level = tokens, config.level
    if config.level == "tokens" and config.token_fill == "zero_embedding":
        batch.token_keep = ~dropped


def _silence(tokens: Tensor) -> Tensor:
    # [CLS] [UNK] ... [UNK] [SEP] over the full length, all attended to, all of type 0: (3, T).
    silence = tokens.new_zeros(tokens.shape[1:])
    silence[0], silence[1] = UNK, 1
    silence[0, 0], silence[0, -1] = CLS, SEP
    return silence
