"""Every modality on the steps of the text and in one width: how TF-Mamba begins."""

from __future__ import annotations

from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.nn.ctc_aligner import ALIGNED, CTCAligner
from msabench.nn.text import TextInput


class TextSteps(nn.Module):
    """Aligns audio and vision with the text and projects all three. Every stored step is read, padding included.

    Text: LayerNorm, linear map. Audio and vision: ``CTCAligner``, whether or not they have as many steps as the text,
    LayerNorm, linear map, LayerNorm. Numerics after https://github.com/codemous/TF-Mamba at 9a1f07f.

    Args:
        spec: What the data look like.
        text: Where the text comes from.
        dim: Features D of all outputs.
    """

    def __init__(self, spec: DataSpec, text: TextInput, dim: int) -> None:
        super().__init__()
        self.text = text
        self.align = nn.ModuleDict({m: CTCAligner(spec.feature_dims[m], spec.seq_lens["text"]) for m in ALIGNED})
        self.project = nn.ModuleDict({"text": nn.Sequential(_norm(text.width), nn.Linear(text.width, dim))})
        for m in ALIGNED:
            features = spec.feature_dims[m]
            self.project[m] = nn.Sequential(_norm(features), nn.Linear(features, dim), _norm(dim))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Modality -> float ``(B, T_l, D)``."""
        steps = {m: aligner(batch.features[m])[0] for m, aligner in self.align.items()}
        steps["text"] = self.text(batch)
        return {m: project(steps[m]) for m, project in self.project.items()}


def _norm(features: int) -> nn.LayerNorm:
    return nn.LayerNorm(features, eps=1e-6)
