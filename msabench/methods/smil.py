"""SMIL: Multimodal Learning with Severely Missing Modality.

Mengmeng Ma, Jian Ren, Long Zhao, Sergey Tulyakov, Cathy Wu, Xi Peng. AAAI 2021, https://arxiv.org/abs/2103.05677.
Official code: https://github.com/mengmenm/SMIL at 0d0e827, no licence, for images and sounds of digits; it has no
network for three sequences. A reconstruction, with the equations of that code where they carry over.

A missing modality m is imagined as a mixture of a few typical features of it, the prior: cluster centres M_m, weighted
by what a network phi_c reads in the modalities that are there. Since what is imagined is biased, a second network phi_r
perturbs the two layers above it. For features f_m, x = [f or f^ of each modality], z = [f, or 0 where missing],

    f^_m = mean over n that are there of sum_k w_k M_mk / sum_k w_k,    w = softplus(phi_c^{n -> m}(f_n)),
    h_0  = x * softplus(phi_r^0(z) + e),
    h_1  = ReLU(fc_1(h_0)) * softplus(phi_r^1(h_0) + e),                prediction fc_2(dropout(h_1)),

and neither phi_c nor phi_r acts on a clip of which nothing is missing. *Meta-learning*: on incomplete clips, with
e ~ N(0, 1), fc_1 and fc_2 take one inner step down the loss L_train; with the fc_1 and fc_2 that this gives, other
clips have to come out right both complete and incomplete (e = 0), and with alike h_0 and h_1. All of the network learns
from L_train and from that, through the inner step. A prediction has e = 0 and takes no inner step.

The network first learns from complete clips for some epochs. Then each modality's features of all training clips, in
evaluation mode, are clustered once; the centres stay.

Notation: B clips, d channels (``dim``), K centres (``clusters``) of each modality.

Deviations:
    1. Three modalities, any of which may be missing; the official code has two, of which one may be. Encoders, a phi_c
       for each ordered pair, the mean over sources, and zeros in z are ours, as is f^ of a clip that has no modality
       left: the mean of the centres. Encoders are a convolution, position codes and one Transformer layer, averaged
       over the steps that exist.
    2. The two batches of a step, complete and incomplete clips, are disjoint sets in the original, a seventh or a fifth
       of the clips being complete for good. Here what a clip misses changes from epoch to epoch, as for other methods,
       and its complete version is at hand. The batch that a training step is given is cut into halves, each of which is
       once the incomplete batch and once the other; the two steps are averaged. So a clip is never tried after a step
       of its own, and an epoch shows it once in either role, as two loaders would. A batch of one clip is both halves.
    3. Which modalities are missing comes from the data module. A clip to which it left all three, as every clip in
       regimes that remove none, keeps one of the six proper subsets, drawn anew: nothing would teach phi_c and phi_r
       otherwise. In the second batch the subset is drawn on top of complete clips. Patterns and e are drawn as dropout
       is.
    4. The inner step changes fc_1 and fc_2. The official code's also changes the encoder of the modality that is always
       there; here none is. Its inner learning rate falls to a tenth every 1000 of 8000 iterations, the outer one after
       5000; both are constant here.
    5. The task loss of complete clips counts after the inner step, with ``lambda_complete`` 1. The official code
       computes it and leaves it out (0); predictions from all modalities would then be nobody's concern after the
       warm-up.
    6. ``noise`` ``mul`` multiplies by softplus, as the official class for films and their genres does; ``add`` adds
       it, as that for digits does. The paper leaves it open. (A factor above 0 may stand before the ReLU as well.)
    7. The paper is said to draw w and the perturbation with learnt variances. The official code does not: its w has no
       noise, its e variance 1, and the passes that it averages for a prediction are all alike. We follow the code.
    8. The official code picks the iteration by its accuracy on the test split. Here validation selects an epoch.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from msabench.data.batch import Batch, stacked
from msabench.data.datamodule import MSADataModule
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError, one_of
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.modality_encoder import ModalityEncoder, mean_over
from msabench.nn.text import TextInput, parameter_groups

_CHUNK = 96
"""Training clips that are encoded at a time for the centres."""


class _Head(nn.Module):
    """fc_1, fc_2 and phi_r: from x and z to the prediction."""

    def __init__(self, width: int, hidden: int, n_outputs: int, *, dropout: float, noise: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, n_outputs)
        self.perturb0 = nn.Linear(width, width)
        self.perturb1 = nn.Linear(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.noise = noise

    @property
    def adapted(self) -> dict[str, nn.Parameter]:
        """What an inner step changes."""
        return {name: p for name, p in self.named_parameters() if name.startswith("fc")}

    @property
    def phi(self) -> tuple[nn.Linear, nn.Linear]:
        """phi_r."""
        return self.perturb0, self.perturb1

    def forward(self, x: Tensor, z: Tensor, missing: Tensor, noisy: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Predict.

        Args:
            x: float ``(B, W)``.
            z: float ``(B, W)``.
            missing: bool ``(B, 1)``, whether the clip is perturbed.
            noisy: Whether e is drawn.

        Returns:
            h_0 ``(B, W)``, h_1 ``(B, hidden)`` and the outputs ``(B, n_outputs)``.
        """
        h0 = torch.where(missing, self._perturbed(x, self.perturb0(z), noisy), x)
        h1 = self.fc1(h0).relu()
        h1 = torch.where(missing, self._perturbed(h1, self.perturb1(h0), noisy), h1)
        return h0, h1, self.fc2(self.dropout(h1))

    def _perturbed(self, h: Tensor, r: Tensor, noisy: bool) -> Tensor:
        r = F.softplus(r + torch.randn_like(r) if noisy else r)
        return h * r if self.noise == "mul" else h + r


class SMIL(MSAMethod):
    """SMIL, see the module's docstring. It trains on ``batch.complete``, first on that alone.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``default``; there is no other.
        warmup_epochs: Epochs on complete clips, which ``trainer.max_epochs`` includes; at least 1.
        clusters: Centres K of each modality, at least 1.
        dim: Channels d of a modality; a multiple of ``heads``.
        heads: Attention heads of the encoders.
        layers: Transformer layers of a modality, at least 1.
        kernel_size: Steps that the convolutions see.
        dropout: Dropout rate in [0, 1) of the encoders.
        hidden: Width of h_1.
        out_dropout: Dropout rate in [0, 1) of h_1.
        noise: Whether softplus of the perturbation multiplies, ``mul``, or is added, ``add``.
        inner_lr: Learning rate >= 0 of the inner step; with 0 there is none.
        lambda_hidden: Weight >= 0 of the squared differences of h_0 and of h_1; 0.01 in the official code.
        lambda_complete: Weight >= 0 of the task loss of complete clips; 0 in the official code.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam.
        weight_decay: L2 weight decay of Adam.
        lr_patience: Epochs without a better ``val/task`` before the learning rate is divided by 10; None keeps it
            constant.

    Raises:
        MSABenchError: An argument outside its range, or training on batches without their complete version.
    """

    info = MethodInfo(
        name="smil",
        title="SMIL: Multimodal Learning with Severely Missing Modality",
        venue="AAAI",
        year=2021,
        url="https://arxiv.org/abs/2103.05677",
        fidelity="reconstructed",
        code_url="https://github.com/mengmenm/SMIL",
        code_commit="0d0e827",
        trains_with=("complete",),
        smoke={"warmup_epochs": 1, "clusters": 3, "dim": 8, "heads": 2, "hidden": 8},
    )
    complete_stages: ClassVar[tuple[str, ...]] = ("warmup",)
    centres: Tensor

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        warmup_epochs: int = 10,
        clusters: int = 7,
        dim: int = 40,
        heads: int = 10,
        layers: int = 1,
        kernel_size: int = 3,
        dropout: float = 0.1,
        hidden: int = 64,
        out_dropout: float = 0.5,
        noise: Literal["mul", "add"] = "mul",
        inner_lr: float = 1e-3,
        lambda_hidden: float = 0.01,
        lambda_complete: float = 1.0,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 5e-5,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        lr_patience: int | None = None,
    ) -> None:
        super().__init__(
            spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="l1", lr_patience=lr_patience
        )
        if min(warmup_epochs, clusters) < 1:
            raise MSABenchError(f"warmup_epochs {warmup_epochs} and clusters {clusters} must both be at least 1")
        if noise not in ("mul", "add"):
            raise one_of("noise", noise, ("mul", "add"))
        if min(inner_lr, lambda_hidden, lambda_complete) < 0:
            raise MSABenchError(
                f"inner_lr {inner_lr}, lambda_hidden {lambda_hidden} and lambda_complete {lambda_complete} must not "
                "be negative"
            )
        self.schedule = {"warmup": ("main",), "meta": ("main",)}
        self.stage_epochs = {"warmup": warmup_epochs}
        self.inner_lr = inner_lr
        self.lambda_hidden, self.lambda_complete = lambda_hidden, lambda_complete
        self.text_lr = text_lr

        self.text = TextInput(spec, text_encoder, finetune=finetune)
        widths = {**spec.feature_dims, "text": self.text.width}
        sizes: dict[str, Any] = {"heads": heads, "layers": layers, "kernel_size": kernel_size, "dropout": dropout}
        self.encoders = nn.ModuleDict(
            {m: ModalityEncoder(widths[m], dim, steps=spec.seq_lens[m], **sizes) for m in MODALITIES}
        )
        self.mixers = nn.ModuleDict({f"{n}_to_{m}": nn.Linear(dim, clusters) for n, m in permutations(MODALITIES, 2)})
        # Anything at all until the warm-up is over.
        self.register_buffer("centres", torch.randn(len(MODALITIES), clusters, dim))
        self.head = _Head(len(MODALITIES) * dim, hidden, self.n_outputs, dropout=out_dropout, noise=noise)

    def param_groups(self) -> list[dict[str, Any]]:
        """Without phi_c and phi_r in the warm-up, where weight decay alone would move them."""
        groups = parameter_groups(self, self.text_lr)
        if not self.in_last_stage:
            phi = {id(p) for part in (self.mixers, *self.head.phi) for p in part.parameters()}
            for group in groups:
                group["params"] = [p for p in group["params"] if id(p) not in phi]
        return groups

    def on_train_epoch_start(self) -> None:
        """After the warm-up, find the centres."""
        before = self.stage
        super().on_train_epoch_start()
        if self.stage != before:
            self.find_centres()

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is h_1 ``(B, hidden)``."""
        _, h1, outputs = self.head(*self.imagine(self.extract(batch), _available(batch)), noisy=False)
        return Output(pred=self.to_pred(outputs), representation=h1.detach())

    def training_forward(self, batch: Batch) -> Output:
        """Predict complete clips in the warm-up; then take the inner steps, and predict with what they give.

        Returns:
            In stage ``meta`` the predictions of incomplete clips after the inner step. ``aux`` holds those before it,
            with e, of other versions, ``train``; those of complete clips after it, ``complete``; and each clip's mean
            squared differences ``gap0`` and ``gap1`` ``(B,)`` of h_0 and h_1 between the two after it.
        """
        if not self.in_last_stage:
            return self(self.complete_of(batch))
        labels = batch.labels
        assert labels is not None
        both = stacked(batch, self.complete_of(batch))
        # Halves and draws are those of the global batch, on each device the same; each returns its own clips' rows.
        sizes = self.device_shares(batch.size)
        seen, whole, here, everything = (
            self.gather_rows(rows, sizes) for rows in (*self.extract(both).chunk(2), *_available(both).chunk(2))
        )
        labels, clips = self.gather_rows(labels, sizes), sum(sizes)
        versions = self.imagine(
            torch.cat([seen, whole, whole]), torch.cat([draw_missing(here), draw_missing(everything), everything])
        )
        to_learn, incomplete, complete = zip(*(part.chunk(3) for part in versions), strict=True)

        def half_step(one: slice, other: slice) -> dict[str, Tensor]:
            """Learn from one half, try on the other."""
            train = self.to_pred(self.head(*(part[one] for part in to_learn), noisy=True)[2])
            stepped = self.inner_step(self.task_loss(train, labels[one]))
            left, right = (
                functional_call(self.head, stepped, tuple(part[other] for part in version), {"noisy": False})
                for version in (incomplete, complete)
            )
            return {
                "train": train,
                "pred": self.to_pred(left[2]),
                "complete": self.to_pred(right[2]),
                "gap0": (left[0] - right[0]).square().mean(1),
                "gap1": (left[1] - right[1]).square().mean(1),
            }

        first, second = slice(clips // 2), slice(clips // 2, None)
        if clips == 1:
            rows = half_step(second, second)
        else:
            forth, back = half_step(first, second), half_step(second, first)
            # In the order of the batch: its first half learns in the one and is tried in the other.
            rows = {name: torch.cat([back[name], forth[name]]) for name in forth}
            rows["train"] = torch.cat([forth["train"], back["train"]])
        own = {name: row.split(sizes)[self.global_rank if len(sizes) > 1 else 0] for name, row in rows.items()}
        return Output(pred=own.pop("pred"), aux=own)

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """L_train and the terms after the inner step, weighted; in the warm-up the task loss alone."""
        assert batch.labels is not None
        terms = {"task": self.task_loss(out.pred, batch.labels)}
        if self.in_last_stage:
            terms["train"] = self.task_loss(out.aux["train"], batch.labels)
            terms["complete"] = self.lambda_complete * self.task_loss(out.aux["complete"], batch.labels)
            terms["gap0"] = self.lambda_hidden * out.aux["gap0"].mean()
            terms["gap1"] = self.lambda_hidden * out.aux["gap1"].mean()
        return terms

    def extract(self, batch: Batch) -> Tensor:
        """Features f of text, audio and vision, float ``(B, 3, d)``; of a missing modality they mean nothing."""
        inputs = {"text": self.text(batch), "audio": batch.audio, "vision": batch.vision}
        means = [mean_over(self.encoders[m](inputs[m], batch.valid[m]), batch.valid[m]) for m in MODALITIES]
        return torch.stack(means, dim=1)

    def imagine(self, f: Tensor, available: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fill in what is missing.

        Args:
            f: Features, float ``(B, 3, d)``.
            available: bool ``(B, 3)``.

        Returns:
            x and z, float ``(B, 3d)``, and whether anything is missing, bool ``(B, 1)``.
        """
        here = available.unsqueeze(2)
        z = torch.where(here, f, 0.0)
        imagined = []
        for m, target in enumerate(MODALITIES):
            sources = [n for n in range(len(MODALITIES)) if n != m]
            weights = torch.stack([self.mixers[f"{MODALITIES[n]}_to_{target}"](z[:, n]) for n in sources], dim=1)
            weights = F.normalize(F.softplus(weights), p=1.0, dim=2)  # (B, 2, K)
            # A clip of which nothing is left counts every centre alike.
            usable = here[:, sources].to(z.dtype)
            weights = torch.where(
                here[:, sources].any(1), (usable * weights).sum(1) / usable.sum(1).clamp(min=1), 1 / weights.shape[2]
            )
            imagined.append(weights @ self.centres[m])
        x = torch.where(here, f, torch.stack(imagined, dim=1))
        return x.flatten(1), z.flatten(1), ~available.all(1, keepdim=True)

    def inner_step(self, loss: Tensor) -> dict[str, Tensor]:
        """Parameters of fc_1 and fc_2 after a step down a loss; a gradient of them reaches all that made the loss."""
        parameters = self.head.adapted
        gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        return {
            name: parameter - self.inner_lr * gradient
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
        }

    @torch.no_grad()
    def find_centres(self) -> None:
        """Set ``centres`` by the features that complete training clips have in evaluation mode."""
        data: MSADataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        self.eval()
        found: list[tuple[Tensor, Tensor]] = []
        for index in torch.arange(self.spec.n_train).split(_CHUNK):
            batch = data.training_batch(index, 0, needs=self.data_needs, device=self.device)
            complete = self.complete_of(batch).in_type(self.dtype)  # type: ignore[arg-type]
            found.append((self.extract(complete), _available(complete)))
        self.train()
        features, available = (torch.cat(parts) for parts in zip(*found, strict=True))
        for m in range(len(MODALITIES)):
            of_modality = features[available[:, m], m]
            if len(of_modality):  # a modality that no clip has is never imagined from what it looks like
                self.centres[m] = cluster_centres(of_modality, self.centres.shape[1])


def draw_missing(available: Tensor) -> Tensor:
    """Take modalities from clips that have all: which are left is uniform over the six proper subsets.

    Args:
        available: bool ``(B, 3)``.

    Returns:
        bool ``(B, 3)``; clips that lack one already are as they were.
    """
    count = available.shape[1]
    # The binary digits of 1 to 6 are these subsets.
    codes = torch.randint(1, 2**count - 1, (len(available), 1), device=available.device)
    drawn = (codes >> torch.arange(count, device=available.device)) & 1
    return torch.where(available.all(1, keepdim=True), drawn.bool(), available)


def cluster_centres(points: Tensor, clusters: int) -> Tensor:
    """Centres of the best of ten runs of k-means from fixed seeds.

    Args:
        points: float ``(N, d)``, N at least 1.
        clusters: Number K of centres.

    Returns:
        float ``(K, d)``; where there are fewer distinct points than that, some are equal.
    """
    # scikit-learn takes a second to import, and only training needs it.
    from sklearn.cluster import KMeans

    distinct = min(clusters, len(points.unique(dim=0)))
    found = points.to("cpu", torch.promote_types(points.dtype, torch.float32)).numpy()
    fitted = KMeans(distinct, n_init=10, random_state=0).fit(found)
    centres = torch.from_numpy(fitted.cluster_centers_).to(points)
    return centres[torch.arange(clusters) % distinct]


def _available(batch: Batch) -> Tensor:
    """Which modalities have an observed frame, bool ``(B, 3)``."""
    return torch.stack([batch.observed[m].any(1) for m in MODALITIES], dim=1)
