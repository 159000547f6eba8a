"""Graph convolutions over the utterances of conversations, as products with dense adjacency matrices.

C conversations of at most U utterances each are one tensor, and a graph is bool ``(C, U, U)``: ``edges[c, i, j]`` says
whether utterance i hears utterance j. Every product is batched, so nothing is looped over utterances or edges.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def window_edges(mask: Tensor, past: int, future: int) -> Tensor:
    """Edges from every utterance to those around it, itself among them, as DialogueGCN and GCNet draw them.

    Utterance j is heard by the ``past`` utterances before it and the ``future`` ones after it: windows are counted from
    the utterance that speaks, so that i hears j from ``i - future`` to ``i + past``.

    Args:
        mask: bool ``(C, U)``, the utterances that exist; others neither hear nor are heard.
        past: Utterances before, at least 0; -1 for all.
        future: Utterances after, at least 0; -1 for all.

    Returns:
        bool ``(C, U, U)``, listener first.
    """
    step = torch.arange(mask.shape[1], device=mask.device)
    after = step.unsqueeze(1) - step  # how far the listener comes after the speaker
    near = torch.ones_like(after, dtype=torch.bool)
    if past >= 0:
        near &= after >= -past
    if future >= 0:
        near &= after <= future
    return near & mask.unsqueeze(2) & mask.unsqueeze(1)


class RelationalConvolution(nn.Module):
    """Relational graph convolution (Schlichtkrull et al., ESWC 2018), with a mean for each relation.

    ``z_i = x_i W_0 + b + sum_r mean_{j in N_r(i)} x_j W_r``; a relation without a neighbour adds nothing. No
    nonlinearity. The same numbers as ``RGCNConv`` of PyTorch Geometric, and the same initial weights: Glorot's, bias 0.

    Args:
        in_features: Features D of an utterance.
        out_features: Features G of the result.
        relations: Kinds R of edges.
    """

    def __init__(self, in_features: int, out_features: int, relations: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(relations, in_features, out_features))
        self.root = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        bound = (6 / (in_features + out_features)) ** 0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.root, -bound, bound)

    def forward(self, x: Tensor, relations: Tensor) -> Tensor:
        """Convolve.

        Args:
            x: float ``(C, U, D)``.
            relations: bool ``(R, C, U, U)``, the edges of each kind.

        Returns:
            float ``(C, U, G)``.
        """
        said = torch.einsum("cjd,rdg->crjg", x, self.weight).flatten(1, 2)
        shares = relations / relations.sum(3, keepdim=True).clamp(min=1)
        heard = torch.bmm(shares.permute(1, 2, 0, 3).flatten(2).to(x.dtype), said)
        return x @ self.root + self.bias + heard


class GraphConvolution(nn.Module):
    """Graph convolution with a sum over neighbours (Morris et al., AAAI 2019).

    ``y_i = W_1 x_i + W_2 sum_{j in N(i)} x_j + b``. No nonlinearity. The same numbers as ``GraphConv`` of PyTorch
    Geometric.

    Args:
        in_features: Features D of an utterance.
        out_features: Features G of the result.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.neighbours = nn.Linear(in_features, out_features)
        self.own = nn.Linear(in_features, out_features, bias=False)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Convolve ``(C, U, D)`` along bool ``(C, U, U)`` edges to ``(C, U, G)``."""
        return self.neighbours(torch.bmm(edges.to(x.dtype), x)) + self.own(x)
