"""Graph-MFN: Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and Interpretable Dynamic Fusion Graph.

Amir Zadeh, Paul Pu Liang, Soujanya Poria, Erik Cambria, Louis-Philippe Morency. ACL 2018,
https://aclanthology.org/P18-1208. Official code, of the graph alone: https://github.com/A2Zadeh/CMU-MultimodalSDK at
fd18d71, its own permissive licence. The whole model: https://github.com/thuiar/MMSA at a94e65d, MIT licence, with the
same graph; the settings are its own.

MFN with another description of what happens across modalities at a step: a graph of the modalities and all their
subsets, its edges weighed anew at each step by *efficacies*. Its top reads into MFN's gated memory.

Deviations:
    1. ``register_nodes``: in both codes the networks of the nodes la, lv, av and lav stand in a plain dictionary, which
       PyTorch does not look into: optimisers never see them, and they stay at their initial values, fixed random
       projections. The paper has nothing of the kind, so we train them by default. ``False`` keeps them as they are
       drawn, in checkpoints too; configs with MMSA's settings have it, since its numbers came from it.
    2. Whatever reads no earlier step of the memory is computed for all steps at once: the same values.
    3. Unaligned files: audio and vision are averaged over as many windows as the text has steps, as in MMSA.
    4. The best epoch by ``val/task``, the mean over clips; MMSA averages over batches.
    5. IEMOCAP: four two-way outputs and cross-entropy.

As in the codes, efficacies and nodes are linear in their inputs, without activation, sigmoid or normalisation, and
LSTMs and memory run over all stored steps, padding included, and are read at the last one; ``padding`` says where
padding stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.multi_view_memory import Hidden, MultiViewMemory, TwoLayers
from msabench.nn.padding import all_padded, padding_side
from msabench.nn.text import TextInput
from msabench.nn.window_mean import window_means

_INNER = 100  # the codes' width of the first layer of every network in the graph
# Nodes, by letters of their modalities, with what each reads; in the codes' order, in which edges are numbered too.
_SOURCES = {
    "la": ("l", "a"),
    "lv": ("l", "v"),
    "av": ("a", "v"),
    "lav": ("l", "a", "v", "la", "lv", "av"),
    "top": ("l", "a", "v", "la", "lv", "av", "lav"),
}


class DynamicFusionGraph(nn.Module):
    """A node for every subset of the modalities, and one on top of all.

    A node of several modalities is ``N([e_1 s_1; e_2 s_2; ...])`` over its subsets' nodes s_i with an efficacy e_i for
    each edge, a number; so is the top. N is two linear layers, and three more of them give the 19 efficacies from the
    modalities' nodes.

    Args:
        widths: Widths of the nodes of text, audio and vision.
        node_width: Width n of the others.
    """

    def __init__(self, widths: Sequence[int], node_width: int) -> None:
        super().__init__()
        width_of = dict(zip("lav", widths, strict=True)) | dict.fromkeys(_SOURCES, node_width)
        self.nodes = nn.ModuleDict(
            {
                node: nn.Sequential(
                    nn.Linear(sum(width_of[source] for source in sources), _INNER), nn.Linear(_INNER, node_width)
                )
                for node, sources in _SOURCES.items()
            }
        )
        self.efficacies = nn.Sequential(
            nn.Linear(sum(widths), _INNER),
            nn.Linear(_INNER, node_width),
            nn.Linear(node_width, sum(map(len, _SOURCES.values()))),
        )
        # The second layers begin as copies of one another, as in the codes.
        seconds = [network[1] for network in self.nodes.values()]  # type: ignore[index]
        for second in seconds[1:]:
            second.load_state_dict(seconds[0].state_dict())

    def forward(self, modalities: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Read one ``(..., widths[m])`` per modality; the top ``(..., n)`` and the efficacies ``(..., 19)``."""
        values = dict(zip("lav", modalities, strict=True))
        efficacies: Tensor = self.efficacies(torch.cat(list(modalities), dim=-1))
        edges = iter(efficacies.split(1, dim=-1))
        for node, sources in _SOURCES.items():
            values[node] = self.nodes[node](torch.cat([values[source] * next(edges) for source in sources], dim=-1))
        return values["top"], efficacies


class GraphMFN(MSAMethod):
    """A dynamic graph over all subsets of the modalities that writes to a memory, beside an LSTM for each modality.

    Default settings are MMSA's for CMU-MOSI.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
        hidden_text: Units of the text's LSTM.
        hidden_audio: Units of the audio's LSTM.
        hidden_vision: Units of the vision's LSTM.
        memory: Width of the memory.
        node_width: Width of the graph's nodes of several modalities and of its top; ``inner_node_dim`` in MMSA.
        propose_width: Hidden units of the proposal to the memory; ``NN`` in MMSA.
        propose_dropout: Dropout on them.
        retain_width: Hidden units of the gate on what the memory holds; ``gamma1``.
        retain_dropout: Dropout on them.
        update_width: Hidden units of the gate on the proposal; ``gamma2``.
        update_dropout: Dropout on them.
        out_width: Hidden units of the output network.
        out_dropout: Dropout on them.
        register_nodes: Whether the networks of the nodes of several modalities are trained; the top's always is.
        padding: Where padding stands: in ``front``, whatever the file's side, or as ``stored``; None for what the
            reference read, ``stored`` on MMSA's feature families and ``front`` elsewhere.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam.
        weight_decay: L2 weight decay of Adam.
    """

    info = MethodInfo(
        name="graph_mfn",
        title="Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and Interpretable Dynamic Fusion Graph",
        venue="ACL",
        year=2018,
        url="https://aclanthology.org/P18-1208",
        fidelity="parity",
        code_url="https://github.com/thuiar/MMSA",
        code_commit="a94e65d",
        licence="MIT",
        method_version=2,
        smoke={
            "hidden_text": 8,
            "hidden_audio": 4,
            "hidden_vision": 6,
            "memory": 8,
            "node_width": 6,
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
        memory: int = 300,
        node_width: int = 64,
        propose_width: int = 32,
        propose_dropout: float = 0.0,
        retain_width: int = 128,
        retain_dropout: float = 0.5,
        update_width: int = 64,
        update_dropout: float = 0.5,
        out_width: int = 256,
        out_dropout: float = 0.0,
        register_nodes: bool = True,
        padding: Literal["front", "stored"] | None = None,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 5e-5,
        lr: float = 2e-3,
        weight_decay: float = 5e-3,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="l1")
        self.text_lr = text_lr
        self.padding = padding_side(spec, padding)
        self.text = TextInput(spec, text_encoder, finetune=finetune)
        widths = {**spec.feature_dims, "text": self.text.width}
        hidden = {"text": hidden_text, "audio": hidden_audio, "vision": hidden_vision}
        self.lstms = nn.ModuleDict({m: nn.LSTM(widths[m], hidden[m], batch_first=True) for m in MODALITIES})
        self.singles = nn.ModuleDict({m: nn.Linear(2 * hidden[m], hidden[m]) for m in MODALITIES})
        self.graph = DynamicFusionGraph(list(hidden.values()), node_width)
        if not register_nodes:
            for node in ("la", "lv", "av", "lav"):
                self.graph.nodes[node].requires_grad_(False)
        self.memory = MultiViewMemory(
            node_width,
            memory,
            propose=Hidden(propose_width, propose_dropout),
            retain=Hidden(retain_width, retain_dropout),
            update=Hidden(update_width, update_dropout),
        )
        self.output = TwoLayers(sum(hidden.values()) + memory, Hidden(out_width, out_dropout), self.n_outputs)

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the last hidden states of text, audio and vision, and the memory."""
        x = all_padded(batch, self.text(batch), self.padding)
        inputs = {m: window_means(sequence, x["text"].shape[1]) for m, sequence in x.items()}
        states = {m: self.lstms[m](inputs[m])[0] for m in MODALITIES}
        singles = [F.relu(self.singles[m](_with_previous(states[m]))) for m in MODALITIES]
        top, _ = self.graph(singles)
        joint = torch.cat([*(states[m][:, -1] for m in MODALITIES), self.memory(top)], dim=1)
        return Output(pred=self.to_pred(self.output(joint)), representation=joint.detach())


def _with_previous(states: Tensor) -> Tensor:
    """``[h_{t-1}; h_t]`` of ``(B, T, H)``, 0 before the first step: ``(B, T, 2H)``."""
    return torch.cat([F.pad(states, (0, 0, 1, -1)), states], dim=2)
