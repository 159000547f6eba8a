"""Normalising flow of affine couplings over the features of a sequence's steps.

Dinh et al., "Density estimation using Real NVP", ICLR 2017, and Kingma and Dhariwal, "Glow", NeurIPS 2018; numerics
after https://github.com/mdswyz/DiCMoR at 3d7e617, whose flow has neither the activation norm nor the permutations of
Glow: its couplings all read the first half of the features and change the second.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.errors import MSABenchError


class CouplingFlow(nn.Module):
    """K couplings in a row, ``b <- (b + t_k(a)) s_k(a)`` where a and b are the halves of a step's features.

    ``s_k`` is the logistic function of r_k + 2, and (r_k, t_k) the output of a perceptron with two hidden layers times
    ``exp(3 gain_k)``. Since no coupling changes a, all perceptrons read the same and run at once, and the couplings
    compose to one affine map of b. Initially every t_k is 0 and every s_k 0.88, whatever a.

    Args:
        dim: Features D of a step; even.
        layers: Couplings K.
        width: Hidden units of the perceptrons.

    Raises:
        MSABenchError: ``dim`` is odd.
    """

    def __init__(self, dim: int, layers: int, width: int) -> None:
        super().__init__()
        if dim % 2:
            raise MSABenchError(f"dim {dim} cannot be split into halves by a flow; give an even number")
        half = dim // 2
        self.weight1 = nn.Parameter(torch.empty(layers, half, width).normal_(0, 0.05))
        self.bias1 = nn.Parameter(torch.zeros(layers, 1, width))
        self.weight2 = nn.Parameter(torch.empty(layers, width, width).normal_(0, 0.05))
        self.bias2 = nn.Parameter(torch.zeros(layers, 1, width))
        self.weight3 = nn.Parameter(torch.zeros(layers, width, dim))
        self.bias3 = nn.Parameter(torch.zeros(layers, 1, dim))
        self.gain = nn.Parameter(torch.zeros(layers, 1, dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map a sequence to the latent space.

        Args:
            x: float ``(B, T, D)``.

        Returns:
            z ``(B, T, D)``, and per clip the logarithm of the map's volume change ``(B,)``.
        """
        first, second = x.chunk(2, dim=2)
        log_scale, shift = self._composed(first)
        return torch.cat([first, second * log_scale.exp() + shift], dim=2), log_scale.sum((1, 2))

    def inverse(self, z: Tensor) -> Tensor:
        """Map ``(B, T, D)`` back from the latent space."""
        first, second = z.chunk(2, dim=2)
        log_scale, shift = self._composed(first)
        return torch.cat([first, (second - shift) * (-log_scale).exp()], dim=2)

    def _composed(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """``log S`` and T of the composed map ``b -> S b + T``, both ``(B, T, D / 2)``."""
        inputs = first.reshape(1, -1, first.shape[2]).expand(len(self.gain), -1, -1)
        hidden = F.relu(torch.baddbmm(self.bias1, inputs, self.weight1))
        hidden = F.relu(torch.baddbmm(self.bias2, hidden, self.weight2))
        raw, shifts = (torch.baddbmm(self.bias3, hidden, self.weight3) * (3 * self.gain).exp()).chunk(2, dim=2)
        # A coupling's shift passes its own scale and those of all couplings behind it.
        log_scales = F.logsigmoid(raw + 2).flip(0).cumsum(0)
        shift = (shifts.flip(0) * log_scales.exp()).sum(0)
        return log_scales[-1].view(first.shape), shift.view(first.shape)
