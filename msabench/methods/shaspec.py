"""ShaSpec: Multi-modal Learning with Missing Modality via Shared-Specific Feature Modelling.

Hu Wang, Yuanhong Chen, Congbo Ma, Jodie Avery, Louise Hull, Gustavo Carneiro. CVPR 2023,
https://arxiv.org/abs/2307.14126. Official code: https://github.com/billhhh/ShaSpec at 081fe7a, without a licence file;
it segments four kinds of brain scans. The paper itself was not read.

One encoder E is shared by all modalities, and each has an encoder P_m of its own: ``s_m = E(x_m)`` and ``p_m =
P_m(x_m)``. One layer joins both, ``f_m = s_m + W [s_m; p_m]``, and in the place of a missing modality's f_m stands what
the others share, so that the head always reads as many features. Two losses make the names true: shared codes of a
clip are to be alike, and a classifier is to tell from p_m which modality it is of.

What is taken from the official code and compared with it are the layer that joins, what stands for a missing modality,
and both losses. Encoders, head and training for sequences and a score are ours: a reconstruction.

Notation: B clips, d channels (``dim``).

Deviations:
    1. Modalities have sequences of different widths: each is projected to d without a bias, E and P_m are a convolution
       and a Transformer, and a code is the mean over the steps that exist. Officially they are 3-D residual networks
       whose output keeps its places.
    2. W is a linear layer with a bias; officially a 3x3x3 convolution without, its weights standardised.
    3. For a missing modality the official code takes the shared code of one modality that is there: at random in
       training, the first that is named in its test (``substitute`` ``random`` and ``first``; at random as dropout is,
       and in evaluation the first of text, audio, vision). The mean over those that are there, which the code has as a
       comment, is the default here, since no order of ours means anything.
    4. A modality is missing if none of its frames is observed, and is then zero for the encoders, as officially, also
       where a text encoder would say more. Frames missing from one that is there are zeros that are read. A clip that
       has none of the three keeps the shared codes of zeros.
    5. The official losses count missing modalities: shared codes are drawn towards those of zeros, and P_m of zeros is
       to be told apart. ``missing_in_losses: present`` counts what is there alone.
    6. The official classifier reads a layer of P_m before its last part; here p_m.
    7. The official ring of four pairs of shared codes leaves out two pairs; a ring of three has all.
    8. The task loss is L1, or cross-entropy of four emotions. The official weights of the two other terms, which are
       kept, stood beside Dice and cross-entropy of voxels, on another scale.
    9. Officially 80,000 of 180,000 steps are on complete scans, then one of the subsets is drawn a batch, by the number
       of modalities first. Here stage ``complete`` has ``complete_epochs``, and what clips miss afterwards comes from
       the data module, clip by clip. Officially by SGD with a polynomial decay, here by Adam; officially the last step
       is kept, here validation selects.
    10. The official decoder also reads shared features of earlier layers; here are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError, one_of
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.modality_encoder import ModalityEncoder, mean_over
from msabench.nn.text import TextInput

_PAIRS = ((0, 1), (1, 2), (2, 0))
_SUBSTITUTES = ("first", "random", "mean")
_COUNTED = ("official", "present")


class ShaSpec(MSAMethod):
    """ShaSpec for sequences, see the module's docstring. It may train on ``batch.complete`` first.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
        complete_epochs: Epochs on complete clips at the beginning, which ``trainer.max_epochs`` includes; 0 for none.
        substitute: Whose shared code stands for a missing modality: the ``first`` that is there, a ``random`` one in
            training (in evaluation the first), or the ``mean``.
        missing_in_losses: Whether the shared and the specific loss count missing modalities as well (``official``) or
            those that are ``present`` alone.
        dim: Channels d; a multiple of ``heads``.
        heads: Attention heads of every encoder.
        layers: Transformer layers of every encoder.
        kernel_size: Steps that an encoder's convolution sees.
        dropout: Dropout in encoders and head.
        lambda_shared: Weight >= 0 of the distance between shared codes.
        lambda_specific: Weight >= 0 of the classification of modalities.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam.

    Raises:
        MSABenchError: An argument outside its range.
    """

    info = MethodInfo(
        name="shaspec",
        title="Multi-modal Learning with Missing Modality via Shared-Specific Feature Modelling",
        venue="CVPR",
        year=2023,
        url="https://arxiv.org/abs/2307.14126",
        fidelity="reconstructed",
        code_url="https://github.com/billhhh/ShaSpec",
        code_commit="081fe7a",
        trains_with=("complete",),
        smoke={"dim": 8, "heads": 2, "layers": 1, "complete_epochs": 1},
    )
    complete_stages: ClassVar[tuple[str, ...]] = ("complete",)
    schedule: Mapping[str, tuple[str, ...]] = MappingProxyType({"complete": ("main",), "task": ("main",)})

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        complete_epochs: int = 20,
        substitute: Literal["first", "random", "mean"] = "mean",
        missing_in_losses: Literal["official", "present"] = "official",
        dim: int = 128,
        heads: int = 8,
        layers: int = 2,
        kernel_size: int = 3,
        dropout: float = 0.1,
        lambda_shared: float = 0.1,
        lambda_specific: float = 0.02,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 2e-5,
        lr: float = 1e-3,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, task_loss="l1")
        if substitute not in _SUBSTITUTES:
            raise one_of("substitute", substitute, _SUBSTITUTES)
        if missing_in_losses not in _COUNTED:
            raise one_of("missing_in_losses", missing_in_losses, _COUNTED)
        if min(lambda_shared, lambda_specific) < 0:
            raise MSABenchError(
                f"lambda_shared {lambda_shared} and lambda_specific {lambda_specific} must not be negative"
            )
        if complete_epochs < 0:
            raise MSABenchError(f"complete_epochs {complete_epochs} is not allowed; give 0 for none, or more")
        self.substitute = substitute
        self.missing_in_losses = missing_in_losses
        self.lambda_shared, self.lambda_specific = lambda_shared, lambda_specific
        self.text_lr = text_lr
        if complete_epochs:
            self.stage_epochs = {"complete": complete_epochs}
        else:
            self.schedule = {"task": ("main",)}

        self.text = TextInput(spec, text_encoder, finetune=finetune)
        widths = {**spec.feature_dims, "text": self.text.width}
        sizes: dict[str, Any] = {"heads": heads, "layers": layers, "kernel_size": kernel_size, "dropout": dropout}
        steps = spec.seq_lens
        self.shared = ModalityEncoder(dim, dim, steps=max(steps.values()), **sizes)
        self.specific = nn.ModuleDict({m: ModalityEncoder(dim, dim, steps=steps[m], **sizes) for m in MODALITIES})
        self.project = nn.ModuleDict({m: nn.Linear(widths[m], dim, bias=False) for m in MODALITIES})
        self.join = nn.Linear(2 * dim, dim)
        self.which = nn.Linear(dim, len(MODALITIES))
        self.head = nn.Sequential(
            nn.Linear(3 * dim, 3 * dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(3 * dim, self.n_outputs)
        )

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is f of text, audio and vision ``(B, 3 d)``.

        Returns:
            ``aux`` holds ``shared`` s and ``specific`` p, ``(B, 3, d)``, and ``present``, bool ``(B, 3)``, in the order
            text, audio, vision.
        """
        present = torch.stack([batch.observed[m].any(1) for m in MODALITIES], dim=1)
        features = {"text": self.text(batch), "audio": batch.audio, "vision": batch.vision}
        shared, specific = [], []
        for column, m in enumerate(MODALITIES):
            x = self.project[m](features[m] * present[:, column, None, None])
            valid = batch.valid[m]
            shared.append(mean_over(self.shared(x, valid), valid))
            specific.append(mean_over(self.specific[m](x, valid), valid))
        s, p = torch.stack(shared, dim=1), torch.stack(specific, dim=1)
        fused = self.fused(s, p, present)
        return Output(
            pred=self.to_pred(self.head(fused.flatten(1))),
            representation=fused.flatten(1).detach(),
            aux={"shared": s, "specific": p, "present": present},
        )

    def training_forward(self, batch: Batch) -> Output:
        """Predict from complete clips in stage ``complete``, then from what the data module left of them."""
        return self(self.complete_of(batch) if self.stage == "complete" else batch)

    def fused(self, s: Tensor, p: Tensor, present: Tensor) -> Tensor:
        """Join shared and specific codes, and put shared ones in the places of missing modalities.

        Args:
            s: float ``(B, 3, d)``.
            p: float ``(B, 3, d)``.
            present: bool ``(B, 3)``.

        Returns:
            f, float ``(B, 3, d)``.
        """
        joined = s + self.join(torch.cat([s, p], dim=2))
        stand_in = (self._weights(present).to(s.dtype).unsqueeze(1) @ s).expand_as(s)
        nothing = ~present.any(1)
        stand_in = torch.where(nothing[:, None, None], s, stand_in)
        return torch.where(present.unsqueeze(2), joined, stand_in)

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """``L_task + lambda_shared L_shared + lambda_specific L_specific``, weighted."""
        assert batch.labels is not None
        present = out.aux["present"]
        counted = torch.ones_like(present) if self.missing_in_losses == "official" else present
        return {
            "task": self.task_loss(out.pred, batch.labels),
            "shared": self.lambda_shared * shared_distance(out.aux["shared"], counted),
            "specific": self.lambda_specific * modality_loss(self.which(out.aux["specific"]), counted),
        }

    def _weights(self, present: Tensor) -> Tensor:
        """How much each shared code counts for what is missing, ``(B, 3)``, 0 for what is missing itself."""
        if self.substitute == "mean":
            there = present.float()
            return there / there.sum(1, keepdim=True).clamp(min=1)
        # The largest of what is there; the order of the modalities, or a new one for every clip.
        order = torch.arange(len(MODALITIES), 0, -1, device=present.device).expand(present.shape).float()
        if self.substitute == "random" and self.training:
            # Devices draw for all clips, so that together they draw what one would.
            sizes = self.device_shares(len(present))
            drawn = torch.rand(sum(sizes), len(MODALITIES), device=present.device)
            order = 1 + self.own_rows(drawn, sizes)
        return F.one_hot((order * present).argmax(1), len(MODALITIES))


def shared_distance(s: Tensor, counted: Tensor) -> Tensor:
    """Sum over the three pairs of modalities of the mean absolute difference of their shared codes.

    Args:
        s: float ``(B, 3, d)``.
        counted: bool ``(B, 3)``; clips count in the mean of a pair that they have both of.

    Returns:
        float ``()``, at least 0; a pair that no clip has adds 0.
    """
    total = s.new_zeros(())
    for i, j in _PAIRS:
        both = counted[:, i] & counted[:, j]
        distance = (s[:, i] - s[:, j]).abs().mean(1)
        total = total + (distance * both).sum() / both.sum().clamp(min=1)
    return total


def modality_loss(logits: Tensor, counted: Tensor) -> Tensor:
    """Cross-entropy of telling modalities apart, the mean over those that count.

    Args:
        logits: float ``(B, 3, 3)``, of each modality's code the score of being text, audio, vision.
        counted: bool ``(B, 3)``.

    Returns:
        float ``()``; 0 if none counts.
    """
    modality = torch.arange(len(MODALITIES), device=logits.device).expand(counted.shape)
    each = F.cross_entropy(logits.flatten(0, 1), modality.flatten(), reduction="none")
    return (each * counted.flatten()).sum() / counted.sum().clamp(min=1)
