"""Each modality of a clip as a few tokens: how ALMT, LNLN, P-RMF and RECAP begin."""

from __future__ import annotations

from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.missingness.conditions import MODALITIES
from msabench.nn.text import TextInput
from msabench.nn.token_transformer import TokenEmbedding


class ClipTokens(nn.Module):
    """A ``TokenEmbedding`` for each modality. Every stored step is read, padding included.

    Args:
        spec: What the data look like.
        text: Where the text comes from.
        dim: Features D of a token.
        tokens: Tokens K of a modality, at least 1.
        layers: Layers of each modality's Transformer, at least 1.
        heads: Attention heads.
        dim_head: Features of a head.
        kept: Tokens that are given on, from the front; None for all. The others are context.
    """

    def __init__(
        self,
        spec: DataSpec,
        text: TextInput,
        dim: int,
        tokens: int,
        *,
        layers: int = 2,
        heads: int = 8,
        dim_head: int = 64,
        kept: int | None = None,
    ) -> None:
        super().__init__()
        self.text = text
        widths = {**spec.feature_dims, "text": text.width}
        sizes = {"tokens": tokens, "layers": layers, "heads": heads, "dim_head": dim_head}
        self.tokens = nn.ModuleDict(
            {m: TokenEmbedding(widths[m], dim, spec.seq_lens[m], kept=kept, **sizes) for m in MODALITIES}
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Modality -> float ``(B, K, D)``, or ``(B, kept, D)``."""
        features = {"text": self.text(batch), "audio": batch.audio, "vision": batch.vision}
        return {m: self.tokens[m](features[m]) for m in MODALITIES}
