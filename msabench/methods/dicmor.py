"""DiCMoR: Distribution-Consistent Modal Recovering for Incomplete Multimodal Learning.

Yuanzhi Wang, Zhen Cui, Yong Li. ICCV 2023,
https://openaccess.thecvf.com/content/ICCV2023/html/Wang_Distribution-Consistent_Modal_Recovering_for_Incomplete_Multimodal_Learning_ICCV_2023_paper.html.
Official code: https://github.com/mdswyz/DiCMoR at 3d7e617, Apache-2.0 licence. The paper itself could not be read; this
follows the code.

Each modality m has a normalising flow f_m from its sequence to a latent space in which the clips of a class share one
Gaussian, the same for all modalities. A missing modality is guessed by taking one that is there through its own flow
and back through that of the missing one, ``f_m^-1(f_n(x_n))``; of two, both guesses are merged by a linear map. The
guess is refined by residual convolutions, and a Multimodal Transformer reads the three sequences.

The flows learn from the likelihood of complete clips alone: gradients stop at a guess. Their couplings never change
the first half of the channels, so that this half of a guess is that of its source; initially a guess is its source.

Notation: B clips, T steps after the projections, d channels (``dim``), K couplings of a flow.

Deviations:
    1. Officially the network gets complete clips and removes modalities itself, one pattern for the whole batch, in an
       order of patterns that every epoch and every evaluation repeats. Here each clip has its own pattern, by the data
       module: regime ``random_table`` has the official rates. Losses are per clip, so that a batch of one pattern gives
       the official ones. The official rate 0 leaves one modality, as its rate 0.7, by an index of -1; here it is
       ``complete``.
    2. The weights that the official code starts from, "pretrained by complete multimodal data", are published, their
       training is not. Ours, stage ``complete``: text encoder, projections and Multimodal Transformer on complete
       clips by the L1 error, at the rates and dropouts of the second stage, taken as the last epoch leaves them. What
       is logged as ``val/`` there, which the learning rate follows, leaves missing modalities as they are.
    3. Officially the frozen BERT keeps its dropout in the second stage. Here what is frozen has none; ``dropout_text``
       behind it stays. Text is dropped out anew for the targets, officially as in the sources.
    4. What no clip of a batch misses, the code does not recover, and under regimes without missing
       modalities refiners and merging maps would stay as they were drawn. With ``idle_recovery`` the clips then miss
       one of the six proper subsets in turn for the reconstruction error alone; predictions do not change.
    5. The couplings of a flow are composed to one map, their perceptrons run at once. Layers that the code creates and
       never calls (activation norms, permutations, the weights of modalities, a flow's own prior) do not exist here.
    6. Gaussians of classes that a step does not meet move on by Adam's momentum, officially they rest. A label beyond
       the outer classes counts to them, officially to none.
    7. Ours for other labels: CH-SIMS has the five classes of its Acc-5; IEMOCAP a Gaussian for each answer to each
       question, whose logarithms are averaged over the questions.
    8. Ours for other files: audio and vision that are not aligned are interpolated onto the steps of the text, and
       there is a projection also where widths agree. With frames dropped, a modality counts as there if one frame is,
       and the zeros of others pass through flows and projections like any value. A clip without any modality is read
       as it is.
    9. The validation error is that of all clips, officially the mean over batches, to four digits.

As in the official code padding is masked nowhere: it is read, and counts in the likelihood. On several devices the
method needs ``--trainer.strategy=ddp_find_unused_parameters_true``, since a batch may miss no text, say.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods.base import Output
from msabench.methods.info import MethodInfo
from msabench.methods.recovering import Recovering, sources_of
from msabench.missingness.conditions import MODALITIES
from msabench.nn.coupling_flow import CouplingFlow
from msabench.nn.score_classes import LabelClasses


class _ClassGaussians(nn.Module):
    """A Gaussian of independent channels for every class of every question, initially N(0, 1).

    Mean and logarithm of the deviation are each a weight times ``exp(3 gain)``.
    """

    def __init__(self, classes: LabelClasses, dim: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(classes.questions, classes.n, 2 * dim))
        self.gain = nn.Parameter(torch.zeros(classes.questions, classes.n, 2 * dim))

    def log_density(self, z: Tensor, members: Tensor) -> Tensor:
        """Logarithm of the density of z ``(B, T, d)`` under the classes ``members``, int64 ``(B, E)``; ``(B,)``."""
        questions = torch.arange(members.shape[1], device=members.device)
        chosen = (self.values * (3 * self.gain).exp())[questions, members].unsqueeze(2)
        mean, log_deviation = chosen.chunk(2, dim=3)
        distance = (z.unsqueeze(1) - mean) * (-log_deviation).exp()
        densities = -0.5 * math.log(2 * math.pi) - log_deviation - 0.5 * distance.square()
        return densities.sum((2, 3)).mean(1)


class DiCMoR(Recovering):
    """DiCMoR, see the module's docstring. It trains on ``batch.complete``.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: There is only ``default``.
        complete_epochs: Epochs on complete clips, which ``trainer.max_epochs`` includes; at least 1.
        dim: Common width d of the modalities; even, a multiple of ``heads``, at least 4.
        heads: Attention heads of every encoder.
        layers: Layers of the crossmodal encoders; the memory encoders have at least 3.
        kernel_size: Steps seen by one step of the projections.
        flow_layers: Couplings K of a flow.
        flow_width: Hidden units of a coupling.
        refiner_layers: Blocks of a refiner.
        idle_recovery: Whether a batch in which a modality is never missing trains refiners and merging maps, too.
        lambda_nll: Weight >= 0 of the negative log-likelihood of the three modalities, in bits per value.
        lambda_rec: Weight >= 0 of the mean squared error of recovered modalities.
        dropout_text: Dropout on text features.
        attn_dropout_text: Dropout on attention weights where text is the source, and in the memory encoders.
        attn_dropout_audio: The same where audio is the source.
        attn_dropout_vision: The same where vision is the source.
        relu_dropout: Dropout in feed-forward networks.
        embed_dropout: Dropout on embedded sequences.
        res_dropout: Dropout on residual branches.
        out_dropout: Dropout in the output block.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained, in stage ``complete``.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam.
        lr_patience: Epochs without a better ``val/task`` before the learning rate is halved; None keeps it constant.
        gradient_clip: Largest size of a gradient's entry; None for no limit.
        accumulate: Batches summed before a step.

    Raises:
        MSABenchError: An argument outside its range, a kernel longer than the text, labels whose range spans no whole
            numbers, or training on batches without their complete version.
    """

    info = MethodInfo(
        name="dicmor",
        title="Distribution-Consistent Modal Recovering for Incomplete Multimodal Learning",
        venue="ICCV",
        year=2023,
        url="https://openaccess.thecvf.com/content/ICCV2023/html/Wang_Distribution-Consistent_Modal_Recovering_for_"
        "Incomplete_Multimodal_Learning_ICCV_2023_paper.html",
        fidelity="parity",
        code_url="https://github.com/mdswyz/DiCMoR",
        code_commit="3d7e617",
        licence="Apache-2.0",
        trains_with=("complete",),
        smoke={
            "complete_epochs": 1,
            "dim": 8,
            "heads": 2,
            "layers": 1,
            "kernel_size": 3,
            "flow_layers": 2,
            "flow_width": 8,
            "refiner_layers": 1,
            "accumulate": 2,
        },
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        complete_epochs: int = 20,
        dim: int = 32,
        heads: int = 8,
        layers: int = 4,
        kernel_size: int = 5,
        flow_layers: int = 32,
        flow_width: int = 64,
        refiner_layers: int = 20,
        idle_recovery: bool = True,
        lambda_nll: float = 0.1,
        lambda_rec: float = 0.1,
        dropout_text: float = 0.5,
        attn_dropout_text: float = 0.3,
        attn_dropout_audio: float = 0.2,
        attn_dropout_vision: float = 0.0,
        relu_dropout: float = 0.0,
        embed_dropout: float = 0.2,
        res_dropout: float = 0.0,
        out_dropout: float = 0.5,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 1e-4,
        lr: float = 1e-4,
        lr_patience: int | None = 5,
        gradient_clip: float | None = 0.6,
        accumulate: int = 8,
    ) -> None:
        super().__init__(
            spec,
            variant=variant,
            complete_epochs=complete_epochs,
            dim=dim,
            heads=heads,
            layers=layers,
            kernel_size=kernel_size,
            refiner_layers=refiner_layers,
            idle_recovery=idle_recovery,
            dropout_text=dropout_text,
            attn_dropout={"text": attn_dropout_text, "audio": attn_dropout_audio, "vision": attn_dropout_vision},
            head_dropouts={
                "relu_dropout": relu_dropout,
                "embed_dropout": embed_dropout,
                "res_dropout": res_dropout,
                "out_dropout": out_dropout,
            },
            text_encoder=text_encoder,
            finetune=finetune,
            text_lr=text_lr,
            lr=lr,
            lr_patience=lr_patience,
            gradient_clip=gradient_clip,
            accumulate=accumulate,
        )
        self.lambda_nll = lambda_nll
        self.lambda_rec = lambda_rec
        self.flows = nn.ModuleDict({m: CouplingFlow(dim, flow_layers, flow_width) for m in MODALITIES})
        self.classes = LabelClasses(spec, "polarity" if spec.task == "emotions" else "score")
        self.gaussians = _ClassGaussians(self.classes, dim)

    def guess(self, modality: str, streams: dict[str, Tensor], available: Tensor) -> Tensor:
        """Take what is there through the latent space; two guesses are merged. No gradient reaches the flows."""
        back: Any = self.flows[modality].inverse
        with torch.no_grad():
            first, second = (back(self.flows[n](streams[n])[0]) for n in sources_of(modality))
        return self.merged(modality, first, second, available)

    def generative_errors(
        self, streams: dict[str, Tensor], targets: dict[str, Tensor], missing: Tensor, batch: Batch
    ) -> Tensor:
        """Negative log-likelihoods of the complete modalities, missing or not, in bits per value."""
        assert batch.labels is not None
        members = self.classes.of(batch.labels)
        bits = []
        for m in MODALITIES:
            z, log_volume = self.flows[m](targets[m])
            log_likelihood = log_volume + self.gaussians.log_density(z, members)
            bits.append(-log_likelihood / (math.log(2) * z[0].numel()))
        return torch.stack(bits, dim=1)

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """Task term, bits per value as far as they are above 0, and the error of what was recovered."""
        terms = super().loss(out, batch)
        if self.stage == "task":
            missing, errors = out.aux["missing"], out.aux["rec"]
            terms["nll"] = self.lambda_nll * out.aux["generative"].mean(0).clamp(min=0).sum()
            terms["rec"] = self.lambda_rec * (errors.sum(1) / missing.sum(1).clamp(min=1)).mean()
        return terms
