"""MASCF is known to us by its title alone; what is built here is a guess, not the authors' method.

"Mamba-assisted Modality Subspace Complementary Fusion", Q. Chen, Y. Tang, H. Liu, Pattern Recognition Letters 2025. We
could read neither the paper nor an abstract of it, and know of no code. RECAP re-ran it for its Table 1 and does not
say how it is made. Its numbers there are no target for what follows, which only takes the title at its word:

- *Mamba-assisted*: on the steps of the text each modality passes a bidirectional Mamba layer, H_m.
- *Modality subspace*: a private perceptron and one that all share map H_m into p_m and s_m, as MISA has it; what is
  shared shall be distributed alike, private codes be orthogonal to it and to each other, and both together tell H_m.
- *Complementary fusion*: the mean S of the shared codes asks the private codes of all modalities for what it lacks, and
  gets Z by attention. A gate mixes the two, ``F = g S + (1 - g) Z`` with ``g = sigmoid(W [S; Z])``. A last Mamba layer
  and the mean over time give the score.

Deviations:
    1. Everything: see above. Embedding and Mamba layers are TF-Mamba's without its text enhancement
       (https://github.com/codemous/TF-Mamba at 9a1f07f), the losses are MISA's with weights of 0.1 each.
    2. Codes enter the losses as their means over time; the reconstruction is of the mean of H_m, without gradient.
    3. The orthogonality is a mean over pairs of features as in MISA's code, not a sum.
    4. Optimiser, schedule and batches are those that TF-Mamba shares with LNLN. Validation selects the epoch.
    5. Padding is not masked, and there is no dropout but that of BERT.
    6. IEMOCAP: eight outputs and cross-entropy.
    7. Ablations: ``wo_mamba`` leaves out all Mamba layers, ``wo_subspace`` the three losses, ``wo_complement`` the
       attention and the gate (F = S).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.losses.moments import central_moment_discrepancy
from msabench.losses.orthogonality import orthogonality
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.methods.schedules import warmup_cosine
from msabench.missingness.conditions import MODALITIES
from msabench.nn.mamba import MambaLayer
from msabench.nn.text import TextInput
from msabench.nn.text_steps import TextSteps
from msabench.nn.token_transformer import Attention

_PAIRS = ((0, 1), (0, 2), (1, 2))


class MASCF(MSAMethod):
    """Our guess at MASCF, see the module's docstring.

    The ``aux`` of ``forward`` holds means over time, each ``(B, 3, D)`` in the order text, audio, vision: ``private``
    p, ``shared`` s, ``original`` H without gradient, and ``rebuilt`` H; nothing for ``wo_subspace``.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``wo_mamba``, ``wo_subspace`` or ``wo_complement`` leave out what the title names.
        warmup: Epochs over which the learning rate rises from 0; it then falls along a cosine.
        dim: Features D of a step, a multiple of ``heads``.
        state: Numbers in the state of a Mamba channel.
        expand: Channels of a Mamba block by D.
        kernel_size: Steps that a Mamba block's convolution sees.
        heads: Heads of the attention, of D / heads features each.
        lambda_similarity: Weight >= 0 of the similarity of shared codes.
        lambda_difference: Weight >= 0 of the orthogonality of codes.
        lambda_reconstruction: Weight >= 0 of the reconstruction.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.

    Raises:
        MSABenchError: An argument outside its range.
    """

    info = MethodInfo(
        name="mascf",
        title="Mamba-assisted Modality Subspace Complementary Fusion",
        venue="Pattern Recognition Letters",
        year=2025,
        url="",
        fidelity="experimental",
        variants=("wo_mamba", "wo_subspace", "wo_complement"),
        smoke={"warmup": 0, "dim": 8, "state": 4, "heads": 2},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        warmup: int = 20,
        dim: int = 128,
        state: int = 16,
        expand: int = 2,
        kernel_size: int = 4,
        heads: int = 8,
        lambda_similarity: float = 0.1,
        lambda_difference: float = 0.1,
        lambda_reconstruction: float = 0.1,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 1e-4,
        lr: float = 1e-4,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="mse", optimizer="adamw")
        if heads < 1 or dim < 1 or dim % heads:
            raise MSABenchError(
                f"dim {dim} with {heads} heads is not allowed; dim must be a positive multiple of heads"
            )
        self.weights = {"sim": lambda_similarity, "diff": lambda_difference, "recon": lambda_reconstruction}
        if min(self.weights.values()) < 0:
            raise MSABenchError(
                f"weights {list(self.weights.values())} of the subspace losses are not allowed; give numbers from 0 up"
            )
        self.warmup = warmup
        self.text_lr = text_lr

        def perceptron() -> nn.Sequential:
            return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))

        self.embed = TextSteps(spec, TextInput(spec, text_encoder, finetune=finetune), dim)
        self.mamba = nn.ModuleDict()
        if variant != "wo_mamba":
            sizes = {"state": state, "expand": expand, "kernel_size": kernel_size}
            self.mamba.update({place: MambaLayer(dim, **sizes) for place in (*MODALITIES, "fused")})
        self.private = nn.ModuleDict({m: perceptron() for m in MODALITIES})
        self.shared = perceptron()
        self.rebuild = nn.ModuleDict()
        if variant != "wo_subspace":
            self.rebuild.update({m: nn.Linear(dim, dim) for m in MODALITIES})
        self.attention: nn.Module | None = None
        if variant != "wo_complement":
            self.attention = Attention(dim, heads, dim // heads)
            self.gate = nn.Linear(2 * dim, dim)
        self.head = nn.Linear(dim, self.n_outputs)

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the mean over time of the fused steps ``(B, D)``."""
        embedded = self.embed(batch)
        h = {m: self._mixed(embedded[m], m) for m in MODALITIES}
        private = {m: self.private[m](h[m]) for m in MODALITIES}
        shared = torch.stack([self.shared(h[m]) for m in MODALITIES], dim=1)  # (B, 3, L, D)
        fused = shared.mean(dim=1)
        if self.attention is not None:
            fused = self._complemented(fused, torch.cat([private[m] for m in MODALITIES], dim=1))
        pooled = self._mixed(fused, "fused").mean(dim=1)
        out = Output(pred=self.to_pred(self.head(pooled)), representation=pooled.detach())
        if self.rebuild:
            p, s = torch.stack([private[m].mean(dim=1) for m in MODALITIES], dim=1), shared.mean(dim=2)
            rebuilt = [self.rebuild[m](p[:, i] + s[:, i]) for i, m in enumerate(MODALITIES)]
            original = [h[m].mean(dim=1).detach() for m in MODALITIES]
            out.aux = {"private": p, "shared": s}
            out.aux |= {"rebuilt": torch.stack(rebuilt, dim=1), "original": torch.stack(original, dim=1)}
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """The task and, unless ablated, similarity, orthogonality and reconstruction, weighted."""
        assert batch.labels is not None
        terms = {"task": self.task_loss(out.pred, batch.labels)}
        if not self.rebuild:
            return terms
        private, shared = out.aux["private"].unbind(1), out.aux["shared"].unbind(1)
        alike = [central_moment_discrepancy(shared[i].sigmoid(), shared[j].sigmoid()) for i, j in _PAIRS]
        overlap = [orthogonality(p, s) for p, s in zip(private, shared, strict=True)]
        overlap += [orthogonality(private[i], private[j]) for i, j in _PAIRS]
        found = {
            "sim": torch.stack(alike).mean(),
            "diff": torch.stack(overlap).sum(),
            "recon": F.mse_loss(out.aux["rebuilt"], out.aux["original"]),
        }
        return terms | {name: self.weights[name] * term for name, term in found.items()}

    def lr_multiplier(self, epoch: int, epochs: int) -> float:
        """Warm-up and cosine."""
        return warmup_cosine(epoch, self.warmup, epochs)

    def _complemented(self, shared: Tensor, private: Tensor) -> Tensor:
        """Mix shared steps ``(B, L, D)`` with what they find in the private ones ``(B, 3 L, D)``."""
        assert self.attention is not None
        found = self.attention(shared, private, private)
        g = self.gate(torch.cat([shared, found], dim=2)).sigmoid()
        return g * shared + (1 - g) * found

    def _mixed(self, x: Tensor, place: str) -> Tensor:
        """The Mamba layer of a place, over ``(B, L, D)``; nothing without Mamba."""
        return self.mamba[place](x)[0] if place in self.mamba else x
