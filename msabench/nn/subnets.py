"""One small network per modality, as in TFN, LMF and LF-DNN: a clip of any length becomes one vector.

The networks of TFN (Zadeh et al., EMNLP 2017, section 4.1) as they are in https://github.com/thuiar/MMSA at
a94e65d (``SubNet``, ``TextSubNet``), which also averages audio and vision over all stored steps.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from msabench.nn.packed import cheapest_kernel


class ClipNorm(nn.BatchNorm1d):
    """BatchNorm1d that uses its running statistics for a single clip, whose own variance is undefined."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(B, D)``."""
        if self.training and len(input) == 1:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(input)


class PooledNet(nn.Module):
    """Normalisation, dropout and three ReLU layers on a modality's mean over time, padding included.

    Args:
        features: Features D of the modality.
        hidden: Units H of every layer.
        dropout: Dropout on the normalised means.
    """

    def __init__(self, features: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = ClipNorm(features)
        self.drop = nn.Dropout(dropout)
        self.linear_1 = nn.Linear(features, hidden)
        self.linear_2 = nn.Linear(hidden, hidden)
        self.linear_3 = nn.Linear(hidden, hidden)

    def forward(self, sequence: Tensor) -> Tensor:
        """Encode ``(B, T, D)``: float ``(B, H)``, at least 0."""
        hidden = self.drop(self.norm(sequence.mean(dim=1)))
        for linear in (self.linear_1, self.linear_2, self.linear_3):
            hidden = F.relu(linear(hidden))
        return hidden


class TextNet(nn.Module):
    """LSTM over all stored steps of a text, padding included, read at the last one; see ``nn.padding``.

    Args:
        features: Features D of the text.
        hidden: Units of the LSTM.
        out: Width C of the code.
        dropout: Dropout on the LSTM's last state. The authors' codes of TFN and LMF have one, MMSA forces it to 0.
    """

    def __init__(self, features: int, hidden: int, out: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.rnn = nn.LSTM(features, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.linear_1 = nn.Linear(hidden, out)

    def forward(self, sequence: Tensor) -> Tensor:
        """Encode ``(B, T, D)``: float ``(B, C)``."""
        with cheapest_kernel(self.rnn, sequence):
            _, (last, _) = self.rnn(sequence)
        return self.linear_1(self.dropout(last[0]))


def with_one(code: Tensor) -> Tensor:
    """Put a constant 1 in front, so that products of codes also hold each code alone: ``(B, C)`` to ``(B, C + 1)``.

    Source: the tensor fusion layer of TFN, section 4.2.
    """
    return F.pad(code, (1, 0), value=1.0)
