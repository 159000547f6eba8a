"""MFN: Memory Fusion Network for Multi-view Sequential Learning.

Amir Zadeh, Paul Pu Liang, Navonil Mazumder, Soujanya Poria, Erik Cambria, Louis-Philippe Morency. AAAI 2018,
https://arxiv.org/abs/1802.00927. Official code: https://github.com/pliang279/MFN at b0453fb, MIT licence; the
port in https://github.com/thuiar/MMSA at a94e65d is the same network and has the settings for the corpora of today.

An LSTM per modality; at each step, attention over the cell states of this step and the one before finds what changes
together across modalities, and a gated memory keeps it. The last hidden states and the memory predict. The equations
stand in ``msabench.nn.multi_view_memory``: the encoder is also MFM's, and its memory Graph-MFN's.

Deviations:
    1. ``av_time_average``: MMSA's loader gives MFN one frame of audio and one of vision, each the mean over all stored
       steps, and repeats it at every step; only the text varies over time. The paper and the official code read the
       sequences. Off by default, as in the paper; on in configs with MMSA's settings, since its numbers came from it.
       Frames that are dropped only shrink such a mean: results over rates of missing frames are not comparable.
    2. Unaligned files, without averages: audio and vision are averaged over as many windows as the text has steps, as
       MMSA does for Graph-MFN and MFM. The official code has aligned words only.
    3. The window of cell states is 2, the only one with which MMSA's port runs.
    4. The best epoch by ``val/task``, the mean over clips, with early stopping as in MMSA, which averages over batches.
       The official code keeps one order of the clips, drops an incomplete last batch and never stops early.
    5. IEMOCAP: four two-way outputs and cross-entropy.

As in both codes, LSTMs and memory run over all stored steps, padding included, and are read at the last one;
``padding`` says where padding stands.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.multi_view_memory import Hidden, MemoryFusion, TwoLayers
from msabench.nn.padding import all_padded, padding_side
from msabench.nn.text import TextInput
from msabench.nn.window_mean import window_means


class MFN(MSAMethod):
    """A memory of what happens across modalities, beside an LSTM for each of them.

    Default settings are MMSA's for CMU-MOSI.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
        hidden_text: Units of the text's LSTM.
        hidden_audio: Units of the audio's LSTM.
        hidden_vision: Units of the vision's LSTM.
        memory: Width of the memory.
        attend_width: Hidden units of the attention over cell states; ``NN1`` in the codes.
        attend_dropout: Dropout on them.
        propose_width: Hidden units of the proposal to the memory; ``NN2``.
        propose_dropout: Dropout on them.
        retain_width: Hidden units of the gate on what the memory holds; ``gamma1``.
        retain_dropout: Dropout on them.
        update_width: Hidden units of the gate on the proposal; ``gamma2``.
        update_dropout: Dropout on them.
        out_width: Hidden units of the output network.
        out_dropout: Dropout on them.
        av_time_average: Whether audio and vision are constant sequences of their means over all stored steps, as in
            MMSA, in place of themselves.
        padding: Where padding stands: in ``front``, whatever the file's side, or as ``stored``; None for what the
            reference read, ``stored`` on MMSA's feature families and ``front`` elsewhere.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam.
        weight_decay: L2 weight decay of Adam.
    """

    info = MethodInfo(
        name="mfn",
        title="Memory Fusion Network for Multi-view Sequential Learning",
        venue="AAAI",
        year=2018,
        url="https://arxiv.org/abs/1802.00927",
        fidelity="parity",
        code_url="https://github.com/pliang279/MFN",
        code_commit="b0453fb",
        licence="MIT",
        method_version=2,
        smoke={
            "hidden_text": 8,
            "hidden_audio": 4,
            "hidden_vision": 6,
            "memory": 8,
            "attend_width": 8,
            "propose_width": 8,
            "retain_width": 8,
            "update_width": 8,
            "out_width": 8,
        },
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        hidden_text: int = 256,
        hidden_audio: int = 32,
        hidden_vision: int = 256,
        memory: int = 400,
        attend_width: int = 32,
        attend_dropout: float = 0.2,
        propose_width: int = 64,
        propose_dropout: float = 0.0,
        retain_width: int = 256,
        retain_dropout: float = 0.7,
        update_width: int = 32,
        update_dropout: float = 0.5,
        out_width: int = 128,
        out_dropout: float = 0.0,
        av_time_average: bool = False,
        padding: Literal["front", "stored"] | None = None,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 5e-5,
        lr: float = 2e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="l1")
        self.av_time_average = av_time_average
        self.text_lr = text_lr
        self.padding = padding_side(spec, padding)
        self.text = TextInput(spec, text_encoder, finetune=finetune)
        widths = {**spec.feature_dims, "text": self.text.width}
        self.encoder = MemoryFusion(
            [widths[m] for m in MODALITIES],
            [hidden_text, hidden_audio, hidden_vision],
            memory,
            attend=Hidden(attend_width, attend_dropout),
            propose=Hidden(propose_width, propose_dropout),
            retain=Hidden(retain_width, retain_dropout),
            update=Hidden(update_width, update_dropout),
        )
        self.output = TwoLayers(self.encoder.width, Hidden(out_width, out_dropout), self.n_outputs)

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the last hidden states of text, audio and vision, and the memory."""
        x = all_padded(batch, self.text(batch), self.padding)
        joint = self.encoder([x["text"], *(self._at_steps_of(x["text"], x[m]) for m in ("audio", "vision"))])
        return Output(pred=self.to_pred(self.output(joint)), representation=joint.detach())

    def _at_steps_of(self, text: Tensor, x: Tensor) -> Tensor:
        """Bring ``(B, S, D)`` to the text's steps ``(B, T, D)``."""
        if self.av_time_average:
            return x.mean(1, keepdim=True).expand(-1, text.shape[1], -1)
        return window_means(x, text.shape[1])
