"""A network of one's own in plain PyTorch: trained on corrupted clips, evaluated on every cell of the grid.

    python examples/own_network.py

It needs no data: the corpus is generated, so its numbers show that the way works and nothing else.
"""

from typing import Any

import torch
from torch import nn

import msabench as mb


class Net(nn.Module):
    """Means over the observed steps of each modality, then two layers."""

    def __init__(self, dims: dict[str, int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(sum(dims.values()), 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, batch: mb.Batch) -> torch.Tensor:
        """Score B clips: ``(B,)``."""
        sums = {m: x.sum(1) / batch.observed[m].sum(1, keepdim=True).clamp(min=1) for m, x in batch.features.items()}
        return self.layers(torch.cat(list(sums.values()), dim=1)).squeeze(1)


def main(epochs: int = 10, **settings: Any) -> mb.Scores:
    """Train for some epochs; further settings are those of ``mb.load``."""
    data = mb.load("synth", regime="mixed", **settings)
    torch.manual_seed(0)
    net = Net(data.spec.feature_dims)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for epoch in range(epochs):
        for rows in torch.randperm(data.spec.n_train).split(32):
            batch = data.training_batch(rows, epoch)
            loss = nn.functional.l1_loss(net(batch), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return mb.evaluate(net, data)


if __name__ == "__main__":
    scores = main()
    print(scores)
    print("for msabench score:", scores.save("own_network.parquet"))
