"""A clip as one vector of each modality, for methods that read clips in their conversation."""

from __future__ import annotations

from torch import Tensor

from msabench.data.batch import Batch
from msabench.nn.modality_encoder import mean_over
from msabench.nn.text_vector import TextVector, text_vector


def clip_vectors(batch: Batch, text: Tensor, which: TextVector) -> dict[str, Tensor]:
    """Average over what is observed; a removed modality is zero, whatever a text encoder says of its tokens.

    Args:
        batch: Its masks, audio and vision are read.
        text: float ``(B, T, D)``, the text of the batch.
        which: ``mean`` takes the mean over the text's observed words, ``first`` its first state ([CLS] of BERT).

    Returns:
        Modality -> float ``(B, D_m)``.
    """
    words = text_vector(text, batch.observed["text"], which)
    return {
        "text": words * batch.observed["text"].any(1, keepdim=True),
        **{m: mean_over(batch.features[m], batch.observed[m]) for m in ("audio", "vision")},
    }
