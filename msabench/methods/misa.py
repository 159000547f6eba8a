"""MISA: Modality-Invariant and -Specific Representations for Multimodal Sentiment Analysis.

Devamanyu Hazarika, Roger Zimmermann, Soujanya Poria. ACM Multimedia 2020,
https://doi.org/10.1145/3394171.3413678.
Official code: https://github.com/declare-lab/MISA at ec42fad, MIT licence; port: https://github.com/thuiar/MMSA at
a94e65d. Both are the same network; they differ in what they feed it and in how they train it.

Each modality becomes one vector o_m of width h. A private layer of its own and a layer shared by all three split it
into p_m and s_m. Four things are asked of them: the shared codes have the same distribution (CMD, or a discriminator
that cannot tell their modality), private codes are orthogonal to the shared one and to each other, both together
reconstruct o_m, and a Transformer over the six codes predicts the score.

Deviations:
    1. The official code also builds a discriminator of shared and private codes, whose output enters no loss, and a
       text LayerNorm that is never called; we build neither.
    2. The root in CMD has no gradient at 0, which a batch of one clip makes NaN in the official code; here it is 0.
    3. ``lengths: text``, the default, is MMSA's: audio and vision are read for as many steps as the text has, of
       unaligned files only the beginning. The official code reads word-aligned files, for which that is right; ``own``
       reads each modality to its own last step. A removed text has the full length, and so do the others then.
    4. Recurrent weights keep PyTorch's initialisation, as in MMSA; the official code makes them orthogonal.
    5. The text encoder is frozen or trained as a whole. The official code freezes layers 0 to 8 for MOSEI.
    6. Text may come as precomputed states, which MMSA's files have from the BERT that it would fine-tune.
    7. IEMOCAP: cross-entropy on four two-way outputs; neither code has this task.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError, one_of
from msabench.losses.moments import central_moment_discrepancy
from msabench.losses.orthogonality import orthogonality
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.nn.gradient_reversal import reverse_gradient
from msabench.nn.packed import final_states, run_packed
from msabench.nn.text import TextInput
from msabench.nn.text_vector import text_vector

# The order of the codes in the official code, and of everything that is stacked over modalities here.
_ORDER = ("text", "vision", "audio")
_PAIRS = ((0, 1), (0, 2), (1, 2))
_HEADS = 2
_LENGTHS = ("text", "own")


class _SequenceVector(nn.Module):
    """Two bidirectional LSTMs with LayerNorm between them; the final states of both, ``(B, T, D)`` to ``(B, 4 D)``."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.rnn1 = nn.LSTM(features, features, bidirectional=True, batch_first=True)
        self.norm = nn.LayerNorm(2 * features)
        self.rnn2 = nn.LSTM(2 * features, features, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        states, first = run_packed(self.rnn1, x, lengths)
        second = final_states(self.rnn2, self.norm(states), lengths)
        # The official order: forward of both networks, then backward of both.
        return torch.cat([first.unflatten(1, (2, -1)), second.unflatten(1, (2, -1))], dim=2).flatten(1)


class MISA(MSAMethod):
    """Splits each modality into what it shares with the others and what it has alone.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``adversarial`` replaces CMD by a modality discriminator behind a gradient reversal.
        hidden: Width h of all codes; even.
        dropout: Dropout in the output block and the discriminator.
        lengths: Steps of audio and vision that are read: as many as the ``text`` has, or each to its ``own`` last.
        lambda_similarity: Weight >= 0 of the similarity loss, CMD or the discriminator's.
        lambda_difference: Weight >= 0 of the difference loss.
        lambda_reconstruction: Weight >= 0 of the reconstruction loss.
        reverse_weight: Factor on the discriminator's reversed gradient; of variant ``adversarial``.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder; both codes use the same for everything.
        lr: Learning rate of Adam.
        gradient_clip: Largest size of a gradient's entry; None for no limit.
        accumulate: Batches summed before a step; 2 in MMSA, 1 in the official code.

    Raises:
        MSABenchError: ``hidden`` is odd or ``lengths`` unknown.
    """

    info = MethodInfo(
        name="misa",
        title="Modality-Invariant and -Specific Representations for Multimodal Sentiment Analysis",
        venue="ACM MM",
        year=2020,
        url="https://doi.org/10.1145/3394171.3413678",
        fidelity="parity",
        code_url="https://github.com/declare-lab/MISA",
        code_commit="ec42fad",
        licence="MIT",
        variants=("adversarial",),
        smoke={"hidden": 8, "dropout": 0.1},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        hidden: int = 128,
        dropout: float = 0.5,
        lengths: Literal["text", "own"] = "text",
        lambda_similarity: float = 1.0,
        lambda_difference: float = 0.3,
        lambda_reconstruction: float = 1.0,
        reverse_weight: float = 1.0,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 1e-4,
        lr: float = 1e-4,
        gradient_clip: float | None = 1.0,
        accumulate: int = 1,
    ) -> None:
        super().__init__(
            spec,
            variant=variant,
            lr=lr,
            task_loss="mse",
            gradient_clip=gradient_clip,
            clip_by="value",
            accumulate=accumulate,
        )
        if hidden % _HEADS:
            raise MSABenchError(f"hidden {hidden} is not allowed: the fusion has {_HEADS} heads; give an even width")
        if lengths not in _LENGTHS:
            raise one_of("lengths", lengths, _LENGTHS)
        self.lengths = lengths
        self.lambda_similarity = lambda_similarity
        self.lambda_difference = lambda_difference
        self.lambda_reconstruction = lambda_reconstruction
        self.reverse_weight = reverse_weight
        self.text_lr = text_lr

        self.text = TextInput(spec, text_encoder, finetune=finetune)
        self.sequence = nn.ModuleDict({m: _SequenceVector(spec.feature_dims[m]) for m in ("audio", "vision")})
        widths = {m: self.text.width if m == "text" else 4 * spec.feature_dims[m] for m in _ORDER}
        self.project = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(widths[m], hidden), nn.ReLU(), nn.LayerNorm(hidden)) for m in _ORDER}
        )
        self.private = nn.ModuleDict({m: nn.Linear(hidden, hidden) for m in _ORDER})
        self.shared = nn.Linear(hidden, hidden)
        self.reconstruct = nn.ModuleDict({m: nn.Linear(hidden, hidden) for m in _ORDER})
        if variant == "adversarial":
            self.discriminator = nn.Sequential(
                nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, len(_ORDER))
            )
        self.fuse = nn.TransformerEncoderLayer(hidden, _HEADS, batch_first=True)
        self.predict = nn.Sequential(
            nn.Linear(6 * hidden, 3 * hidden), nn.Dropout(dropout), nn.ReLU(), nn.Linear(3 * hidden, self.n_outputs)
        )

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the fused six codes ``(B, 6 h)``.

        Returns:
            ``aux`` holds ``original`` o, ``private`` p, ``shared`` s and ``reconstructed``, each ``(B, 3, h)`` in the
            order text, vision, audio.
        """
        vectors = self._vectors(batch)
        original = torch.stack([self.project[m](vectors[m]) for m in _ORDER], dim=1)
        private = torch.stack([self.private[m](original[:, i]) for i, m in enumerate(_ORDER)], dim=1).sigmoid()
        shared = self.shared(original).sigmoid()
        both = private + shared
        reconstructed = torch.stack([self.reconstruct[m](both[:, i]) for i, m in enumerate(_ORDER)], dim=1)
        fused = self.fuse(torch.cat([private, shared], dim=1)).flatten(1)
        return Output(
            pred=self.to_pred(self.predict(fused)),
            representation=fused.detach(),
            aux={"original": original, "private": private, "shared": shared, "reconstructed": reconstructed},
        )

    def training_forward(self, batch: Batch) -> Output:
        """With the discriminator's guess at the modality of each shared code, logits ``domain`` ``(B, 3, 3)``."""
        out = self(batch)
        if self.variant == "adversarial":
            out.aux["domain"] = self.discriminator(reverse_gradient(out.aux["shared"], self.reverse_weight))
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """``L_task + w_sim L_sim + w_diff L_diff + w_recon L_recon``, weighted."""
        assert batch.labels is not None
        private, shared = out.aux["private"].unbind(1), out.aux["shared"].unbind(1)
        if self.variant == "adversarial":
            logits = out.aux["domain"]
            modality = torch.arange(len(_ORDER), device=logits.device).repeat(len(logits))
            similarity = F.cross_entropy(logits.flatten(0, 1), modality)
        else:
            similarity = _sum(central_moment_discrepancy(shared[i], shared[j]) for i, j in _PAIRS) / len(_PAIRS)
        difference = _sum(orthogonality(p, s) for p, s in zip(private, shared, strict=True))
        difference = difference + _sum(orthogonality(private[i], private[j]) for i, j in _PAIRS)
        return {
            "task": self.task_loss(out.pred, batch.labels),
            "sim": self.lambda_similarity * similarity,
            "diff": self.lambda_difference * difference,
            # The target gets gradient too.
            "recon": self.lambda_reconstruction * F.mse_loss(out.aux["reconstructed"], out.aux["original"]),
        }

    def _vectors(self, batch: Batch) -> dict[str, Tensor]:
        """One vector for each modality, ``(B, D_m)``: the text's mean, and final states of the others."""
        vectors = {"text": text_vector(self.text(batch), batch.valid["text"], "mean")}
        for m, network in self.sequence.items():
            steps = batch.last["text" if self.lengths == "text" else m] + 1
            vectors[m] = network(batch.features[m], steps.clamp(max=batch.features[m].shape[1]))
        return vectors


def _sum(terms: Any) -> Tensor:
    return torch.stack(list(terms)).sum()
