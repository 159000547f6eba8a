"""GCNet: Graph Completion Network for Incomplete Multimodal Learning in Conversation.

Zheng Lian, Lan Chen, Licai Sun, Bin Liu, Jianhua Tao. IEEE TPAMI 2023, https://arxiv.org/abs/2203.02177. Official code:
https://github.com/zeroQiaoba/GCNet at 8cce4a0, without a licence file.

A clip is one utterance of a conversation, and each modality one vector; a missing one is zero. A bidirectional LSTM
reads the conversation. Two graphs then link each utterance to those around it: in one the relation of an edge says
which of the two came first, in the other who speaks. On each, a relational and a plain graph convolution, another
bidirectional LSTM and, if wanted, attention over the conversation give a vector per utterance. From the sum H of the
two graphs a linear layer predicts the score, and another one rebuilds the vectors that were missing.

Notation: B clips, C conversations of at most U clips, E the first LSTM's output, x_i, y_i, n_i of the graphs' nodes.

Deviations:
    The numbers in the paper come from the official code, so that where the two differ the code is followed.

    1. The official LSTMs run over the padding: the backward direction starts in it, and what is said of a short
       conversation depends on the longest one in its batch. The published numbers were made so. Here a prediction must
       not depend on the batch it is made in, so the LSTMs are packed; that gives what the official code gives for each
       conversation by itself. ``mask_padding`` False is the official way, and only it needs the whole of a batch.
    2. The official reconstruction loss pairs values laid out time first with a mask laid out conversation first: of
       several conversations of unequal length it leaves out some clips and counts some padding. The published numbers
       were made so, too. By default every clip counts; ``recon_mask: official`` pairs as they do. They draw at random
       which modalities of the padding are missing; we take the share of the batch's clips that miss it.
    3. The official utterance vectors (wav2vec, DeBERTa, MA-Net, each averaged over time) are replaced by means of our
       features over the frames that are observed: what was dropped is left out, not averaged in as zero.
       ``text_vector: first`` takes the text's [CLS] state. A removed modality is zero, whatever a text encoder says of
       its tokens.
    4. Official patterns remove whole modalities, at random for each utterance and at one rate that training and test
       share, in all splits. Here the data module decides, and frames may be missing, too. A clip is then to be
       completed in each modality that lost a frame, towards the vector of the complete clip. ``reconstruct: all`` also
       rebuilds what was there, and is the only one that trains the rebuilding layer on complete data.
    5. Features are squared in the reconstruction loss as they are; the official ones have about unit scale. Where raw
       ones reach the hundreds, the data module's ``normalise: zscore`` keeps the loss in proportion.
    6. One speaker, since none of our corpora tells speakers apart: as in the official code on CMU-MOSI and CMU-MOSEI,
       the graph of speakers has one relation. On IEMOCAP they have two; ``ConversationEncoder`` can, and was compared.
    7. Official relations are numbered in the order of a Python set, which differs from run to run; ours are past, now,
       future, and for speakers (listener, speaker) 00, 01, 10, 11.
    8. Conversations are rebuilt from clip ids. Where ids name no video, or with ``context`` False, every clip is one of
       its own: both graphs are then loops of a node to itself.
    9. IEMOCAP: the official four exclusive classes become our four two-way questions, whose cross-entropy is averaged.
    10. Not ported: the GRU, which the official code allocates and whose branch cannot run; ``lower_bound``; predicting
       in a second pass from rebuilt features (both off in the published commands). The attention's layer exists only
       where it is used.
    11. Selection is by ``val/task`` as for all methods; officially by weighted F1, for IEMOCAP on the test fold.
    12. Ablations: ``wo_temporal`` and ``wo_speaker`` drop a graph, ``wo_reconstruction`` drops the loss as does leaving
       out the official ``--loss-recon``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.data.needs import Needs
from msabench.errors import MSABenchError, one_of
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.clip_vectors import clip_vectors
from msabench.nn.conversations import ConversationLayout
from msabench.nn.graph_convolution import GraphConvolution, RelationalConvolution, window_edges
from msabench.nn.packed import run_packed
from msabench.nn.text import TextInput
from msabench.nn.text_vector import TextVector


class ContextLSTM(nn.LSTM):
    """Two bidirectional layers along a conversation; ``(C, U, D)`` to ``(C, U, 2 hidden)``."""

    def __init__(self, features: int, hidden: int, dropout: float) -> None:
        super().__init__(features, hidden, num_layers=2, batch_first=True, bidirectional=True, dropout=dropout)

    def along(self, x: Tensor, lengths: Tensor, packed: bool) -> Tensor:
        """Read conversations of so many utterances, int64 ``(C,)``; into the padding unless packed."""
        return run_packed(self, x, lengths)[0] if packed else self(x)[0]


class GraphBranch(nn.Module):
    """One of the two graphs.

    Args:
        features: Features of a node.
        relations: Kinds of edges.
        hidden: Features of the graph convolutions.
        dropout: Dropout rate between the LSTM's layers.
        time_attention: Whether each utterance attends to the whole conversation afterwards.
    """

    def __init__(self, features: int, relations: int, hidden: int, dropout: float, time_attention: bool) -> None:
        super().__init__()
        width = features + hidden
        self.relational = RelationalConvolution(features, hidden, relations)
        self.convolution = GraphConvolution(hidden, hidden)
        self.lstm = ContextLSTM(width, width, dropout)
        self.query = nn.Linear(2 * width, 2 * width) if time_attention else None
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, relations: Tensor, mask: Tensor, packed: bool) -> Tensor:
        """Float ``(C, U, features)`` to ``(C, U, features + hidden)``.

        Args:
            x: The nodes.
            relations: bool ``(R, C, U, U)``, the edges of each kind, listener first.
            mask: bool ``(C, U)``, the utterances that exist.
            packed: Whether the LSTM stops at the end of each conversation.
        """
        y = self.convolution(self.relational(x, relations), relations.any(0))
        nodes = torch.cat([x, y], dim=2) * mask.unsqueeze(2)
        memory = self.lstm.along(nodes, mask.sum(1), packed)
        if self.query is not None:
            scores = torch.tanh(self.query(memory) @ memory.transpose(1, 2))
            memory = scores.masked_fill(~mask.unsqueeze(1), -torch.inf).softmax(2) @ memory
        return torch.relu(self.narrow(memory))


class ConversationEncoder(nn.Module):
    """From utterance vectors with gaps to H: everything before the two last layers.

    Args:
        features: Features of an utterance, all modalities side by side.
        hidden: Units of the first LSTM in each direction; the graph convolutions have half as many.
        window_past: Utterances before that hear one, see ``window_edges``; -1 for all.
        window_future: Utterances after that hear one; -1 for all.
        n_speakers: Number of speakers.
        dropout: Dropout rate between an LSTM's layers.
        time_attention: Whether each utterance attends to the whole conversation at the end.
        packed: Whether LSTMs stop at the end of each conversation.
        graphs: Which of ``temporal`` and ``speaker`` there are.

    Attributes:
        width: Features of H.
    """

    def __init__(
        self,
        features: int,
        hidden: int,
        *,
        window_past: int,
        window_future: int,
        n_speakers: int = 1,
        dropout: float = 0.5,
        time_attention: bool = False,
        packed: bool = True,
        graphs: tuple[str, ...] = ("temporal", "speaker"),
    ) -> None:
        super().__init__()
        self.windows = (window_past, window_future)
        self.n_speakers = n_speakers
        self.packed = packed
        self.width = 2 * hidden + hidden // 2
        self.lstm = ContextLSTM(features, hidden, dropout)
        relations = {"temporal": 3, "speaker": n_speakers**2}
        self.graphs = nn.ModuleDict(
            {graph: GraphBranch(2 * hidden, relations[graph], hidden // 2, dropout, time_attention) for graph in graphs}
        )

    def forward(self, x: Tensor, mask: Tensor, speakers: Tensor | None = None) -> Tensor:
        """Encode conversations.

        Args:
            x: float ``(C, U, features)``, 0 where nothing is.
            mask: bool ``(C, U)``, the utterances that exist: the first ones of each row, at least one.
            speakers: int64 ``(C, U)`` in [0, n_speakers), who speaks; None for a single speaker.

        Returns:
            H, float ``(C, U, width)``; at padding it means nothing.
        """
        encoded = self.lstm.along(x, mask.sum(1), self.packed)
        edges = window_edges(mask, *self.windows)
        if speakers is None:
            speakers = torch.zeros_like(mask, dtype=torch.int64)
        kinds = {"temporal": self._orders(edges), "speaker": self._pairs(edges, speakers)}
        return torch.stack(
            [branch(encoded, kinds[graph], mask, self.packed) for graph, branch in self.graphs.items()]
        ).sum(0)

    @staticmethod
    def _orders(edges: Tensor) -> Tensor:
        """Edges to what is past, now and in the future for the listener."""
        return torch.stack([edges.tril(-1), edges.tril() & edges.triu(), edges.triu(1)])

    def _pairs(self, edges: Tensor, speakers: Tensor) -> Tensor:
        """Edges of each pair (listener, speaker)."""
        pair = self.n_speakers * speakers.unsqueeze(2) + speakers.unsqueeze(1)
        return torch.stack([edges & (pair == kind) for kind in range(self.n_speakers**2)])


class GCNet(MSAMethod):
    """Completes and classifies utterances within their conversation. In training it reads ``batch.complete``.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``default``, ``wo_temporal``, ``wo_speaker`` or ``wo_reconstruction``.
        hidden: Units of the first LSTM in each direction, even; the graph convolutions have half as many.
        window_past: Utterances before that hear one, itself aside; -1 for all.
        window_future: Utterances after that hear one; -1 for all.
        time_attention: Whether each utterance attends to the whole conversation at the end.
        dropout: Dropout rate between an LSTM's layers.
        lambda_reconstruction: Weight >= 0 of the reconstruction loss.
        reconstruct: Whether ``missing`` vectors are rebuilt, or ``all``.
        recon_mask: ``aligned`` counts every clip in the reconstruction loss, ``official`` those that the official code
            happens to count, and padding.
        mask_padding: Whether LSTMs stop at the end of each conversation; predictions of the official False depend on
            the other conversations of a batch.
        context: Whether clips are read in their conversation; ``batch_size`` then counts conversations.
        text_vector: ``mean`` takes the mean over the text's observed words, ``first`` its first state ([CLS] of BERT).
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam.
        weight_decay: L2 weight decay of Adam, on all parameters.

    Raises:
        MSABenchError: An argument outside its range, or training on batches without a complete version.
    """

    info = MethodInfo(
        name="gcnet",
        title="GCNet: Graph Completion Network for Incomplete Multimodal Learning in Conversation",
        venue="TPAMI",
        year=2023,
        url="https://arxiv.org/abs/2203.02177",
        fidelity="parity",
        code_url="https://github.com/zeroQiaoba/GCNet",
        code_commit="8cce4a0",
        variants=("wo_temporal", "wo_speaker", "wo_reconstruction"),
        trains_with=("complete",),
        # On complete data nothing is missing, and the layer that rebuilds would learn nothing.
        smoke={"hidden": 8, "time_attention": True, "reconstruct": "all"},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        hidden: int = 200,
        window_past: int = 2,
        window_future: int = 2,
        time_attention: bool = False,
        dropout: float = 0.5,
        lambda_reconstruction: float = 1.0,
        reconstruct: Literal["missing", "all"] = "missing",
        recon_mask: Literal["aligned", "official"] = "aligned",
        mask_padding: bool = True,
        context: bool = True,
        text_vector: TextVector = "mean",
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 5e-5,
        lr: float = 1e-3,
        weight_decay: float = 1e-5,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="mse")
        if hidden < 2 or hidden % 2:
            raise MSABenchError(f"hidden {hidden} is not allowed; give a positive even number")
        if min(window_past, window_future) < -1:
            raise MSABenchError(
                f"windows of {window_past} and {window_future} utterances are not allowed; "
                "give at least 0, or -1 for all"
            )
        if reconstruct not in ("missing", "all"):
            raise one_of("reconstruct", reconstruct, ("missing", "all"))
        if recon_mask not in ("aligned", "official"):
            raise one_of("recon_mask", recon_mask, ("aligned", "official"))
        if text_vector not in ("first", "mean"):
            raise one_of("text_vector", text_vector, ("first", "mean"))
        self.lambda_reconstruction = lambda_reconstruction
        self.reconstruct = reconstruct
        self.recon_mask = recon_mask
        self.context = context
        self.text_vector = text_vector
        self.text_lr = text_lr
        self.text = TextInput(spec, text_encoder, finetune=finetune)
        self.widths = [self.text.width, spec.feature_dims["audio"], spec.feature_dims["vision"]]
        self.encoder = ConversationEncoder(
            sum(self.widths),
            hidden,
            window_past=window_past,
            window_future=window_future,
            dropout=dropout,
            time_attention=time_attention,
            packed=mask_padding,
            graphs=tuple(graph for graph in ("temporal", "speaker") if variant != f"wo_{graph}"),
        )
        self.predict = nn.Linear(self.encoder.width, self.n_outputs)
        self.rebuild = None if variant == "wo_reconstruction" else nn.Linear(self.encoder.width, sum(self.widths))

    @property
    def data_needs(self) -> Needs:
        """Whole conversations, where clips are read in their context."""
        return replace(super().data_needs, conversations=self.context)

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is H."""
        layout = ConversationLayout.of(batch, context=self.context)
        return self._predicted(layout.unpad(self._encode(batch, layout)))

    def training_forward(self, batch: Batch) -> Output:
        """Predict, and rebuild what is missing.

        Returns:
            ``aux`` holds ``rec``, float ``(B,)``: a clip's reconstruction error, summed over modalities, each divided
            by its number of features. Clips of a conversation share it evenly.
        """
        layout = ConversationLayout.of(batch, context=self.context)
        h = self._encode(batch, layout)
        out = self._predicted(layout.unpad(h))
        if self.rebuild is not None:
            complete = self.complete_of(batch)
            with torch.no_grad():
                target = layout.pad(self._vectors(complete))
            missing = layout.pad(self._to_rebuild(batch, complete))
            weights = layout.mask.to(h.dtype)
            if self.recon_mask == "official":
                weights = weights.T.reshape(layout.shape)  # conversation first, read as if it were time first
                share = layout.unpad(missing).mean(0)
                missing = torch.where(layout.mask.unsqueeze(2), missing, share)
            errors = weights.unsqueeze(2) * missing * self._errors(self.rebuild(h), target)
            out.aux["rec"] = (errors.sum((0, 2)) / layout.lengths)[layout.column]
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """Task and reconstruction, both averaged over clips."""
        assert batch.labels is not None
        terms = {"task": self.task_loss(out.pred, batch.labels)}
        if self.rebuild is not None:
            terms["rec"] = self.lambda_reconstruction * out.aux["rec"].mean()
        return terms

    def _vectors(self, batch: Batch) -> Tensor:
        """Each clip as one vector, modalities side by side: ``(B, sum of widths)``."""
        vectors = clip_vectors(batch, self.text(batch), self.text_vector)
        return torch.cat(list(vectors.values()), dim=1)

    def _encode(self, batch: Batch, layout: ConversationLayout) -> Tensor:
        """H of conversations, time first: ``(U, C, D)``."""
        padded = layout.pad(self._vectors(batch)).transpose(0, 1)
        return self.encoder(padded, layout.mask.T).transpose(0, 1)

    def _predicted(self, h: Tensor) -> Output:
        return Output(pred=self.to_pred(self.predict(h)), representation=h)

    def _to_rebuild(self, batch: Batch, complete: Batch) -> Tensor:
        """1 where a clip's modality is to be rebuilt, else 0: float ``(B, 3)``."""
        asked = []
        for m in MODALITIES:
            there = complete.observed[m]
            asked.append((there if self.reconstruct == "all" else there & ~batch.observed[m]).any(1))
        return torch.stack(asked, dim=1).float()

    def _errors(self, rebuilt: Tensor, target: Tensor) -> Tensor:
        """Mean squared error of each modality: ``(U, C, 3)``."""
        parts = torch.split((rebuilt - target) ** 2, self.widths, dim=2)
        return torch.stack([part.mean(2) for part in parts], dim=2)
