"""CTC + RAVEN: RAVEN on unaligned sequences, behind an alignment that is trained with it.

A row of the tables of MulT (Tsai et al., ACL 2019, https://aclanthology.org/P19-1656) and of papers that quote it, for
RAVEN (Wang et al., AAAI 2019, see ``raven``), which needs the frames of each word. Audio and vision are summed onto the
words by a recurrent network's soft alignment; its CTC loss and the task's are minimised together.

MulT's paper says this and no more. Its code, https://github.com/yaohungt/Multimodal-Transformer at a670936 (MIT
licence), has the aligner and its loss, for models other than MulT, and no RAVEN. Which RAVEN the row is of, and its
settings, are not known.

Deviations:
    1. Ours is the aligner above in front of ``raven`` with its defaults; a word has the one frame aligned to it.
    2. As there, all steps of a file are aligned with all steps of its text, padding included; the CTC losses of audio
       and vision are summed over clips, without a weight; and the task, too, trains the aligner. In place of warp-ctc
       the loss is torch's. A clip whose modality is missing has no such loss.
    3. One optimiser for aligner and model where there were three, the same for Adam. There each one's gradient was
       clipped by its norm; ours is not clipped, since one norm over all would be the CTC loss's.
    4. Word-aligned features go through the aligner, too, and come out blurred: see ``nn.ctc_aligner``.
    5. See ``raven`` for the model's own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import Tensor

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods.base import Output
from msabench.methods.info import MethodInfo
from msabench.methods.raven import RAVEN
from msabench.nn.ctc_aligner import AlignToText


class CTCRAVEN(RAVEN):
    """RAVEN behind a CTC aligner, see the module's docstring.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
        lambda_ctc: Weight >= 0 of the CTC loss, which is summed over clips.
        cell: Units of the LSTMs over a word's frames, and width of the frames that they read.
        hidden: Units of the LSTM over words.
        shift_weight: Largest length >= 0 of a shift, in lengths of the word.
        dropout: Dropout on frames and on shifted words.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam.
        lr_patience: Epochs without a better ``val/task`` before the learning rate is divided by 10; None keeps it
            constant.
        task_loss: ``mse`` or ``l1``; IEMOCAP's emotions always use cross-entropy.

    Raises:
        MSABenchError: An argument outside its range.
    """

    info = MethodInfo(
        name="ctc_raven",
        title="CTC + RAVEN: RAVEN behind an aligner, a row of MulT's tables",
        venue="ACL",
        year=2019,
        url="https://aclanthology.org/P19-1656",
        fidelity="reconstructed",
        code_url="https://github.com/yaohungt/Multimodal-Transformer",
        code_commit="a670936",
        licence="MIT",
        needs=("text",),
        smoke={"cell": 6, "hidden": 8},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        lambda_ctc: float = 1.0,
        cell: int = 150,
        hidden: int = 300,
        shift_weight: float = 0.2,
        dropout: float = 0.2,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 2e-5,
        lr: float = 1e-3,
        lr_patience: int | None = None,
        task_loss: Literal["l1", "mse"] = "mse",
    ) -> None:
        aligned = replace(spec, seq_lens=dict.fromkeys(spec.seq_lens, spec.seq_lens["text"]))
        super().__init__(
            aligned,
            variant=variant,
            cell=cell,
            hidden=hidden,
            shift_weight=shift_weight,
            dropout=dropout,
            text_encoder=text_encoder,
            finetune=finetune,
            text_lr=text_lr,
            lr=lr,
            lr_patience=lr_patience,
            task_loss=task_loss,
        )
        self.spec = spec
        self.lambda_ctc = lambda_ctc
        self.align = AlignToText(spec)

    def forward(self, batch: Batch) -> Output:
        """Predict from the words and what is aligned to them."""
        aligned, _ = self.align(batch)
        return super().forward(aligned)

    def training_forward(self, batch: Batch) -> Output:
        """The same, with the CTC loss of each clip, ``(B,)``, as ``ctc`` in ``aux``."""
        aligned, scores = self.align(batch)
        out = super().forward(aligned)
        out.aux["ctc"] = self.align.loss(scores, batch)
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """The task, and the CTC losses of all clips."""
        return {**super().loss(out, batch), "ctc": self.lambda_ctc * out.aux["ctc"].sum()}
