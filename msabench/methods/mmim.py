"""MMIM: Improving Multimodal Fusion with Hierarchical Mutual Information Maximization.

Wei Han, Hui Chen, Soujanya Poria. EMNLP 2021, https://aclanthology.org/2021.emnlp-main.723.
Official code: https://github.com/declare-lab/Multimodal-Infomax at cd0774c, MIT licence; port:
https://github.com/thuiar/MMSA at a94e65d. They compute the same, but for the direction of the LSTMs.

Text, audio and vision become vectors x_t, x_a, x_v, and a fusion network makes z of them. Two kinds of mutual
information are maximised besides the task. Between the text and each other modality y by the Barber-Agakov bound
``E log q(y | x_t) + H(y)``: a small network predicts mean and variance of y (``likelihood``), and the entropy is that
of one Gaussian for positive and one for negative clips, over this batch and the one before. Between z and each x_m by
InfoNCE: z predicts x_m, and the prediction has to be found among the batch's.

Every epoch has two passes over the training split: in ``bounds`` the networks of ``log q`` learn to predict; in
``main`` all the rest trains, the networks of ``log q`` held fixed.

Deviations:
    1. A covariance of fewer than five clips, or of equal ones, is singular, and the official entropy then -inf or NaN.
       A shrinkage of 1e-6 on its diagonal bounds it. Our entropy also has the constants that the official one leaves
       out and divides by n - 1; the gradient is the same.
    2. InfoNCE is given as the bound on the mutual information, ``log B`` less the official ``nce``; the gradient is
       the same. Vectors of length 0, e.g. a removed text, have similarity 0; the official code divides by 0.
    3. For MOSEI the official ``bounds`` pass stops halfway; so does ours with ``bounds_share: 0.5``, as in its config.
    4. The official learning rate of ``bounds`` is constant; here ``lr_patience`` is for both. With the official
       patience of 20 epochs it hardly ever matters.
    5. The official projection to the entropy's codes gets gradients, which count in the norm that is clipped, but no
       step: it is in the optimiser of ``bounds``, where it gets none. Here it has learning rate 0 in ``main``, which
       is the same. (With PyTorch before 2.0 weight decay shrank it: absent gradients were zeros there.)
    6. The official selection asks for a better validation and a better test score; here as everywhere only the
       validation split selects.
    7. Text may come as precomputed states, which MMSA's files have from the BERT that it would fine-tune.
       ``text_vector: mean`` serves files without a [CLS] state.
    8. IEMOCAP: cross-entropy on four two-way outputs, and no entropy, whose two classes are signs of the sentiment.

As in the official code the entropy first counts in the third batch of an epoch, though the second could have it, and
with one LSTM layer there is no dropout in the encoders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.losses.entropy import gaussian_entropy
from msabench.losses.information import infonce
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.nn.packed import final_states
from msabench.nn.text import TextInput, parameter_groups
from msabench.nn.text_vector import TextVector, text_vector

# The modalities that the text predicts, in the official order.
_TARGETS = ("vision", "audio")
# The fusion's order.
_ORDER = ("text", "audio", "vision")
_SHRINKAGE = 1e-6


class _Encoder(nn.Module):
    """LSTM and a linear map of its final state, ``(B, T, D)`` to ``(B, out)``."""

    def __init__(self, features: int, hidden: int, out: int, bidirectional: bool) -> None:
        super().__init__()
        self.rnn = nn.LSTM(features, hidden, bidirectional=bidirectional, batch_first=True)
        self.linear = nn.Linear((1 + bidirectional) * hidden, out)

    def forward(self, x: Tensor, last: Tensor) -> Tensor:
        return self.linear(final_states(self.rnn, x, last + 1))


class _Likelihood(nn.Module):
    """A Gaussian over y given x: mean and log variance, each by a network of its own."""

    def __init__(self, x: int, y: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(x, y), nn.ReLU(), nn.Linear(y, y))
        self.log_variance = nn.Sequential(nn.Linear(x, y), nn.ReLU(), nn.Linear(y, y))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``log q(y | x)`` of each clip, ``(B,)``, without its normalising constant, which the official code omits."""
        return -((self.mean(x) - y).square() / (2 * self.log_variance(x).exp())).sum(1)


class MMIM(MSAMethod):
    """Fuses three vectors and maximises mutual information among them and with the fusion.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
        hidden: Units of the LSTMs.
        dim: Width of the audio and the vision vector.
        fusion_width: Width of z.
        dropout: Dropout on the joined vectors.
        bidirectional: Whether LSTMs read both ways, as in MMSA; the official code's published command leaves it off.
        lambda_cpc: Weight >= 0 of InfoNCE.
        lambda_bounds: Weight >= 0 of the likelihood and of the entropy.
        bounds_share: Share of the pass ``bounds`` after which it stops, in (0, 1]; None for all of it.
        text_vector: The text's vector: the ``first`` state, [CLS], or the ``mean`` for files without one.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam in the pass ``main``.
        bounds_lr: Learning rate of Adam in the pass ``bounds``.
        weight_decay: L2 weight decay of both, on all parameters.
        lr_patience: Epochs without a better ``val/task`` before learning rates are halved.
        gradient_clip: Limit of the norm of all gradients, those that no step follows included; None for no limit.
    """

    info = MethodInfo(
        name="mmim",
        title="Improving Multimodal Fusion with Hierarchical Mutual Information Maximization",
        venue="EMNLP",
        year=2021,
        url="https://aclanthology.org/2021.emnlp-main.723",
        fidelity="parity",
        code_url="https://github.com/declare-lab/Multimodal-Infomax",
        code_commit="cd0774c",
        licence="MIT",
        smoke={"hidden": 6, "dim": 8, "fusion_width": 12},
    )
    schedule: Mapping[str, tuple[str, ...]] = MappingProxyType({"task": ("bounds", "main")})
    memory: Tensor
    memory_labels: Tensor

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        hidden: int = 16,
        dim: int = 16,
        fusion_width: int = 128,
        dropout: float = 0.1,
        bidirectional: bool = False,
        lambda_cpc: float = 0.1,
        lambda_bounds: float = 0.1,
        bounds_share: float | None = None,
        text_vector: TextVector = "first",
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 5e-5,
        lr: float = 1e-3,
        bounds_lr: float = 1e-3,
        weight_decay: float = 1e-4,
        lr_patience: int | None = 20,
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__(
            spec,
            variant=variant,
            lr=lr,
            weight_decay=weight_decay,
            task_loss="l1",
            lr_patience=lr_patience,
            lr_factor=0.5,
            gradient_clip=gradient_clip,
        )
        self.bounds_share = 1.0 if bounds_share is None else bounds_share
        if not 0 < self.bounds_share <= 1:
            raise MSABenchError(f"bounds_share {bounds_share} is not allowed; give a share in (0, 1]")
        self.lambda_cpc = lambda_cpc
        self.lambda_bounds = lambda_bounds
        self.text_vector: TextVector = text_vector
        self.text_lr = text_lr
        self.bounds_lr = bounds_lr

        self.text = TextInput(spec, text_encoder, finetune=finetune)
        widths = {"text": self.text.width, "audio": dim, "vision": dim}
        self.encoders = nn.ModuleDict({m: _Encoder(spec.feature_dims[m], hidden, dim, bidirectional) for m in _TARGETS})
        self.fusion = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(sum(widths.values()), fusion_width),
            nn.Tanh(),
            nn.Linear(fusion_width, fusion_width),
            nn.Tanh(),
        )
        self.predict = nn.Linear(fusion_width, self.n_outputs)
        self.back = nn.ModuleDict({m: nn.Linear(fusion_width, widths[m]) for m in _ORDER})
        self.bounds = nn.ModuleDict({m: _Likelihood(widths["text"], dim) for m in _TARGETS})
        self.has_entropy = spec.task == "regression"
        codes = max(dim // 4, 1)
        if self.has_entropy:
            self.codes = nn.ModuleDict({m: nn.Linear(dim, codes) for m in _TARGETS})
        # The previous batch of this epoch's main pass. Emptied with every epoch, so a checkpoint need not keep it.
        self.register_buffer("memory", torch.zeros(0, len(_TARGETS), codes), persistent=False)
        self.register_buffer("memory_labels", torch.zeros(0), persistent=False)
        self.batches = 0
        self._initialise()

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the fusion z ``(B, fusion_width)``."""
        z = self.fusion(torch.cat(list(self._vectors(batch).values()), dim=1))
        return Output(pred=self.to_pred(self.predict(z)), representation=z.detach())

    def training_forward(self, batch: Batch) -> Output:
        """Also compute what the bounds need.

        Returns:
            ``aux`` holds each clip's ``likelihood`` ``(B,)``, the sum over both targets; in the pass ``main`` also the
            vectors ``x_text``, ``x_audio``, ``x_vision`` and what z predicts of them, ``z_text`` and so on, all of
            length 1, and the ``codes`` of the entropy ``(B, 2, dim / 4)``.
        """
        x = self._vectors(batch)
        z = self.fusion(torch.cat(list(x.values()), dim=1))
        out = Output(pred=self.to_pred(self.predict(z)), representation=z.detach())
        out.aux["likelihood"] = sum(network(x["text"], x[m]) for m, network in self.bounds.items())
        if self.turn == "main":
            for m in _ORDER:
                out.aux[f"x_{m}"] = F.normalize(x[m], dim=1)
                out.aux[f"z_{m}"] = F.normalize(self.back[m](z), dim=1)
            if self.has_entropy:
                out.aux["codes"] = torch.stack([self.codes[m](x[m]) for m in _TARGETS], dim=1).tanh()
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """Minus the likelihood in the pass ``bounds``; task and all bounds, weighted, in ``main``."""
        assert batch.labels is not None
        likelihood = out.aux["likelihood"].mean()
        if self.turn == "bounds":
            return {"likelihood": -likelihood}
        # Each x has to find the prediction from its own clip's z among the batch's.
        contrast = torch.stack([infonce(out.aux[f"z_{m}"] @ out.aux[f"x_{m}"].mT) for m in _ORDER]).sum()
        terms = {
            "task": self.task_loss(out.pred, batch.labels),
            "contrast": -self.lambda_cpc * contrast,
            "likelihood": -self.lambda_bounds * likelihood,
        }
        if self.has_entropy:
            if self.batches > 1:
                terms["entropy"] = -self.lambda_bounds * self._entropy(out.aux["codes"], batch.labels)
            self.memory, self.memory_labels = out.aux["codes"].detach(), batch.labels
            self.batches += 1
        return terms

    @property
    def data_needs(self) -> Needs:
        """A pass over the training split for each turn."""
        return replace(super().data_needs, passes=len(self.turns))

    def turns_of(self, number: int, batches: int) -> dict[str, int]:
        """The pass ``bounds``, which may stop early, and then the pass ``main``."""
        of_pass = -(-batches // len(self.turns))
        which, place = divmod(number, of_pass)
        turn = self.turns[which]
        return {turn: place} if turn == "main" or place < self.bounds_share * of_pass else {}

    def gradients(self, optimizer: Any, batch: Batch, *, first: bool) -> None:
        """Gradients of all parameters: those that no step follows count in the norm, too."""
        parameters = list(self.parameters())
        for parameter in parameters:
            parameter.grad = None
        self.manual_backward(self.turn_loss(batch))
        if self.gradient_clip is not None:
            nn.utils.clip_grad_norm_(parameters, self.gradient_clip)

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's batches."""
        super().on_train_epoch_start()
        self.memory, self.memory_labels, self.batches = self.memory[:0], self.memory_labels[:0], 0

    def param_groups(self) -> list[dict[str, Any]]:
        """The networks of the likelihood in the pass ``bounds``, everything else in ``main``."""
        if self.turn == "bounds":
            return [{"params": list(self.bounds.parameters()), "lr": self.bounds_lr}]
        groups = parameter_groups(self, self.text_lr)
        fixed = list(self.codes.parameters()) if self.has_entropy else []
        elsewhere = {id(p) for p in (*self.bounds.parameters(), *fixed)}
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in elsewhere]
        # Never moved, but their gradients count in the norm that is clipped.
        return [*groups, {"params": fixed, "lr": 0.0, "weight_decay": 0.0}]

    def _initialise(self) -> None:
        """Normal Xavier initialisation of all matrices outside the text encoder, as the official trainer has it."""
        of_text = {id(parameter) for parameter in self.text.parameters()}
        for parameter in self.parameters():
            if parameter.dim() > 1 and id(parameter) not in of_text:
                nn.init.xavier_normal_(parameter)

    def _vectors(self, batch: Batch) -> dict[str, Tensor]:
        x = {m: network(batch.features[m], batch.last[m]) for m, network in self.encoders.items()}
        x["text"] = text_vector(self.text(batch), batch.valid["text"], self.text_vector)
        return {m: x[m] for m in _ORDER}

    def _entropy(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Entropy of the codes of positive and of negative clips, averaged over the two and summed over targets."""
        codes, labels = torch.cat([self.memory, codes]), torch.cat([self.memory_labels, labels])
        signs = [codes[labels > 0], codes[labels < 0]]
        return torch.stack([gaussian_entropy(of_sign.transpose(0, 1), _SHRINKAGE) for of_sign in signs]).mean(0).sum()
