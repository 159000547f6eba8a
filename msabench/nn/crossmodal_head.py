"""MulT from three sequences of one width to the output, as its descendants use it (DiCMoR, IMDer, MPLMM)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from msabench.missingness.conditions import MODALITIES
from msabench.nn.crossmodal import CrossmodalEncoder
from msabench.nn.residual_head import ResidualHead

_MIN_MEMORY_LAYERS = 3


class CrossmodalStacks(nn.Module):
    """Each modality attends to the two others, a self-attention follows, and the last steps are joined.

    Args:
        dim: Features d of every sequence; a multiple of ``heads``, at least 4.
        heads: Attention heads of every encoder.
        layers: Layers of the crossmodal encoders; the memory encoders have at least 3.
        attn_dropout: modality -> dropout on attention weights where it is the source; the text's also in the memories.
        relu_dropout: Dropout in feed-forward networks.
        embed_dropout: Dropout on embedded sequences.
        res_dropout: Dropout on residual branches.

    Raises:
        MSABenchError: ``heads`` does not divide ``dim``, or ``dim`` is too small for position codes.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        layers: int,
        *,
        attn_dropout: dict[str, float],
        relu_dropout: float = 0.0,
        embed_dropout: float = 0.0,
        res_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.sources = {target: tuple(m for m in MODALITIES if m != target) for target in MODALITIES}

        def encoder(features: int, depth: int, source: str) -> CrossmodalEncoder:
            return CrossmodalEncoder(
                features,
                heads,
                depth,
                attn_dropout=attn_dropout[source],
                relu_dropout=relu_dropout,
                res_dropout=res_dropout,
                embed_dropout=embed_dropout,
            )

        self.cross = nn.ModuleDict(
            {
                f"{target}_from_{source}": encoder(dim, layers, source)
                for target, sources in self.sources.items()
                for source in sources
            }
        )
        self.memory = nn.ModuleDict(
            {target: encoder(2 * dim, max(layers, _MIN_MEMORY_LAYERS), "text") for target in MODALITIES}
        )

    def joined(self, streams: dict[str, Tensor], further: dict[str, Tensor] | None = None) -> Tensor:
        """Last steps of the memories, side by side.

        Args:
            streams: modality -> float ``(B, T_m, d)``.
            further: modality -> float ``(B, P, 2 d)``, steps of its memory behind those of the streams; None for none.

        Returns:
            float ``(B, 6 d)``.
        """
        last_steps = []
        for target, sources in self.sources.items():
            attended = [self.cross[f"{target}_from_{source}"](streams[target], streams[source]) for source in sources]
            steps = torch.cat(attended, dim=2)
            if further is not None:
                steps = torch.cat([steps, further[target]], dim=1)
            last_steps.append(self.memory[target](steps, last_only=True).squeeze(1))
        return torch.cat(last_steps, dim=1)


class CrossmodalHead(CrossmodalStacks):
    """The stacks and a residual output block.

    Args:
        dim: As for ``CrossmodalStacks``.
        heads: Likewise.
        layers: Likewise.
        outputs: Width of the output.
        out_dropout: Dropout in the output block.
        **dropouts: Those of ``CrossmodalStacks``.
    """

    def __init__(
        self, dim: int, heads: int, layers: int, outputs: int, *, out_dropout: float = 0.0, **dropouts: Any
    ) -> None:
        super().__init__(dim, heads, layers, **dropouts)
        self.output = ResidualHead(6 * dim, 6 * dim, outputs, out_dropout)

    def forward(self, streams: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Map modality -> ``(B, T, d)`` to the output ``(B, outputs)`` and the joined last steps ``(B, 6 d)``."""
        joint = self.joined(streams)
        return self.output(joint)[0], joint
