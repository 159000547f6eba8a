"""UMDF: A Unified Self-Distillation Framework for Multimodal Sentiment Analysis with Uncertain Missing Modalities.

Mingcheng Li, Dingkang Yang, Yuxuan Lei, Shunli Wang, Shuaibing Wang, Liuzhen Su, Kun Yang, Yuzheng Wang, Mingyang Sun,
Lihua Zhang. AAAI 2024, https://doi.org/10.1609/aaai.v38i9.28871. No official code could be found; written from the
paper's equations, whose numbers stand in the comments.

In training each clip comes in two versions a and b with different frames or modalities missing. One network encodes
both: a temporal convolution per modality, the multi-grained crossmodal interaction module (MCIM), which lets each
modality attend to all three and then to each pair, and a Transformer encoder. Self-distillation pulls the two encodings
and their predictions together. The dynamic feature integration module (DFIM) weighs the steps of each stream, gates the
two into one, and predicts from its last step. A test clip plays both versions; the gate then mixes a thing with itself,
so one stream gives the same prediction at half the cost, and that is what ``forward`` computes.

Notation: B clips, T steps of the common time axis, d channels of a modality (``dim``), G attentions side by side.

Deviations:
    Each is a choice on a point that the paper leaves open or where its parts disagree.

    1. MMD, (1)-(3): the paper calls (2) unbiased, but prints the biased V-statistic; (2) takes the sequences S_k and
       (3) the features h_k, averaging a quantity of the whole batch over its clips once more. We take the V-statistic
       over a batch's h_a and h_b: it cannot be negative, so lowering the loss never pushes the versions apart. On
       several devices it is over the global batch.
    2. MMD's kernel is unstated: a sum of five Gaussians with widths {1/4, 1/2, 1, 2, 4} times the median squared
       distance, a common choice.
    3. (5) has a slip in its brackets: the standard Jensen-Shannon divergence, with (4) as its two halves.
    4. f_y in (4)-(6) is not named among the trained parts. A predictor of its own would get no label and could agree
       by being constant; we share the final predictor, whose input has the same width. It is unstated too: two linear
       layers with a ReLU between them.
    5. Concatenating channels needs equal lengths. Aligned features are used as they are; of unaligned ones, the
       existing steps of audio and vision are interpolated onto those of the text after the convolution, before
       positions are added. The paper does not say how positions are coded: as in Vaswani et al. 2017, features are
       multiplied by sqrt(d) and a fixed sinusoidal code is added. Without the factor the code outweighs the few
       features of audio and vision, and what they carry is hardly learnt.
    6. "Kernel 3x3" of a one-dimensional convolution is read as kernel 3 with padding 1, for modalities and gate (10).
    7. "Matrix multiplication" of the scores with H_k would leave one vector, yet a convolution, a Transformer and a
       "last element" follow: we scale each step by its score, times the number of existing steps, so that equal scores
       change nothing and features do not shrink with the length. The scores' softmax is over existing steps only.
    8. Both streams share all weights, since versions are exchangeable: the data module draws them from a distribution
       that is symmetric in a and b, so which one is called a needs no draw of its own.
    9. "Neither of which is a zero vector": missing frames are zero at the input but not masked in attention, where the
       convolution's bias and the position remain; padding is masked. W_q, W_k, W_v have no bias, as printed in (7).
       Heads are joined by an output projection, as in Vaswani et al. 2017.
    10. How versions are drawn is up to the data module; its regime ``mixed`` is our reading of the paper.
    11. lambda_1, lambda_2, depth of the encoders, FFN width and dropout are unstated: 0.1, 0.1, 2, 4d, 0.1. Dropout
        acts where Vaswani et al. 2017 have it: on the sum of features and positions, and on the output of each
        attention and FFN. Sub-layers are post-norm as in (8), in the encoders too.
    12. IEMOCAP: four two-way outputs, one per emotion; cross-entropy and Jensen-Shannon terms are summed over emotions.
    13. "Last element" is the last step that exists in the clip, in a modality that was not removed; padding follows it
        in most files. With padded versions of different length, the fused sequence has the longer one.
    14. The D layers of MCIM are unstated: in each, all three targets are updated at once from that layer's inputs,
        with weights of their own per target, attention and layer.
    15. Ablations: ``wo_fea_loss`` and ``wo_logits_loss`` drop their term; ``wo_mcim`` replaces each crossmodal
        attention by self-attention of its target; ``wo_dfim`` replaces weighing and gate by a linear map of the two
        streams' channels.
    16. The paper states GloVe text vectors; with files of the MMSA family the text is precomputed BERT states.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch, stacked
from msabench.data.info import EMOTIONS, DataSpec
from msabench.errors import MSABenchError
from msabench.losses.alignment import mmd2
from msabench.losses.distillation import js_divergence
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.common_axis import common_axis, onto_axis
from msabench.nn.positions import SinusoidalPositions

# The two pairs that each target attends to in (9): la, lv for l; al, av for a; vl, va for v.
_PAIRS = ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))


class _Linear(nn.Module):
    """G linear maps side by side: one matrix product instead of G. ``(G, ..., d_in)`` to ``(G, ..., d_out)``."""

    def __init__(self, groups: int, d_in: int, d_out: int, bias: bool = True) -> None:
        super().__init__()
        bound = d_in**-0.5  # as torch.nn.Linear
        self.weight = nn.Parameter(torch.empty(groups, d_in, d_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(groups, 1, d_out).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1, -2)
        out = torch.bmm(rows, self.weight) if self.bias is None else torch.baddbmm(self.bias, rows, self.weight)
        return out.unflatten(1, x.shape[1:-1])


class _AddNorm(nn.Module):
    """G layer normalisations of a residual sum, ``LN(branch + x)``, with dropout on the branch."""

    def __init__(self, groups: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(groups, 1, 1, dim))
        self.bias = nn.Parameter(torch.zeros(groups, 1, 1, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, branch: Tensor, x: Tensor) -> Tensor:
        normed = F.layer_norm(self.dropout(branch) + x, x.shape[-1:])
        return torch.addcmul(self.bias, normed, self.weight)


class _Attention(nn.Module):
    """G multi-head attentions ``CA(s, t) = softmax((t W_q)(s W_k)^T / sqrt(d_k)) (s W_v)``, (7)."""

    def __init__(self, groups: int, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = _Linear(groups, dim, dim, bias=False)
        self.key_value = _Linear(groups, dim, 2 * dim, bias=False)
        self.out = _Linear(groups, dim, dim)

    def forward(self, source: Tensor, target: Tensor, keys: Tensor) -> Tensor:
        """Attend from targets ``(G, B, T, d)`` to sources ``(G, B, S, d)`` where bool ``(G, B, S)`` keys are True."""
        G, B, T, d = target.shape
        S = source.shape[2]
        q = self.query(target).view(G * B, T, self.heads, -1).transpose(1, 2)
        k, v = self.key_value(source).view(G * B, S, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=keys.reshape(G * B, 1, 1, S))
        return self.out(mixed.transpose(1, 2).reshape(G, B, T, d))


class _FeedForward(nn.Module):
    """G two-layer perceptrons of hidden width 4d, applied to every step."""

    def __init__(self, groups: int, dim: int) -> None:
        super().__init__()
        self.widen = _Linear(groups, dim, 4 * dim)
        self.narrow = _Linear(groups, 4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(torch.relu(self.widen(x)))


class _InteractionLayer(nn.Module):
    """One of the D layers of MCIM, for the targets l, a, v at once."""

    def __init__(self, dim: int, heads: int, dropout: float, cross: bool) -> None:
        super().__init__()
        self.cross = cross
        self.attend_all = _Attention(3, dim, heads)
        self.norm_all = _AddNorm(3, dim, dropout)
        self.attend_pair = _Attention(len(_PAIRS), dim, heads)
        self.norm_pair = _AddNorm(len(_PAIRS), dim, dropout)
        self.feed_forward = _FeedForward(3, dim)
        self.norm_out = _AddNorm(3, dim, dropout)

    def forward(self, z: Tensor, keys: Tensor) -> Tensor:
        """Map ``(3, B, T, d)`` to the same shape; bool ``(3, B, T)`` keys say which steps may be attended to."""
        targets, partners = map(list, zip(*_PAIRS, strict=True))
        if self.cross:
            everything = torch.cat(z.unbind(), dim=1).expand(3, -1, -1, -1)
            every_key = torch.cat(keys.unbind(), dim=1).expand(3, -1, -1)
            z_coarse = self.norm_all(self.attend_all(everything, z, every_key), z)  # (8)
            target = z_coarse.repeat_interleave(2, dim=0)
            pairs = torch.cat([z[targets], z[partners]], dim=2)
            pair_keys = torch.cat([keys[targets], keys[partners]], dim=2)
            fine = self.norm_pair(self.attend_pair(pairs, target, pair_keys), target)  # (9), its two terms
        else:
            z_coarse = self.norm_all(self.attend_all(z, z, keys), z)
            target = z_coarse.repeat_interleave(2, dim=0)
            fine = self.norm_pair(self.attend_pair(target, target, keys[targets]), target)
        z_fine = fine.unflatten(0, (3, 2)).sum(1)  # (9), their sum
        return self.norm_out(self.feed_forward(z_fine), z_fine)


class _Encoder(nn.Module):
    """A Transformer encoder with post-norm layers: ``(B, T, D)`` to ``(B, T, D)``."""

    def __init__(self, dim: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(_Attention(1, dim, heads) for _ in range(layers))
        self.feed_forwards = nn.ModuleList(_FeedForward(1, dim) for _ in range(layers))
        self.norms = nn.ModuleList(_AddNorm(1, dim, dropout) for _ in range(2 * layers))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        x, valid = x.unsqueeze(0), valid.unsqueeze(0)
        norms = iter(self.norms)
        for attention, feed_forward in zip(self.attentions, self.feed_forwards, strict=True):
            x = next(norms)(attention(x, x, valid), x)
            x = next(norms)(feed_forward(x), x)
        return x.squeeze(0)


class _Integration(nn.Module):
    """DFIM up to the fused sequence: step scores, gate (10), mixture (11)."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1, bias=False)  # a bias would cancel in the softmax
        self.gate = nn.Conv1d(2 * dim, dim, kernel_size, padding=kernel_size // 2)

    def weigh(self, h: Tensor, valid: Tensor) -> Tensor:
        """Scale each step of ``(B, T, D)`` by its share of attention; steps that do not exist become 0."""
        scores = self.score(h).squeeze(2).masked_fill(~valid, -torch.inf).softmax(dim=1)
        return (scores * valid.sum(1, keepdim=True)).unsqueeze(2) * h

    def forward(self, h_a: Tensor, valid_a: Tensor, h_b: Tensor, valid_b: Tensor) -> Tensor:
        """Fuse two streams ``(B, T, D)`` into one."""
        a, b = self.weigh(h_a, valid_a), self.weigh(h_b, valid_b)
        mu = torch.sigmoid(self.gate(torch.cat([a, b], dim=2).transpose(1, 2))).transpose(1, 2)  # (10)
        return mu * a + (1 - mu) * b  # (11)


class _Concatenation(nn.Module):
    """What stands in for DFIM's fusion in ``wo_dfim``: a linear map of both streams' channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.merge = nn.Linear(2 * dim, dim)

    def forward(self, h_a: Tensor, valid_a: Tensor, h_b: Tensor, valid_b: Tensor) -> Tensor:
        """Fuse two streams ``(B, T, D)`` into one."""
        return self.merge(torch.cat([h_a, h_b], dim=2))


class UMDF(MSAMethod):
    """UMDF, see the module's docstring. It trains on ``batch.views``.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``default``, ``wo_fea_loss``, ``wo_logits_loss``, ``wo_mcim`` or ``wo_dfim`` (the paper's Table 3).
        dim: Channels d of a modality; a multiple of ``heads``.
        heads: Heads of every attention.
        layers: Depth D of MCIM, at least 1.
        encoder_layers: Depth of each of the two Transformer encoders, at least 1.
        kernel_size: Steps that the modality convolutions and the gate see; odd.
        dropout: Dropout rate in [0, 1).
        lambda_fea: Weight lambda_1 >= 0 of the feature distillation (MMD).
        lambda_logits: Weight lambda_2 >= 0 of the logits distillation (Jensen-Shannon, or MSE of scores).
        lr: Learning rate of Adam.
        weight_decay: L2 weight decay of Adam.
        lr_patience: Epochs without a better ``val/task`` before the learning rate is divided by 10; None, as in the
            paper, which states no schedule, keeps it constant.

    Raises:
        MSABenchError: An argument outside its range, or training on batches without views.
    """

    info = MethodInfo(
        name="umdf",
        title="A Unified Self-Distillation Framework for Multimodal Sentiment Analysis "
        "with Uncertain Missing Modalities",
        venue="AAAI",
        year=2024,
        url="https://doi.org/10.1609/aaai.v38i9.28871",
        fidelity="equations",
        variants=("wo_fea_loss", "wo_logits_loss", "wo_mcim", "wo_dfim"),
        trains_with=("views",),
        smoke={"dim": 8, "heads": 2, "layers": 1, "encoder_layers": 1},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        dim: int = 40,
        heads: int = 10,
        layers: int = 4,
        encoder_layers: int = 2,
        kernel_size: int = 3,
        dropout: float = 0.1,
        lambda_fea: float = 0.1,
        lambda_logits: float = 0.1,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        lr_patience: int | None = None,
    ) -> None:
        super().__init__(
            spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="mse", lr_patience=lr_patience
        )
        if heads < 1 or dim < 1 or dim % heads:
            raise MSABenchError(
                f"dim {dim} with {heads} heads is not allowed; dim must be a positive multiple of heads"
            )
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise MSABenchError(f"kernel_size {kernel_size} is not allowed; give a positive odd number")
        if min(layers, encoder_layers) < 1:
            raise MSABenchError(f"layers {layers} and encoder_layers {encoder_layers} must both be at least 1")
        self.dim = dim
        self.lambda_fea = lambda_fea
        self.lambda_logits = lambda_logits
        self.convolutions = nn.ModuleDict(
            {m: nn.Conv1d(spec.feature_dims[m], dim, kernel_size, padding=kernel_size // 2) for m in MODALITIES}
        )
        self.positions = SinusoidalPositions(dim, spec.seq_lens["text"])
        self.dropout = nn.Dropout(dropout)
        cross = variant != "wo_mcim"
        self.interaction = nn.ModuleList(_InteractionLayer(dim, heads, dropout, cross) for _ in range(layers))
        self.encoder = _Encoder(3 * dim, heads, encoder_layers, dropout)
        self.fusion = _Concatenation(3 * dim) if variant == "wo_dfim" else _Integration(3 * dim, kernel_size)
        self.fused_encoder = _Encoder(3 * dim, heads, encoder_layers, dropout)
        self.predictor = nn.Sequential(nn.Linear(3 * dim, 3 * dim), nn.ReLU(), nn.Linear(3 * dim, self.n_outputs))

    def forward(self, batch: Batch) -> Output:
        """Predict from one stream: with a clip in both, ``mu x + (1 - mu) x = x`` in (11), whatever the gate says."""
        h, valid, last = self._encode(batch)
        if isinstance(self.fusion, _Integration):
            fused = self.fusion.weigh(h, valid)
        else:
            fused = self.fusion(h, valid, h, valid)
        return self._predict(fused, valid, last)

    def training_forward(self, batch: Batch) -> Output:
        """Encode both versions as one batch of 2B, and predict from their fusion.

        Returns:
            ``aux`` holds the last elements ``h_a``, ``h_b`` ``(B, 3d)`` and their predictions ``f_a``, ``f_b``,
            shaped like ``pred``.
        """
        a, b = self.views_of(batch)
        h, valid, last = self._encode(stacked(a, b))
        h_last = _at(h, last)
        (h_a, h_b), (valid_a, valid_b) = h.chunk(2), valid.chunk(2)
        out = self._predict(self.fusion(h_a, valid_a, h_b, valid_b), valid_a | valid_b, torch.maximum(*last.chunk(2)))
        f_a, f_b = self.to_pred(self.predictor(h_last)).chunk(2)
        last_a, last_b = h_last.chunk(2)
        out.aux = {"h_a": last_a, "h_b": last_b, "f_a": f_a, "f_b": f_b}
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """``L_task + lambda_1 L_fea + lambda_2 L_logits``, weighted."""
        assert batch.labels is not None
        emotions = self.spec.task == "emotions"
        # The base averages cross-entropy over emotions; the paper has one loss per emotion.
        terms = {"task": self.task_loss(out.pred, batch.labels) * (len(EMOTIONS) if emotions else 1)}
        if self.variant != "wo_fea_loss":
            terms["fea"] = self.lambda_fea * mmd2(out.aux["h_a"], out.aux["h_b"])  # (1)-(3)
        if self.variant != "wo_logits_loss":
            distance = js_divergence if emotions else F.mse_loss  # (4)-(5), (6)
            terms["logits"] = self.lambda_logits * distance(out.aux["f_a"], out.aux["f_b"])
        return terms

    def _encode(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The multimodal sequence H ``(B, T, 3d)``, its existing steps ``(B, T)`` and the last of them ``(B,)``."""
        axis = common_axis(batch)
        streams = []
        for m in MODALITIES:
            x = self.convolutions[m](batch.features[m].transpose(1, 2)).transpose(1, 2)
            if x.shape[1] != axis.valid.shape[1]:
                x = onto_axis(x, batch.valid[m], axis.valid)
            streams.append(x)
        z = self.dropout(self.positions(self.dim**0.5 * torch.stack(streams)))
        keys = torch.stack([axis.keys[m] for m in MODALITIES])
        for layer in self.interaction:
            z = layer(z, keys)
        return self.encoder(torch.cat(z.unbind(), dim=2), axis.valid), axis.valid, axis.last

    def _predict(self, fused: Tensor, valid: Tensor, last: Tensor) -> Output:
        representation = _at(self.fused_encoder(fused, valid), last)
        return Output(pred=self.to_pred(self.predictor(representation)), representation=representation)


def _at(x: Tensor, step: Tensor) -> Tensor:
    """One step of each sequence: ``(B, T, D)`` and int64 ``(B,)`` to ``(B, D)``."""
    return x[torch.arange(len(x), device=x.device), step]
