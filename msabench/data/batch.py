"""The one description of what a method sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass
class Batch:
    """A batch of clips. B is the number of clips, T_m and D_m steps and features of modality m.

    Two masks are kept apart: ``valid`` says which steps exist (padding is not valid), ``observed`` which of them
    survived the missingness pattern. Neither may be inferred from zeros. A modality without any observed frame is
    *removed*: its features are zero, its ``observed`` is False and, unless the protocol says ``lengths: keep``, its
    ``valid`` is True over the whole length, so that not even its length is told.

    Attributes:
        features: modality -> float32 ``(B, T_m, D_m)``, 0 where not observed. ``text`` is absent when a text encoder
            reads ``tokens`` instead.
        valid: modality -> bool ``(B, T_m)``.
        observed: modality -> bool ``(B, T_m)``; implies ``valid`` unless the modality is removed (then all False).
        last: modality -> int64 ``(B,)``, index of the last valid step (T_m - 1 for files padded in front).
        tokens: int64 ``(B, 3, T_l)``: ids, attention mask, token types, after the text drop; None unless asked for.
        token_keep: bool ``(B, T_l)``, False where the token's *embedding* is to be zeroed; None unless the protocol
            drops token embeddings.
        text_level: Where text was dropped: ``tokens`` (they are corrupted already) or ``vectors`` (a text encoder's
            states are to be zeroed where ``observed`` is False; at padding, where the method does not keep them).
        labels: float32 ``(B,)`` in label units, or int64 ``(B, 4)`` for IEMOCAP. None in evaluation's forward.
        index: int64 ``(B,)``, row in the training split, stable over epochs. None outside training.
        conversation: int64 ``(B,)``, number of the clip's conversation (its video) in the split. None only in batches
            made by hand. Whole conversations are in the batch if the method needs them, in any order.
        turn: int64 ``(B,)``, the clip's place in its conversation, from 0 in order of time; None as above.
        complete: The same clips without missingness, for methods that declare it. None outside training.
        views: Two independently corrupted versions, for methods that declare it. None outside training.
            ``views[0]`` has the same content as the batch itself.
    """

    features: dict[str, Tensor]
    valid: dict[str, Tensor]
    observed: dict[str, Tensor]
    last: dict[str, Tensor]
    tokens: Tensor | None = None
    token_keep: Tensor | None = None
    text_level: str = "vectors"
    labels: Tensor | None = None
    index: Tensor | None = None
    conversation: Tensor | None = None
    turn: Tensor | None = None
    complete: Batch | None = None
    views: tuple[Batch, Batch] | None = None

    @property
    def text(self) -> Tensor:
        """Text features ``(B, T_l, D_l)``."""
        return self.features["text"]

    @property
    def audio(self) -> Tensor:
        """Audio features ``(B, T_a, D_a)``."""
        return self.features["audio"]

    @property
    def vision(self) -> Tensor:
        """Vision features ``(B, T_v, D_v)``."""
        return self.features["vision"]

    @property
    def size(self) -> int:
        """Number of clips B."""
        return self.valid["text"].shape[0]

    def for_inference(self) -> Batch:
        """The same batch with everything removed that a deployed model would not see."""
        return replace(self, labels=None, index=None, complete=None, views=None)

    def in_type(self, dtype: torch.dtype) -> Batch:
        """The same batch with features of another type, e.g. that of a method's weights.

        Args:
            dtype: A floating type. Scores as labels change to it only if it is wider than theirs: what a label says is
                not rounded.
        """
        if all(values.dtype == dtype for values in self.features.values()):
            return self
        labels = self.labels
        if labels is not None and labels.is_floating_point():
            labels = labels.to(torch.promote_types(labels.dtype, dtype))
        first, second = self.views or (None, None)
        return replace(
            self,
            features={modality: values.to(dtype) for modality, values in self.features.items()},
            labels=labels,
            complete=self.complete and self.complete.in_type(dtype),
            views=(first.in_type(dtype), second.in_type(dtype)) if first and second else None,
        )

    def to(self, device: object) -> Batch:
        """Copy every tensor to a device (a no-op for tensors that are there already)."""
        return self.mapped(lambda value: value.to(device, non_blocking=True))  # type: ignore[call-overload]

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with every tensor changed, also those of its other versions.

        Args:
            change: Called with every tensor, in an order that is the same for batches of one form.
        """

        def mapped(value: object) -> object:
            if isinstance(value, Tensor):
                return change(value)
            if isinstance(value, Batch):
                return value.mapped(change)
            if isinstance(value, dict):
                return {key: mapped(item) for key, item in value.items()}
            if isinstance(value, tuple):
                return tuple(mapped(item) for item in value)
            return value

        return Batch(**{field.name: mapped(getattr(self, field.name)) for field in fields(self)})  # type: ignore[arg-type]


def stacked(*batches: Batch) -> Batch:
    """Versions of the same clips as one batch, the clips of the first one first.

    Args:
        batches: Batches of one data module. Only what ``forward`` may read is kept: features, masks, tokens and
            conversations, which are another one in each version.
    """

    def joined(name: str) -> dict[str, Tensor]:
        return {m: torch.cat([getattr(batch, name)[m] for batch in batches]) for m in getattr(batches[0], name)}

    def joined_if_any(name: str) -> Tensor | None:
        return None if getattr(batches[0], name) is None else torch.cat([getattr(batch, name) for batch in batches])

    conversation, turn = None, joined_if_any("turn")
    if batches[0].conversation is not None:
        apart = int(batches[0].conversation.max()) + 1
        numbers = [number for batch in batches if (number := batch.conversation) is not None]
        conversation = torch.cat([number + version * apart for version, number in enumerate(numbers)])
    return Batch(
        features=joined("features"),
        valid=joined("valid"),
        observed=joined("observed"),
        last=joined("last"),
        tokens=joined_if_any("tokens"),
        token_keep=joined_if_any("token_keep"),
        text_level=batches[0].text_level,
        conversation=conversation,
        turn=turn,
    )
