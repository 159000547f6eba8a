"""RMFN: Multimodal Language Analysis with Recurrent Multistage Fusion.

Paul Pu Liang, Ziyin Liu, Amir Zadeh, Louis-Philippe Morency. EMNLP 2018, https://aclanthology.org/D18-1014. No training
code is public. The authors' SDK, https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK at 4f2eadc, has the recurrent
cell and a fusion without highlighting or attention; the rest follows the paper and an unofficial port of it.

One recurrent cell per modality, LSTHM: an LSTM with a second recurrent input z, which the modalities share,

    f, i, o, g = W x_t + U h_{t-1} + V z_{t-1},  c_t = sig(f) c_{t-1} + sig(i) tanh(g),  h_t = sig(o) tanh(c_t),

and z_t is made at every step from H = [h_l; h_a; h_v] by K stages, each of which picks a part of H and fuses it with
what the stages before it found:

    HIGHLIGHT  a^k = softmax(LSTM(H if k = 1 else H^{k-1})),  H^k = a^k * H
    FUSE       s^k = LSTM(H^k)
    SUMMARIZE  z_t = MLP([s^1; ...; s^K])

The score is read from [z; h_l; h_a; h_v] of the last step.

Notation: B clips, T steps, h_m units of modality m, D = h_l + h_a + h_v, dz the width of z, K stages.

Deviations:
    1. Sizes, dropout, optimiser and batches are ours: the paper's are not in it.
    2. The softmax runs over all D entries and its result is HIGHLIGHT's hidden state in the next stage, as in the port.
       An entry of H^k is about 1 / D of one of H, so FUSE starts almost without input; ``rescale_attention`` multiplies
       by D, for a mean weight of 1.
    3. HIGHLIGHT's memory begins as sigmoid(MLP(H)). FUSE's begins as a random unit vector, a row of a random orthogonal
       matrix, drawn once with the weights; drawn in every pass, as in the port, a prediction would not repeat.
    4. z is not squashed. The port's sigmoid and softmax over dz leave it near 1 / dz whatever the input.
    5. The port feeds zeros in place of H into the fusion, an error; ours reads H.
    6. Steps of padding are not run: every clip begins at its first step and is read at its last one. Features of
       different rates are interpolated onto the steps of the text; the paper has word-aligned ones.
    7. IEMOCAP: cross-entropy on four two-way outputs of one network in place of a network per emotion.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.common_axis import on_common_axis
from msabench.nn.multi_view_memory import Hidden, TwoLayers
from msabench.nn.text import TextInput


class _LSTHM(nn.Module):
    """Long short-term hybrid memory: an LSTM cell with a recurrent input from outside. Blocks f, i, o, g."""

    def __init__(self, features: int, hidden: int, shared: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.input = nn.Linear(features, 4 * hidden)
        self.recurrent = nn.Linear(hidden, 4 * hidden)
        self.hybrid = nn.Linear(shared, 4 * hidden)

    def forward(self, from_input: Tensor, h: Tensor, c: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """One step from ``self.input(x_t)``, which does not wait for the states: new h and c, ``(B, h_m)`` each."""
        f, i, o, g = (from_input + self.recurrent(h) + self.hybrid(z)).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class _Fusion(nn.Module):
    """K LSTM steps over the modalities' states, summarised: H ``(B, D)`` to z ``(B, dz)``. Here it reads all of H."""

    def __init__(self, width: int, stages: int, summary: Literal["all", "last"], to_z: nn.Module) -> None:
        super().__init__()
        self.stages = stages
        self.summary = summary
        self.fuse = nn.LSTMCell(width, width)
        self.to_z = to_z

    def forward(self, states: Tensor) -> Tensor:
        s, c = torch.zeros_like(states), self.first_memory(states)
        found = []
        for highlighted in self.highlights(states):
            s, c = self.fuse(highlighted, (s, c))
            found.append(s)
        z: Tensor = self.to_z(torch.cat(found, dim=1) if self.summary == "all" else s)
        return z

    def first_memory(self, states: Tensor) -> Tensor:
        return torch.zeros_like(states)

    def highlights(self, states: Tensor) -> list[Tensor]:
        """What each stage reads, ``(B, D)``."""
        return [states] * self.stages


class _MultistageFusion(_Fusion):
    """The fusion whose stages each read a part of H that is highlighted for them."""

    first: Tensor

    def __init__(self, width: int, *args: Any, first_highlight: nn.Module, rescale: bool, **kwargs: Any) -> None:
        super().__init__(width, *args, **kwargs)
        self.highlight = nn.LSTMCell(width, width)
        self.first_highlight = first_highlight
        self.scale = float(width) if rescale else 1.0
        self.register_buffer("first", F.normalize(torch.randn(width), dim=0))

    def first_memory(self, states: Tensor) -> Tensor:
        return self.first.expand_as(states)

    def highlights(self, states: Tensor) -> list[Tensor]:
        attention, memory = torch.zeros_like(states), self.first_highlight(states).sigmoid()
        highlighted, found = states, []
        for _ in range(self.stages):
            scores, memory = self.highlight(highlighted, (attention, memory))
            attention = scores.softmax(dim=1)
            highlighted = self.scale * attention * states
            found.append(highlighted)
        return found


class RMFN(MSAMethod):
    """RMFN, see the module's docstring.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``default``; or ``sdk``, the fusion of the authors' SDK: without HIGHLIGHT, every stage reads H, and
            FUSE's memory begins at 0.
        hidden_text: Units h_l of the text's cell, at least 1.
        hidden_audio: Units h_a of the audio's cell, at least 1.
        hidden_vision: Units h_v of the vision's cell, at least 1.
        shared: Width dz of z, at least 1.
        mlp_width: Units of the hidden layer of HIGHLIGHT's first memory, SUMMARIZE and the head, at least 1.
        stages: Stages K, at least 1.
        summary: Whether z is made from ``all`` stages' states or from the ``last`` one's.
        rescale_attention: Whether highlighting multiplies by D, see Deviations.
        dropout: Dropout in [0, 1) of the hidden layers just named.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam.

    Raises:
        MSABenchError: Less than one stage.
    """

    info = MethodInfo(
        name="rmfn",
        title="Multimodal Language Analysis with Recurrent Multistage Fusion",
        venue="EMNLP",
        year=2018,
        url="https://aclanthology.org/D18-1014",
        fidelity="reconstructed",
        code_url="https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK",
        code_commit="4f2eadc",
        variants=("sdk",),
        smoke={"hidden_text": 6, "hidden_audio": 4, "hidden_vision": 5, "shared": 6, "mlp_width": 8, "stages": 2},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        hidden_text: int = 88,
        hidden_audio: int = 64,
        hidden_vision: int = 48,
        shared: int = 64,
        mlp_width: int = 64,
        stages: int = 3,
        summary: Literal["all", "last"] = "all",
        rescale_attention: bool = False,
        dropout: float = 0.3,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 5e-5,
        lr: float = 1e-3,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr)
        if stages < 1:
            raise MSABenchError(f"stages {stages} is not allowed; give at least 1")
        self.text_lr = text_lr
        self.shared = shared
        self.text = TextInput(spec, text_encoder, finetune=finetune)
        features = {**spec.feature_dims, "text": self.text.width}
        hidden = {"text": hidden_text, "audio": hidden_audio, "vision": hidden_vision}
        width = sum(hidden.values())

        def mlp(inputs: int, outputs: int) -> TwoLayers:
            return TwoLayers(inputs, Hidden(mlp_width, dropout), outputs)

        self.cells = nn.ModuleDict({m: _LSTHM(features[m], hidden[m], shared) for m in MODALITIES})
        to_z = mlp(width * stages if summary == "all" else width, shared)
        if variant == "sdk":
            self.fusion = _Fusion(width, stages, summary, to_z)
        else:
            highlighting: dict[str, Any] = {"first_highlight": mlp(width, width), "rescale": rescale_attention}
            self.fusion = _MultistageFusion(width, stages, summary, to_z, **highlighting)
        self.head = mlp(shared + width, self.n_outputs)

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is [z; h_l; h_a; h_v] of a clip's last step, ``(B, dz + D)``."""
        features = {"text": self.text(batch), "audio": batch.audio, "vision": batch.vision}
        streams, lengths = on_common_axis(batch, features)
        cells = {m: cast(_LSTHM, cell) for m, cell in self.cells.items()}
        from_inputs = {m: cells[m].input(x).unbind(1) for m, x in streams.items()}
        h = {m: x.new_zeros(batch.size, cells[m].hidden) for m, x in streams.items()}
        c = dict(h)
        z = batch.audio.new_zeros(batch.size, self.shared)
        steps = []
        for t in range(int(lengths.max())):
            for m, cell in cells.items():
                h[m], c[m] = cell(from_inputs[m][t], h[m], c[m], z)
            states = torch.cat([h[m] for m in MODALITIES], dim=1)
            z = self.fusion(states)
            steps.append(torch.cat([z, states], dim=1))
        joint = torch.stack(steps)[lengths - 1, torch.arange(batch.size, device=lengths.device)]
        return Output(pred=self.to_pred(self.head(joint)), representation=joint)
