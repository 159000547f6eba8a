"""MFM: Learning Factorized Multimodal Representations.

Yao-Hung Hubert Tsai, Paul Pu Liang, Amir Zadeh, Louis-Philippe Morency, Ruslan Salakhutdinov. ICLR 2019,
https://openreview.net/forum?id=rygqqsA9KX. Official code: https://github.com/pliang279/factorized at 602b160, MIT
licence. The port in https://github.com/thuiar/MMSA at a94e65d, MIT licence, is the same network and has the settings
for the corpora of today.

A clip is described by a factor f_y that all modalities share and that predicts, and by a factor f_m per modality that
is for generating it alone:

    z_m = LSTM_m(x_m),  z_y = W [MFN encoder (x_l, x_a, x_v)],  f_k = ReLU(MLP_k(z_k)),
    y = MLP(f_y),  x_m' = LSTM decoder of [f_y; f_m],
    L = |y - y'| + sum_m lambda_m MSE(x_m, x_m') + lambda_mmd sum_k MMD^2(z_k, N(0, I)).

The z are thus latent variables of a Wasserstein autoencoder. A prediction needs z_y alone. The encoder of MFN stands in
``msabench.nn.multi_view_memory``.

Variant ``missing`` is the official model for one missing modality: for each m the other two give surrogates of z_m and
z_y, trained together with all else. What they add to the loss: their squared distances from z_m and z_y, which pull on
those as well, the error of the prediction from the surrogate z_y, and of x_m from both surrogates.

Notation: B clips, T steps of the text, D features.

Deviations:
    1. Without MMSA's and the official code's output network of MFN, which is never used and gets no gradient.
    2. Adam's learning rate is 1e-3 in both codes: the ones in their settings are not passed on. It is an argument here.
    3. The best epoch by ``val/task``, the mean over clips, with early stopping as in MMSA. The official code keeps one
       order of the clips, drops an incomplete last batch, divides the rate by 10 when validation stalls
       (``lr_patience``) and selects its variant ``missing`` by the whole loss.
    4. Variant ``missing``: the official loss decodes x_v from the surrogates of x_a, a slip; ours from those of x_v. A
       prediction takes the surrogate z_y where exactly one modality has no observed frame, z_y otherwise; the official
       code only evaluates such clips with all modalities at hand. Its audio is divided by its largest value, ours not.
    5. Trained on missing data it generates what it was given, zeros included.
    6. A text encoder's states are constants to the error of what is generated, even if it is trained.
    7. IEMOCAP: four two-way outputs and cross-entropy.

As in both codes, all stored steps are read and generated, padding included, and LSTMs and memory are read at the last
one; ``padding`` says where padding stands. As in MMSA, audio and vision of unaligned files are averaged over as many
windows as the text has steps.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.losses.alignment import mmd2
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.multi_view_memory import Hidden, MemoryFusion, TwoLayers
from msabench.nn.packed import cheapest_kernel
from msabench.nn.padding import all_padded, padding_side
from msabench.nn.text import TextInput
from msabench.nn.window_mean import window_means


class _Encoder(nn.Module):
    """An LSTM's last state, transformed linearly: ``(B, T, D)`` to z ``(B, width)``."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, width, batch_first=True)
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        with cheapest_kernel(self.lstm, x):
            _, (last, _) = self.lstm(x)
        z: Tensor = self.linear(last[0])
        return z


class _Decoder(nn.Module):
    """An LSTM that reads its own state of the step before, and factors ``(B, width)`` at first: to ``(B, T, D)``."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(width, width)
        self.linear = nn.Linear(width, features)

    def forward(self, factors: Tensor, steps: int) -> Tensor:
        h, c = self.cell(factors)
        states = [h]
        for _ in range(steps - 1):
            h, c = self.cell(h, (h, c))
            states.append(h)
        x: Tensor = self.linear(torch.stack(states, dim=1))
        return x


class MFM(MSAMethod):
    """MFM, see the module's docstring. Default settings are MMSA's for CMU-MOSI.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``default``, or ``missing`` with surrogates for one missing modality, to be trained on complete data.
        hidden_text: Units of the text's LSTM in MFN's encoder.
        hidden_audio: Units of the audio's.
        hidden_vision: Units of the vision's.
        memory: Width of its memory.
        attend_width: Hidden units of the attention over cell states; ``NN1`` in the codes.
        attend_dropout: Dropout on them.
        propose_width: Hidden units of the proposal to the memory; ``NN2``.
        propose_dropout: Dropout on them.
        retain_width: Hidden units of the gate on what the memory holds; ``gamma1``.
        retain_dropout: Dropout on them.
        update_width: Hidden units of the gate on the proposal; ``gamma2``.
        update_dropout: Dropout on them.
        latent_joint: Width of z_y.
        latent_text: Width of z_l.
        latent_audio: Width of z_a.
        latent_vision: Width of z_v.
        factor_joint: Width of f_y, and units of the hidden layers before it and of the head.
        factor_text: Width of f_l, and units of the hidden layer before it.
        factor_audio: The same for f_a.
        factor_vision: The same for f_v.
        factor_dropout_joint: Dropout on the hidden layer before f_y.
        factor_dropout_text: Dropout on the one before f_l.
        factor_dropout_audio: Dropout on the one before f_a.
        factor_dropout_vision: Dropout on the one before f_v.
        out_dropout: Dropout on the head's hidden layer.
        lambda_mmd: Weight >= 0 of the distance of the z from a normal distribution.
        lambda_text: Weight >= 0 of the error of the text that is generated.
        lambda_audio: Weight >= 0 of that of the audio.
        lambda_vision: Weight >= 0 of that of the vision.
        padding: Where padding stands: in ``front``, whatever the file's side, or as ``stored``; None for what the
            reference read, ``stored`` on MMSA's feature families and ``front`` elsewhere.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam.
        lr_patience: Epochs without a better ``val/task`` before the learning rate is divided by 10: 10 officially; None
            keeps it constant, as in MMSA.
        weight_decay: L2 weight decay of Adam.
    """

    info = MethodInfo(
        name="mfm",
        title="Learning Factorized Multimodal Representations",
        venue="ICLR",
        year=2019,
        url="https://openreview.net/forum?id=rygqqsA9KX",
        fidelity="parity",
        code_url="https://github.com/pliang279/factorized",
        code_commit="602b160",
        licence="MIT",
        method_version=2,
        variants=("missing",),
        smoke={
            "hidden_text": 8,
            "hidden_audio": 4,
            "hidden_vision": 6,
            "memory": 8,
            "latent_joint": 8,
            "factor_joint": 16,
            "lambda_mmd": 1.0,
        },
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        hidden_text: int = 128,
        hidden_audio: int = 32,
        hidden_vision: int = 128,
        memory: int = 64,
        attend_width: int = 32,
        attend_dropout: float = 0.7,
        propose_width: int = 64,
        propose_dropout: float = 0.0,
        retain_width: int = 32,
        retain_dropout: float = 0.0,
        update_width: int = 64,
        update_dropout: float = 0.5,
        latent_joint: int = 80,
        latent_text: int = 64,
        latent_audio: int = 80,
        latent_vision: int = 80,
        factor_joint: int = 64,
        factor_text: int = 32,
        factor_audio: int = 16,
        factor_vision: int = 64,
        factor_dropout_joint: float = 0.5,
        factor_dropout_text: float = 0.5,
        factor_dropout_audio: float = 0.7,
        factor_dropout_vision: float = 0.5,
        out_dropout: float = 0.0,
        lambda_mmd: float = 100.0,
        lambda_text: float = 0.5,
        lambda_audio: float = 0.01,
        lambda_vision: float = 0.5,
        padding: Literal["front", "stored"] | None = None,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 5e-5,
        lr: float = 1e-3,
        lr_patience: int | None = None,
        weight_decay: float = 1e-3,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, lr_patience=lr_patience, weight_decay=weight_decay)
        self.lambda_mmd = lambda_mmd
        self.lambdas = {"text": lambda_text, "audio": lambda_audio, "vision": lambda_vision}
        self.text_lr = text_lr
        self.padding = padding_side(spec, padding)
        self.text = TextInput(spec, text_encoder, finetune=finetune)
        dims = {**spec.feature_dims, "text": self.text.width}
        z = {"text": latent_text, "audio": latent_audio, "vision": latent_vision, "joint": latent_joint}
        f = {
            "text": Hidden(factor_text, factor_dropout_text),
            "audio": Hidden(factor_audio, factor_dropout_audio),
            "vision": Hidden(factor_vision, factor_dropout_vision),
            "joint": Hidden(factor_joint, factor_dropout_joint),
        }
        self.encoders = nn.ModuleDict({m: _Encoder(dims[m], z[m]) for m in MODALITIES})
        self.memory = MemoryFusion(
            [dims[m] for m in MODALITIES],
            [hidden_text, hidden_audio, hidden_vision],
            memory,
            attend=Hidden(attend_width, attend_dropout),
            propose=Hidden(propose_width, propose_dropout),
            retain=Hidden(retain_width, retain_dropout),
            update=Hidden(update_width, update_dropout),
        )
        self.to_joint = nn.Linear(self.memory.width, latent_joint)
        self.factors = nn.ModuleDict({k: TwoLayers(z[k], f[k], f[k].width) for k in z})
        self.decoders = nn.ModuleDict({m: _Decoder(factor_joint + f[m].width, dims[m]) for m in MODALITIES})
        self.head = TwoLayers(factor_joint, Hidden(factor_joint, out_dropout), self.n_outputs)
        self.surrogates, self.joint_surrogates = nn.ModuleDict(), nn.ModuleDict()
        if variant == "missing":
            for m in MODALITIES:
                others = sum(dims[other] for other in MODALITIES if other != m)
                self.surrogates[m] = _Encoder(others, z[m])
                self.joint_surrogates[m] = _Encoder(others, z["joint"])

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is f_y ``(B, factor_joint)``. Nothing is generated."""
        x = self._sequences(batch)
        joint = self._joint(x)
        removed = torch.stack([~batch.observed[m].any(1) for m in MODALITIES])
        for m, surrogate in self.joint_surrogates.items():
            alone = removed[MODALITIES.index(m)] & (removed.sum(0) == 1)
            joint = torch.where(alone.unsqueeze(1), surrogate(_others(x, m)), joint)
        factor = F.relu(self.factors["joint"](joint))
        return Output(pred=self.to_pred(self.head(factor)), representation=factor.detach())

    def training_forward(self, batch: Batch) -> Output:
        """Predict and generate.

        Returns:
            ``aux`` holds latent variables ``z_<text, audio, vision, joint>`` ``(B, width)`` and the clips' mean squared
            errors of what is generated, ``error_<m>`` ``(B,)``. Variant ``missing`` adds to these errors those of each
            modality that is generated without itself, and has scores ``pred_without_<m>``, and ``surrogate`` ``(B,)``,
            the sum of the mean squared distances of all surrogates.
        """
        x = self._sequences(batch)
        z = {**{m: self.encoders[m](x[m]) for m in MODALITIES}, "joint": self._joint(x)}
        out, errors = self._generate(z, x)
        aux = {f"z_{k}": value for k, value in z.items()}
        if self.variant == "missing":
            distances = []
            for m in MODALITIES:
                others = _others(x, m)
                without = {m: self.surrogates[m](others), "joint": self.joint_surrogates[m](others)}
                out_without, error = self._generate(without, x)
                distances += [(value - z[k]).square().mean(1) for k, value in without.items()]
                aux[f"pred_without_{m}"] = out_without.pred
                errors[m] = errors[m] + error[m]
            aux["surrogate"] = torch.stack(distances).sum(0)
        out.aux = {**aux, **{f"error_{m}": error for m, error in errors.items()}}
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """Task, generation and the latent variables' distance from a normal distribution, drawn anew each time."""
        assert batch.labels is not None
        labels = batch.labels
        scores = [out.pred, *(score for name, score in out.aux.items() if name.startswith("pred_"))]
        terms = {"task": torch.stack([self.task_loss(score, labels) for score in scores]).sum()}
        for m, weight in self.lambdas.items():
            terms[m] = weight * out.aux[f"error_{m}"].mean()
        latent = [out.aux[f"z_{k}"] for k in (*MODALITIES, "joint")]
        terms["mmd"] = self.lambda_mmd * torch.stack([_distance_from_normal(z) for z in latent]).sum()
        if self.variant == "missing":
            terms["surrogate"] = out.aux["surrogate"].mean()
        return terms

    def _sequences(self, batch: Batch) -> dict[str, Tensor]:
        """All modalities at the steps of the text, ``(B, T, D)``."""
        x = all_padded(batch, self.text(batch), self.padding)
        return {m: window_means(sequence, x["text"].shape[1]) for m, sequence in x.items()}

    def _joint(self, x: dict[str, Tensor]) -> Tensor:
        """z_y ``(B, latent_joint)``."""
        z: Tensor = self.to_joint(self.memory([x[m] for m in MODALITIES]))
        return z

    def _generate(self, z: dict[str, Tensor], x: dict[str, Tensor]) -> tuple[Output, dict[str, Tensor]]:
        """Scores from z_y, and clips' errors ``(B,)`` of generating the modalities that z has."""
        f = {k: F.relu(self.factors[k](value)) for k, value in z.items()}
        errors = {}
        for m in (m for m in MODALITIES if m in z):
            generated = self.decoders[m](torch.cat([f["joint"], f[m]], dim=1), x[m].shape[1])
            errors[m] = (generated - x[m].detach()).square().mean((1, 2))
        return Output(pred=self.to_pred(self.head(f["joint"])), representation=f["joint"].detach()), errors


def _others(x: dict[str, Tensor], missing: str) -> Tensor:
    """The other modalities side by side, ``(B, T, D)``."""
    return torch.cat([x[m] for m in MODALITIES if m != missing], dim=2)


def _distance_from_normal(z: Tensor) -> Tensor:
    """Squared MMD of z ``(B, D)`` and as many draws of N(0, I), with kernel ``exp(-|x - y|^2 / D^2)``."""
    return mmd2(torch.randn_like(z), z, (1.0,), scale=float(z.shape[1] ** 2))
