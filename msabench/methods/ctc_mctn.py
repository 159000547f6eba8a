"""CTC + MCTN: MCTN on unaligned sequences, behind an alignment that is trained with it.

A row of the tables of MulT (Tsai et al., ACL 2019, https://aclanthology.org/P19-1656) and of papers that quote it, for
MCTN (Pham et al., AAAI 2019, see ``mctn``), which translates step by step. Audio and vision are summed onto the words
by a recurrent network's soft alignment; its CTC loss and the model's losses are minimised together.

MulT's paper says this and no more. Its code, https://github.com/yaohungt/Multimodal-Transformer at a670936 (MIT
licence), has the aligner and its loss, for models other than MulT, and no MCTN. Which MCTN the row is of, and its
settings, are not known.

Deviations:
    1. Ours is the aligner above in front of ``mctn``. Its default source is everything that is there, after alignment;
       in variant ``text`` audio and vision are targets alone, and the alignment does not enter a prediction.
    2. What is to be translated into is the aligned complete audio and vision, without gradient: an aligner that the
       translation's errors could reach would send all steps to the blank, and zeros are easy to translate into.
    3. As there, all steps of a file are aligned with all steps of its text, padding included; the CTC losses of audio
       and vision are summed over clips, without a weight; and the task, too, trains the aligner. In place of warp-ctc
       the loss is torch's. A clip whose modality is missing has no such loss.
    4. One optimiser for aligner and model where there were three, the same for Adam. There each one's gradient was
       clipped by its norm; ours is not clipped, since one norm over all would be the CTC loss's.
    5. Word-aligned features go through the aligner, too, and come out blurred: see ``nn.ctc_aligner``.
    6. See ``mctn`` for the model's own.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods.base import Output
from msabench.methods.info import MethodInfo
from msabench.methods.mctn import MCTN
from msabench.nn.ctc_aligner import ALIGNED, AlignToText, onto_words


class CTCMCTN(MCTN):
    """MCTN behind a CTC aligner, see the module's docstring. It trains on ``batch.complete``.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``default``, whose source is every modality that is there; ``text``, from text over vision to audio.
        lambda_ctc: Weight >= 0 of the CTC loss, which is summed over clips.
        hidden: Units of every recurrent layer but the aligner's, at least 1.
        lambda_vision: Weight >= 0 of the error of the vision.
        lambda_cycle: Weight >= 0 of the error on the way back to the source.
        lambda_audio: Weight >= 0 of the error of the audio.
        lambda_l2: Weight >= 0 of the squares of the last layer's weights.
        mask_padding: Whether padding is left out by the model; officially it is read and counted like any frame.
        lr: Learning rate of Adam.
        lr_patience: Epochs without a better ``val/task`` before the learning rate is divided by 10; None keeps it
            constant.

    Raises:
        MSABenchError: An argument outside its range, or training on batches without their complete version.
    """

    info = MethodInfo(
        name="ctc_mctn",
        title="CTC + MCTN: MCTN behind an aligner, a row of MulT's tables",
        venue="ACL",
        year=2019,
        url="https://aclanthology.org/P19-1656",
        fidelity="reconstructed",
        code_url="https://github.com/yaohungt/Multimodal-Transformer",
        code_commit="a670936",
        licence="MIT",
        variants=("text",),
        trains_with=("complete",),
        smoke={"hidden": 8},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        lambda_ctc: float = 1.0,
        hidden: int = 32,
        lambda_vision: float = 0.1,
        lambda_cycle: float = 0.1,
        lambda_audio: float = 0.1,
        lambda_l2: float = 0.01,
        mask_padding: bool = True,
        lr: float = 1e-4,
        lr_patience: int | None = None,
    ) -> None:
        super().__init__(
            spec,
            variant=variant,
            hidden=hidden,
            lambda_vision=lambda_vision,
            lambda_cycle=lambda_cycle,
            lambda_audio=lambda_audio,
            lambda_l2=lambda_l2,
            mask_padding=mask_padding,
            lr=lr,
            lr_patience=lr_patience,
        )
        self.lambda_ctc = lambda_ctc
        self.align = AlignToText(spec)

    def forward(self, batch: Batch) -> Output:
        """Predict from the aligned source. Nothing is decoded."""
        aligned, _ = self.align(batch)
        return super().forward(aligned)

    def training_forward(self, batch: Batch) -> Output:
        """Predict, and translate there and back.

        Returns:
            ``aux`` holds, besides what ``mctn`` puts there, the CTC loss of each clip ``ctc``, ``(B,)``, and the
            aligned complete ``target_audio`` and ``target_vision``, ``(B, T, D_m)``.
        """
        aligned, scores = self.align(batch)
        with torch.no_grad():
            complete, _ = self.align(self.complete_of(batch))
        out = super().training_forward(replace(aligned, complete=complete))
        out.aux["ctc"] = self.align.loss(scores, batch)
        out.aux |= {f"target_{m}": complete.features[m] for m in ALIGNED}
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """The losses of ``mctn``, with aligned targets, and the CTC losses of all clips."""
        targets = {m: out.aux[f"target_{m}"] for m in ALIGNED}
        terms = super().loss(out, replace(batch, complete=onto_words(self.complete_of(batch), targets)))
        return {**terms, "ctc": self.lambda_ctc * out.aux["ctc"].sum()}
