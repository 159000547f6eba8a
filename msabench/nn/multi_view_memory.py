"""The gated multi-view memory of MFN, which Graph-MFN and MFM share, and the encoder around it in MFN and MFM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Hidden(NamedTuple):
    """The hidden layer of a small network: its units, and the dropout on them."""

    width: int
    dropout: float


class TwoLayers(nn.Module):
    """``W2 dropout(ReLU(W1 x))``, both layers with bias."""

    def __init__(self, features: int, hidden: Hidden, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden.width)
        self.fc2 = nn.Linear(hidden.width, outputs)
        self.dropout = nn.Dropout(hidden.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., features)`` to ``(..., outputs)``."""
        return self.second(self.fc1(x))

    def second(self, before_relu: Tensor) -> Tensor:
        """The rest of the network, from the output of its first layer on."""
        outputs: Tensor = self.fc2(self.dropout(F.relu(before_relu)))
        return outputs


class MultiViewMemory(nn.Module):
    """A memory u_t that two gates write to, from a description x_t of what the modalities do at step t.

    ``u_t = g1 u_{t-1} + g2 c_t`` with ``u_0 = 0``, proposal ``c_t = tanh(D_u(x_t))``, retain gate
    ``g1 = sigmoid(D_1([x_t; u_{t-1}]))`` and update gate ``g2 = sigmoid(D_2([x_t; u_{t-1}]))``, products elementwise.
    Zadeh et al., "Memory Fusion Network for Multi-view Sequential Learning", AAAI 2018, section on the memory. Whatever
    reads x_t alone is computed for all steps at once.

    Args:
        features: Width of x.
        width: Width of the memory.
        propose: Hidden layer of D_u.
        retain: Hidden layer of D_1.
        update: Hidden layer of D_2.
    """

    def __init__(self, features: int, width: int, *, propose: Hidden, retain: Hidden, update: Hidden) -> None:
        super().__init__()
        self.features, self.width = features, width
        self.propose = TwoLayers(features, propose, width)
        self.retain = TwoLayers(features + width, retain, width)
        self.update = TwoLayers(features + width, update, width)

    def forward(self, x: Tensor) -> Tensor:
        """Read ``(B, T, features)``; the memory after the last step ``(B, width)``."""
        proposals = self.propose(x).tanh()
        gates = (self.retain, self.update)
        from_memory = [gate.fc1.weight[:, self.features :].t() for gate in gates]
        from_input = [F.linear(x, gate.fc1.weight[:, : self.features], gate.fc1.bias) for gate in gates]
        memory = x.new_zeros(len(x), self.width)
        for proposal, *inputs in zip(*(part.unbind(1) for part in (proposals, *from_input)), strict=True):
            retain, update = (
                gate.second(torch.addmm(of_input, memory, weight)).sigmoid()
                for gate, of_input, weight in zip(gates, inputs, from_memory, strict=True)
            )
            memory = retain * memory + update * proposal
        return memory


class MemoryFusion(nn.Module):
    """MFN without its output network: an LSTM per modality, attention over their cell states, and the memory.

    At step t the cell states of steps t - 1 and t (0 before the first) stand side by side, ``c* = [c_{t-1}; c_t]`` with
    c all modalities' states in order. The attention ``softmax(D_a(c*))``, over features, weighs c* elementwise;
    the memory reads the product. The memory does not feed back, so attention runs over all steps at once.

    Args:
        features: Widths of the modalities' frames.
        hidden: Units of their LSTMs, as many.
        memory: Width of the memory.
        attend: Hidden layer of D_a.
        propose: Hidden layer of the memory's proposal.
        retain: Hidden layer of its retain gate.
        update: Hidden layer of its update gate.

    Attributes:
        width: Features of the output, the sum of ``hidden`` and ``memory``.
    """

    def __init__(
        self,
        features: Sequence[int],
        hidden: Sequence[int],
        memory: int,
        *,
        attend: Hidden,
        propose: Hidden,
        retain: Hidden,
        update: Hidden,
    ) -> None:
        super().__init__()
        self.lstms = nn.ModuleList(nn.LSTMCell(d, h) for d, h in zip(features, hidden, strict=True))
        window = 2 * sum(hidden)
        self.attend = TwoLayers(window, attend, window)
        self.memory = MultiViewMemory(window, memory, propose=propose, retain=retain, update=update)
        self.width = sum(hidden) + memory

    def forward(self, sequences: Sequence[Tensor]) -> Tensor:
        """Read one ``(B, T, features[m])`` per modality, T common; the last states and the memory ``(B, width)``."""
        runs = [_run(lstm, x) for lstm, x in zip(self.lstms, sequences, strict=True)]
        cells = torch.cat([cells for _, cells in runs], dim=2)
        pairs = torch.cat([F.pad(cells, (0, 0, 1, -1)), cells], dim=2)
        attended = self.attend(pairs).softmax(2) * pairs
        return torch.cat([*(last for last, _ in runs), self.memory(attended)], dim=1)


def _run(lstm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The last hidden state ``(B, H)`` and the cell states of all steps ``(B, T, H)``, which ``nn.LSTM`` hides."""
    assert isinstance(lstm, nn.LSTMCell)
    recurrent = lstm.weight_hh.t()
    h = c = x.new_zeros(len(x), lstm.hidden_size)
    cells = []
    for from_input in F.linear(x, lstm.weight_ih, lstm.bias_ih + lstm.bias_hh).unbind(1):
        i, f, g, o = torch.addmm(from_input, h, recurrent).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        cells.append(c)
    return h, torch.stack(cells, dim=1)
