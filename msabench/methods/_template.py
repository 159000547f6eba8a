"""Template: title of the paper, or what is new. Authors. Venue, URL. Official code and commit, licence, or no code.

Deviations:
    One line for each departure from the paper, with its reason.
"""

from __future__ import annotations

import torch
from torch import nn

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES


class Template(MSAMethod):
    """Mean of the observed frames of each modality, concatenated, into a two-layer perceptron.

    It trains on the task term alone, so it leaves ``loss`` to the base.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
        hidden: Width H of the hidden layer.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
    """

    # Written as a literal: the list of methods is read without importing this file.
    info = MethodInfo(
        name="_template",
        title="Title of the paper",
        venue="Venue",
        year=2026,
        url="https://example.org/paper",
        fidelity="reference",
        smoke={"hidden": 8},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        hidden: int = 64,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="l1")
        self.hidden = nn.Linear(sum(spec.feature_dims.values()), hidden)
        self.out = nn.Linear(hidden, self.n_outputs)

    def forward(self, batch: Batch) -> Output:
        """Predict from the features and masks of a batch."""
        means = []
        for modality in MODALITIES:
            frames = batch.observed[modality].sum(1, keepdim=True).clamp(min=1)
            means.append(batch.features[modality].sum(1) / frames)
        joint = torch.relu(self.hidden(torch.cat(means, dim=1)))
        return Output(pred=self.to_pred(self.out(joint)), representation=joint)
