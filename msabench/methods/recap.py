"""RECAP: Recovering Coherent Affective Patterns: Addressing Modality Missing in Multimodal Sentiment Analysis.

Huiting Huang, Tieliang Gong, Kai He, Wen Wen, Weizhan Zhang, Mengling Feng. AAAI 2026,
https://ojs.aaai.org/index.php/AAAI/article/view/39349. Official code: https://github.com/Taylor-HHT/RECAP-MSA at
07226389, no licence stated; read for facts, nothing copied. It builds on LNLN, whose embedding and corruption it uses.

Each modality, corrupted, is embedded as 8 tokens. Stage ``completion`` needs no labels: a generator per modality turns
the embedding h into completed features X'. It learns from three sides. H-CAG: cut into 8, 4 and 2 segments, each
segment has to let the generator make the next one, so that a discriminator takes it for real. FID: mutual information
between modalities, and between X' and the embedding X of the complete clip, is factorised into a shared and two unique
parts, which critics estimate. And a reconstructor has to find X in X'. Stage ``task`` freezes the generators. MIR
weighs the modalities by attention, one weight per modality, and ranks the weights by how well each modality alone
predicts the label. A test clip passes embedding, generators and attention; no label is read.

Notation: B clips, K tokens, D features of a token (``dim``); l, a, v are text, audio, vision.

Deviations:
    Each is a choice on a point that the paper leaves open, or where paper and released code disagree or fail. What the
    code does instead is variant ``code``; what precisely it switches is said at the end.

    1. The code adds L_gen and L_disc and takes one step for all parameters: the discriminator, too, learns to call
       generated segments real. Here critics, discriminators, and generators with all else take turns in every batch,
       a step each, the others' weights frozen. The discriminator sees detached segments.
    2. The weight (2) is a cosine per clip and pair of segments, averaged over the segments' tokens, and constant to
       the gradient. In the code it is averaged over the batch too and passes gradients, so that neighbours can be
       made dissimilar to escape (3).
    3. The discriminator is a Transformer of 2 layers and 8 heads, as the paper says; in the code a perceptron on each
       token (variant ``mlp_discriminator``). Its end is unstated: a LayerNorm, the mean over tokens, a linear map.
       Without the LayerNorm, logits grow with the features, and embeddings with them: 20-fold in 240 steps on synth.
    4. CLUB is an upper bound only with a critic fitted to the density ratio. The code trains the critic, too, to
       lower CLUB, which has no lower bound; hence its floors of -5 per pair (and -3 for H-CAG, which is a sum of
       cross-entropies and never negative). As in FactorCL, from which the critics come, all six are fitted by a step
       of their own on InfoNCE, and are frozen in L_FID. There is no floor: four InfoNCE terms of a pair may
       legitimately reach -4 log B = -17 at 64 clips, where a floor of -5 would stop all learning.
    5. (9) prints the same arguments under both expectations. The second is meant over the product of marginals: all
       B x B pairs of the batch.
    6. The first terms of (8) and (10) are between X'_1 and X'_2, as printed; the code takes X_1 and X_2, which gives
       the generators nothing.
    7. (11) with (10) counts CLUB(X'_1; X'_2) and the conditional InfoNCE twice per pair, once in each unique part; we
       count them once, as do code and FactorCL. +CLUB and -InfoNCE of the same pair nearly cancel by design.
    8. Critics: perceptrons of two hidden layers of 2048 on concatenated features of 8 x 128, each side after a
       two-layer head, as in the code. A condition is concatenated on both sides: [z(X_1), z(X'_1)] against
       [z(X_2), z(X'_2)]. One set of critics serves all three pairs, as in the code: it sees which modalities it is
       given. FID is estimated in the batch; the last, smaller one is kept, since no clip is ever left out here.
       Unlike in the code, every feature is first standardised over the batch, which leaves mutual information as it
       is. Embeddings differ between clips by a tenth of what they share (tokens and positions), and critics that see
       them as they are do not learn: on synth all estimates stayed at 0, so that L_FID did nothing.
    9. The reconstructor reads X', (12); in the code it reads h, so that it tells the generator nothing. The target
       is constant to the gradient, or embeddings could shrink to meet it. (13) is a mean over modalities, clips,
       tokens and features, for which the code's weight .1 is meant.
    10. Embeddings and generators are handed to stage ``task`` as they are after the last epoch of ``completion``. The
       code hands over the generators of the epoch with the lowest training loss, and starts stage two with new
       embeddings, which these generators have never seen.
    11. L_MI, the error of the unimodal predictors g_m, is in no total loss of paper or code; in the code these are
       never trained and (15) ranks by noise. We add their error, summed over modalities with weight 1, on features
       constant to the gradient. They predict from every token, as in the code; the error is averaged over tokens.
    12. (15) as printed. The code calls ``margin_ranking_loss`` with targets 1 and 0 for its +1 and -1, so that half
       of the pairs only add the margin, and averages over the six ordered pairs.
    13. MOSEI's generator is said to start from ImageBind. The released code has the same small one for all corpora,
       and ImageBind's width does not fit; we use the small one everywhere.
    14. Real segments, and the inputs they follow, are cut from the embedding of the corrupted clip, in text and code;
       elsewhere the paper says that this stage sees complete clips only. Variant ``real_complete`` takes the real next
       segments, in (2) and (5), from X.
    15. w_l, w_a, w_v, all lambdas, the margin and the sizes are unstated; they are the code's. Layers have no
       dropout, as there; BERT keeps its own. Padding is not masked: it is zero, like what is missing, and where a
       BERT reads the text it is what BERT gives there, as in LNLN. Nothing normalises the means in (16), as there;
       where features have grown in stage ``completion``, the weights start saturated, and a modality that begins near
       weight 0 is slow to be heard.
    16. The learning rate rises over 20 epochs and falls along a cosine, in each stage, as in LNLN. The code selects
       the best test epoch for every metric; here stage ``task`` is selected by validation, stage ``completion`` not.
    17. Ablations (Table 3): ``wo_hcag`` drops L_HCAG; ``wo_reconstructor`` L_rec; ``wo_fid`` L_FID, ``wo_fid_lv``,
       ``wo_fid_la``, ``wo_fid_av`` one pair of it, ``wo_fid_shared`` (8), ``wo_fid_unique`` (10) with what it shares
       between the two modalities; ``wo_mir`` weighs modalities equally and needs neither predictors nor ranking.

    Variant ``code`` has one optimiser for all of stage ``completion``; weights (2) averaged over the batch, with
    gradient; the discriminator on tokens, with gradients into real segments; X_1, X_2 in the first terms of FID;
    critics inside the loss, on features as they are, floored at -5 per pair; the reconstructor on h with a target
    that passes gradients; new embeddings (and text encoder) for stage ``task``; predictors that stay untrained; its
    ranking loss. It keeps validation's selection and the hand-over after the last epoch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch, stacked
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.losses.information import club, infonce
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.methods.schedules import warmup_cosine
from msabench.missingness.conditions import MODALITIES
from msabench.nn.clip_tokens import ClipTokens
from msabench.nn.critics import PairCritic, standardise
from msabench.nn.text import TextInput, parameter_groups
from msabench.nn.token_transformer import TokenTransformer

# w_l, w_a, w_v of (7), from the official code.
_ADVERSARIAL_WEIGHTS = {"text": 0.5, "audio": 0.2, "vision": 0.3}
_PAIRS = {"lv": ("text", "vision"), "la": ("text", "audio"), "av": ("vision", "audio")}
# Estimates in (8) and (10), each with a critic of its own.
_SHARED = ("nce_pair", "club_given")
_UNIQUE = ("nce_first", "nce_second", "club_pair", "nce_given")
_FLOOR = -5.0  # of a pair's L_FID in the official code


class _SegmentDiscriminator(nn.Module):
    """Logit that a segment ``(N, s, D)`` is real: ``(N, 1)``."""

    def __init__(self, dim: int, steps: int, **sizes: int) -> None:
        super().__init__()
        self.transformer = TokenTransformer(dim, steps, **sizes)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 1)

    def forward(self, segment: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.transformer(segment)).mean(1))
        return logits


class _TokenDiscriminator(nn.Module):
    """Logits that the tokens of a segment ``(N, s, D)`` are real, each by itself: ``(N, s)``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, dim // 2), nn.ReLU(), nn.Linear(dim // 2, 1))

    def forward(self, segment: Tensor) -> Tensor:
        logits: Tensor = self.layers(segment).squeeze(2)
        return logits


class _Critics(nn.Module):
    """The critics of FID: scores f of all pairs of a batch, for every estimate in (8) and (10).

    Args:
        features: Features of a flattened modality, K x D.
        hidden: Width of the critics.
        estimates: Which of the six are asked for.
    """

    def __init__(self, features: int, hidden: int, estimates: tuple[str, ...]) -> None:
        super().__init__()
        self.estimates = estimates
        self.heads = nn.ModuleDict()
        self.critics = nn.ModuleDict()
        for name in estimates:
            # Within one modality both sides share a head.
            sides = 1 if name in ("nce_first", "nce_second") else 2
            self.heads[name] = nn.ModuleList(
                nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, features))
                for _ in range(sides)
            )
            width = 2 * features if name.endswith("given") else features
            self.critics[name] = PairCritic(width, width, hidden)

    def forward(self, x1: Tensor, x2: Tensor, g1: Tensor, g2: Tensor, *, first: str) -> dict[str, Tensor]:
        """Score all pairs of clips.

        Args:
            x1: Complete embeddings X_1, float ``(P, B, K D)`` for P pairs of modalities.
            x2: X_2, likewise.
            g1: Generated features X'_1, likewise.
            g2: X'_2, likewise.
            first: Whether the estimates between modalities are of ``generated`` or ``complete`` features.

        Returns:
            Estimate -> float ``(P, B, B)``.
        """
        pair = (g1, g2) if first == "generated" else (x1, x2)
        sides = {
            "nce_pair": ((pair[0],), (pair[1],)),
            "club_pair": ((pair[0],), (pair[1],)),
            "nce_first": ((x1,), (g1,)),
            "nce_second": ((x2,), (g2,)),
            "nce_given": ((x1, g1), (x2, g2)),
            "club_given": ((x1, g1), (x2, g2)),
        }
        scores = {}
        for name in self.estimates:
            heads = list(self.heads[name].children())
            x, y = (
                torch.cat([head(part) for part in parts], dim=2)
                for head, parts in zip((heads[0], heads[-1]), sides[name], strict=True)
            )
            scores[name] = self.critics[name](x, y)
        return scores


class RECAP(MSAMethod):
    """RECAP, see the module's docstring. It trains on ``batch.complete`` beside the corrupted clips.

    For figures that compare generated with real features, the ``aux`` of ``forward`` holds, for each modality m,
    ``embedded_m`` (h, or X if the clips are complete) and ``generated_m`` (X'), both ``(B, K, D)``, and the modalities'
    weights ``alpha`` ``(B, 3)`` in the order text, audio, vision. ``representation`` is f of (17).

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``default``; of the paper's Table 3 ``wo_hcag``, ``wo_fid``, ``wo_fid_lv``, ``wo_fid_la``,
            ``wo_fid_av``, ``wo_fid_shared``, ``wo_fid_unique``, ``wo_reconstructor``, ``wo_mir``; or ``code``,
            ``real_complete``, ``mlp_discriminator``.
        completion_epochs: Epochs of stage ``completion``, at least 1; the trainer's other epochs are stage ``task``.
        warmup: Epochs over which the learning rate rises, in each stage.
        dim: Features D of a token.
        tokens: Tokens K of a modality.
        segments: Numbers of segments that K tokens are cut into; each at least 2 and a divisor of K.
        layers: Layers of every Transformer.
        heads: Heads of every Transformer but the predictors'.
        predictor_heads: Heads of the unimodal predictors.
        dim_head: Features of a head.
        critic_width: Width of the critics.
        predictor_dropout: Dropout rate in [0, 1) in the heads of the unimodal predictors.
        lambda_adversarial: Weight >= 0 of L_HCAG.
        lambda_fid: Weight >= 0 of L_FID.
        lambda_reconstruction: Weight >= 0 of L_rec.
        lambda_rank: Weight >= 0 of L_rank.
        margin: Margin epsilon >= 0 in (15).
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        gradient_clip: Largest norm of a turn's gradient; None, as in the code, for no limit.

    Raises:
        MSABenchError: An argument outside its range, or training on batches without their complete version.
    """

    info = MethodInfo(
        name="recap",
        title="Recovering Coherent Affective Patterns: Addressing Modality Missing in Multimodal Sentiment Analysis",
        venue="AAAI",
        year=2026,
        url="https://ojs.aaai.org/index.php/AAAI/article/view/39349",
        fidelity="equations",
        code_url="https://github.com/Taylor-HHT/RECAP-MSA",
        code_commit="07226389",
        tasks=("regression",),
        variants=(
            "wo_hcag",
            "wo_fid",
            "wo_fid_lv",
            "wo_fid_la",
            "wo_fid_av",
            "wo_fid_shared",
            "wo_fid_unique",
            "wo_reconstructor",
            "wo_mir",
            "code",
            "real_complete",
            "mlp_discriminator",
        ),
        trains_with=("complete",),
        smoke={
            "completion_epochs": 1,
            "warmup": 0,
            "dim": 8,
            "tokens": 4,
            "segments": [4, 2],
            "layers": 1,
            "heads": 2,
            "predictor_heads": 2,
            "dim_head": 4,
            "critic_width": 32,
        },
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        completion_epochs: int = 200,
        warmup: int = 20,
        dim: int = 128,
        tokens: int = 8,
        segments: tuple[int, ...] = (8, 4, 2),
        layers: int = 2,
        heads: int = 8,
        predictor_heads: int = 4,
        dim_head: int = 64,
        critic_width: int = 2048,
        predictor_dropout: float = 0.1,
        lambda_adversarial: float = 0.01,
        lambda_fid: float = 0.001,
        lambda_reconstruction: float = 0.1,
        lambda_rank: float = 0.01,
        margin: float = 0.1,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 1e-4,
        lr: float = 1e-4,
        weight_decay: float = 1e-4,
        gradient_clip: float | None = None,
    ) -> None:
        super().__init__(
            spec,
            variant=variant,
            lr=lr,
            weight_decay=weight_decay,
            task_loss="mse",
            optimizer="adamw",
            gradient_clip=gradient_clip,
        )
        if min(completion_epochs, layers, heads, predictor_heads, dim_head) < 1 or dim < 2:
            raise MSABenchError(
                f"completion_epochs {completion_epochs}, layers {layers}, heads {heads}, predictor_heads "
                f"{predictor_heads} and dim_head {dim_head} must be at least 1, and dim {dim} at least 2"
            )
        if not segments or any(n < 2 or tokens % n for n in segments):
            raise MSABenchError(
                f"segments {list(segments)} of {tokens} tokens are not allowed; give divisors of tokens from 2 up"
            )
        self.official = variant == "code"
        self.warmup = warmup
        self.segments = tuple(segments)
        self.lambda_adversarial, self.lambda_fid = lambda_adversarial, lambda_fid
        self.lambda_reconstruction, self.lambda_rank, self.margin = lambda_reconstruction, lambda_rank, margin
        self.text_lr = text_lr
        self.pairs = {pair: of for pair, of in _PAIRS.items() if variant != f"wo_fid_{pair}"}
        has_critics, has_discriminators = variant != "wo_fid", variant != "wo_hcag"
        turns = ("critics",) * has_critics + ("discriminators",) * has_discriminators + ("generators",)
        self.schedule = {"completion": ("main",) if self.official else turns, "task": ("main",)}
        self.stage_epochs = {"completion": completion_epochs}

        sizes = {"layers": layers, "heads": heads, "dim_head": dim_head}

        def embedding() -> ClipTokens:
            text = TextInput(spec, text_encoder, finetune=finetune, keep_padding=True)
            return ClipTokens(spec, text, dim, tokens, **sizes)

        def per_modality(**other: int) -> nn.ModuleDict:
            return nn.ModuleDict({m: TokenTransformer(dim, tokens, **{**sizes, **other}) for m in MODALITIES})

        def discriminator() -> nn.Module:
            if variant in ("code", "mlp_discriminator"):
                return _TokenDiscriminator(dim)
            return _SegmentDiscriminator(dim, tokens // min(segments), **sizes)

        self.embed = embedding()
        # The official code begins stage two with new embeddings; these are the ones of its stage one.
        self.first_embed = embedding() if self.official else None
        self.generators = per_modality()
        self.reconstructors = None if variant == "wo_reconstructor" else per_modality()
        self.discriminators = nn.ModuleDict({m: discriminator() for m in MODALITIES}) if has_discriminators else None
        ablated = {"wo_fid_shared": _SHARED, "wo_fid_unique": _UNIQUE}.get(variant, ())
        estimates = tuple(name for name in (*_SHARED, *_UNIQUE) if name not in ablated)
        self.critics = _Critics(tokens * dim, critic_width, estimates) if has_critics else None

        self.mir = variant != "wo_mir"
        self.query_key = nn.Linear(dim, 2 * dim) if self.mir else None
        self.value = nn.Linear(dim, dim)
        self.head = nn.Linear(dim, self.n_outputs)
        self.predictors: nn.ModuleDict | None = None
        if self.mir:
            transformers = per_modality(heads=predictor_heads, hidden=2 * dim)
            self.predictors = nn.ModuleDict(
                {
                    m: nn.Sequential(
                        transformers[m],
                        nn.Linear(dim, dim // 2),
                        nn.ReLU(),
                        nn.Dropout(predictor_dropout),
                        nn.Linear(dim // 2, 1),
                    )
                    for m in MODALITIES
                }
            )
            self.predictors.requires_grad_(not self.official)

    def prepare_stage(self, stage: str) -> None:
        """Freeze the generators for stage ``task``, with all that only trained them."""
        if stage == "task":
            self.freeze_parts(self.generators, *self._completion_only, self.first_embed)

    def param_groups(self) -> list[dict[str, Any]]:
        """What the turn trains, the text encoder at its own rate."""
        embed = self.embed if self.first_embed is None else self.first_embed
        trained: dict[tuple[str, str], tuple[nn.Module | None, ...]] = {
            ("completion", "critics"): (self.critics,),
            ("completion", "discriminators"): (self.discriminators,),
            ("completion", "generators"): (embed, self.generators, self.reconstructors),
            ("completion", "main"): (embed, self.generators, *self._completion_only),
            ("task", "main"): (self.embed, self.query_key, self.value, self.head, self.predictors),
        }
        parts = [part for part in trained[self.stage, self.turn] if part is not None]
        return parameter_groups(nn.ModuleList(parts), self.text_lr)

    def lr_multiplier(self, epoch: int, epochs: int) -> float:
        """Warm-up and cosine, anew in each stage."""
        return warmup_cosine(epoch, self.warmup, epochs)

    def forward(self, batch: Batch) -> Output:
        """Embed, complete, weigh the modalities and predict."""
        h = self.embed(batch)
        generated = self._generate(h)
        # Projections are linear, so the means over tokens may be taken first.
        mean = torch.stack([generated[m].mean(1) for m in MODALITIES], dim=1)
        values = self.value(mean)
        if self.query_key is None:
            alpha = values.new_full(values.shape[:2], 1 / len(MODALITIES))
        else:
            query, key = self.query_key(mean).chunk(2, dim=2)
            alpha = ((query * key).sum(2) / query.shape[2] ** 0.5).softmax(dim=1)  # (16)
        fused = (alpha.unsqueeze(2) * values).sum(1)  # (17)
        return Output(
            pred=self.to_pred(self.head(fused)),
            representation=fused,
            aux={
                "alpha": alpha,
                **{f"embedded_{m}": h[m] for m in MODALITIES},
                **{f"generated_{m}": generated[m] for m in MODALITIES},
            },
        )

    def training_forward(self, batch: Batch) -> Output:
        """What the stage and turn train on.

        Returns:
            In stage ``task`` what ``forward`` gives, and in ``aux`` the unimodal predictions ``unimodal_m`` ``(B, K)``.
            Stage ``completion`` has no labels and no prediction (``pred`` is 0); ``aux`` holds what its losses need:
            ``complete_m``, ``generated_m``, ``reconstructed_m`` ``(B, K, D)``, and for S pairs of neighbouring segments
            ``weight_m`` (2), ``fooling_m`` and ``discerning_m``, the cross-entropies in (3) and (5), ``(B, S)``.
        """
        if self.stage == "task":
            out = self(batch)
            if self.predictors is not None:
                for m in MODALITIES:
                    predictions = self.predictors[m](out.aux[f"generated_{m}"].detach()).squeeze(2)
                    out.aux[f"unimodal_{m}"] = predictions
                    out.unimodal[m] = predictions.mean(1)
            return out

        complete = self.complete_of(batch)
        embed = self.embed if self.first_embed is None else self.first_embed
        aux: dict[str, Tensor] = {}
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.turn in ("generators", "main")):
            both = embed(stacked(batch, complete))
            h, x = ({m: both[m].chunk(2)[version] for m in MODALITIES} for version in range(2))
            if self.turn != "discriminators":
                generated = self._generate(h)
                for m in MODALITIES:
                    aux[f"complete_{m}"], aux[f"generated_{m}"] = x[m], generated[m]
                    if self.reconstructors is not None and self.turn != "critics":
                        aux[f"reconstructed_{m}"] = self.reconstructors[m](h[m] if self.official else generated[m])
        if self.discriminators is not None and self.turn != "critics":
            for m in MODALITIES:
                aux.update(self._adversarial(m, h[m], x[m] if self.variant == "real_complete" else h[m]))
        return Output(pred=torch.zeros(batch.size, device=h["text"].device), aux=aux)

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """``L_1`` (14), in the parts that the turns train, or ``L_2`` (19); weighted."""
        if self.stage == "completion":
            return self._completion_loss(out.aux)
        assert batch.labels is not None
        terms = {"task": self.task_loss(out.pred, batch.labels)}
        if self.mir:
            tokens = torch.stack([out.aux[f"unimodal_{m}"] for m in MODALITIES], dim=1)
            error = (tokens - batch.labels[:, None, None]).square().mean(2)  # L_MI of each clip and modality
            if not self.official:
                terms["mi"] = error.mean(0).sum()
            rank = _official_ranking_loss if self.official else ranking_loss
            terms["rank"] = self.lambda_rank * rank(out.aux["alpha"], error, self.margin)
        return terms

    @property
    def _completion_only(self) -> tuple[nn.Module | None, ...]:
        """What only stage ``completion`` uses."""
        return self.critics, self.discriminators, self.reconstructors

    def _generate(self, h: dict[str, Tensor]) -> dict[str, Tensor]:
        return {m: self.generators[m](h[m]) for m in MODALITIES}

    def _adversarial(self, modality: str, h: Tensor, real: Tensor) -> dict[str, Tensor]:
        """H-CAG of a modality, (1)-(5): each segment of ``h`` ``(B, K, D)`` against the next one of ``real``."""
        assert self.discriminators is not None
        generator, discriminator = self.generators[modality], self.discriminators[modality]
        parts: dict[str, list[Tensor]] = {"weight": [], "fooling": [], "discerning": []}

        def cross_entropy(segments: Tensor, target: float) -> Tensor:
            logits = discriminator(segments)
            each = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target), reduction="none")
            return each.mean(1).view(len(h), -1)

        for n in self.segments:
            segment, following = h.unflatten(1, (n, -1))[:, :-1], real.unflatten(1, (n, -1))[:, 1:]
            weight = (1 + F.cosine_similarity(segment, following, dim=3).mean(2)) / 2  # (2)
            parts["weight"].append(weight if self.official else weight.detach())
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.turn != "discriminators"):
                made = generator(segment.flatten(0, 1))  # (1)
            if self.turn != "discriminators":
                parts["fooling"].append(cross_entropy(made, 1.0))  # (3)
            if self.turn != "generators":
                seen = cross_entropy(following.flatten(0, 1), 1.0) + cross_entropy(made.detach(), 0.0)
                parts["discerning"].append(seen / 2)  # (5)
        return {f"{name}_{modality}": torch.cat(values, dim=1) for name, values in parts.items() if values}

    def _completion_loss(self, aux: dict[str, Tensor]) -> dict[str, Tensor]:
        terms = {}
        if self.turn == "critics":
            return {"fit": -torch.stack([infonce(scores).sum() for scores in self._scores(aux).values()]).sum()}
        if self.discriminators is not None:
            hcag = []
            for m, weight in _ADVERSARIAL_WEIGHTS.items():
                if self.turn != "discriminators":
                    w = aux[f"weight_{m}"].mean(0) if self.official else aux[f"weight_{m}"]
                    hcag.append(weight * (w * aux[f"fooling_{m}"]).mean(0).sum())
                if self.turn != "generators":
                    hcag.append(weight * aux[f"discerning_{m}"].mean(0).sum())
            terms["hcag"] = self.lambda_adversarial * torch.stack(hcag).sum()  # (6), (7)
        if self.turn == "discriminators":
            return terms
        if self.critics is not None:
            scores = self._scores(aux)
            estimates = [club(f) if name.startswith("club") else -infonce(f) for name, f in scores.items()]
            per_pair = torch.stack(estimates).sum(0)  # (8) + (10) of each pair
            if self.official:
                per_pair = per_pair.clamp(min=_FLOOR)
            terms["fid"] = self.lambda_fid * per_pair.sum()  # (11)
        if self.reconstructors is not None:
            targets = (aux[f"complete_{m}"] if self.official else aux[f"complete_{m}"].detach() for m in MODALITIES)
            errors = [
                F.mse_loss(aux[f"reconstructed_{m}"], target) for m, target in zip(MODALITIES, targets, strict=True)
            ]
            terms["rec"] = self.lambda_reconstruction * torch.stack(errors).mean()  # (12), (13)
        return terms

    def _scores(self, aux: dict[str, Tensor]) -> dict[str, Tensor]:
        assert self.critics is not None
        sides = [
            torch.stack([aux[f"{kind}_{of[side]}"].flatten(1) for of in self.pairs.values()])
            for kind in ("complete", "generated")
            for side in range(2)
        ]
        if not self.official:
            sides = [standardise(side) for side in sides]
        scores: dict[str, Tensor] = self.critics(*sides, first="complete" if self.official else "generated")
        return scores


def ranking_loss(alpha: Tensor, error: Tensor, margin: float) -> Tensor:
    """(15): of two modalities, the one that predicts better alone should weigh more, by a margin.

    Args:
        alpha: Weights of the modalities, float ``(B, M)``.
        error: L_MI of each clip and modality, float ``(B, M)``.
        margin: epsilon >= 0.

    Returns:
        float ``()``, averaged over clips.
    """
    better = error.unsqueeze(2) < error.unsqueeze(1)  # [:, i, j]: L_MI^i < L_MI^j; never for i = j
    hinge = (alpha.unsqueeze(1) - alpha.unsqueeze(2) + margin).relu()  # [:, i, j]: alpha_j - alpha_i + eps
    return (better * hinge).sum((1, 2)).mean() / 2


def _official_ranking_loss(alpha: Tensor, error: Tensor, margin: float) -> Tensor:
    """The official code's, with targets 1 and 0, averaged over ordered pairs and clips."""
    pairs = [(i, j) for i in range(alpha.shape[1]) for j in range(alpha.shape[1]) if i != j]
    i, j = torch.tensor(pairs, device=alpha.device).unbind(1)
    target = (error[:, i] < error[:, j]).to(alpha.dtype)
    return F.margin_ranking_loss(alpha[:, i], alpha[:, j], target, margin=margin)
