"""The head of one branch in methods that also predict from each modality alone (Self-MM, TETFN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BranchHead(nn.Module):
    """``Dropout -> Linear -> ReLU =: F -> Linear -> ReLU -> Linear``.

    Source: Yu et al., AAAI 2021, section Overall Architecture; layers as in https://github.com/thuiar/MMSA at a94e65d.

    Args:
        features: Width of the branch's vector.
        width: Width H of the hidden layers.
        outputs: Width of the output.
        dropout: Dropout on the branch's vector, in [0, 1).
    """

    def __init__(self, features: int, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.layer_1 = nn.Linear(features, width)
        self.layer_2 = nn.Linear(width, width)
        self.layer_3 = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map a branch's vector ``(B, features)`` to its outputs ``(B, outputs)`` and its F ``(B, H)``, at least 0."""
        shared = torch.relu(self.layer_1(self.dropout(x)))
        return self.layer_3(torch.relu(self.layer_2(shared))), shared
