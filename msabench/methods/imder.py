"""IMDer: Incomplete Multimodality-Diffused Emotion Recognition.

Yuanzhi Wang, Yong Li, Zhen Cui. NeurIPS 2023, https://openreview.net/forum?id=BuGFwUS9B3. Official code:
https://github.com/mdswyz/IMDer at 1901a92, MIT licence. The paper itself could not be read; this follows the code.

Each modality has a network S that estimates the score of its noisy sequences, given those of the modalities that are
there: of one as it is, of two through a linear map. A missing modality is sampled by running the diffusion backwards
from noise, in ``sampling_steps`` steps of the method of Euler and Maruyama; the sample is refined by residual
convolutions, and a Multimodal Transformer reads the three sequences.

The diffusion has g(t) = 25^t for t in [0, 1], hence noise of deviation sigma(t) = sqrt((25^(2t) - 1) / (2 ln 25)).
S learns from the sequences of complete clips to say the noise that was added; no gradient passes through a sampling.

Notation: B clips, T steps after the projections, d channels (``dim``).

Deviations:
    1. Officially a prediction is a random draw. Here the noise of a prediction is fixed: one table for all clips, drawn
       from ``sampling_seed``. Each clip's sample keeps its distribution, samples of different clips are correlated. In
       training, noise is drawn anew for every clip.
    2. Officially the network gets complete clips and removes modalities itself, one pattern for the whole batch, in an
       order of patterns that every epoch and every evaluation repeats. Here each clip has its own pattern, by the data
       module: regime ``random_table`` has the official rates. Losses are per clip, so that a batch of one pattern gives
       the official ones. The official rate 0 leaves one modality, as its rate 0.7, by an index of -1; here it is
       ``complete``.
    3. The weights that the official code starts from, trained on complete data, are published, their training is not.
       Ours, stage ``complete``: text encoder, projections and Multimodal Transformer on complete clips by the L1 error,
       at ``complete_lr`` and the dropouts of the second stage, taken as the last epoch leaves them. What is logged as
       ``val/`` there, which the learning rate follows, leaves missing modalities as they are.
    4. Officially the frozen BERT keeps its dropout in the second stage. Here what is frozen has none.
    5. What no clip of a batch misses, the code does not recover, and under regimes without missing
       modalities scores, maps and refiners would stay as they were drawn. With ``idle_recovery`` the clips then miss
       one of the six proper subsets in turn for the two generative terms alone; predictions do not change.
    6. Officially d is 32 and T 48. Here any d that the heads divide, with 8 d features of the time, and any T: within S
       sequences are padded with zeros to a multiple of 8.
    7. Variant ``fast``, ours, samples in 20 steps instead of ``sampling_steps``, at a fifth of the cost, in training
       and in evaluation.
    8. Ours for other files: audio and vision that are not aligned are interpolated onto the steps of the text, and
       there is a projection also where widths agree. With frames dropped, a modality counts as there if one frame is,
       and the zeros of others are a condition like any value. A clip without any modality is read as it is. IMDer has
       no task but scores; for IEMOCAP eight outputs and cross-entropy.
    9. The validation error is that of all clips, officially the mean over batches, to four digits.

As in the official code: in training, the condition of S carries the very noise of the target, from which it could be
told, while in sampling the two are independent; ``cond_noise: independent`` draws it apart. The error of the noise is
summed over all T d values, thousands beside a task term near 1, which clipping by value holds in check. Padding is
masked nowhere. On several devices the method needs ``--trainer.strategy=ddp_find_unused_parameters_true``, since a
batch may miss no text, say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError, one_of
from msabench.methods.base import Output
from msabench.methods.info import MethodInfo
from msabench.methods.recovering import Recovering, sources_of
from msabench.missingness.conditions import MODALITIES
from msabench.nn.score_network import ScoreNetwork

_SIGMA = 25.0
_EARLIEST_TRAINED, _EARLIEST_SAMPLED = 1e-5, 1e-3
_FAST_STEPS = 20
_COND_NOISE = ("shared", "independent")


def deviation(time: Tensor) -> Tensor:
    """Standard deviation of the noise at a time, ``sqrt((25^(2t) - 1) / (2 ln 25))``; of any shape, t in [0, 1]."""
    return (torch.expm1(2 * math.log(_SIGMA) * time) / (2 * math.log(_SIGMA))).sqrt()


def denoising_error(
    network: nn.Module, x: Tensor, condition: Tensor, time: Tensor, noise: Tensor, cond_noise: Tensor
) -> Tensor:
    """Squared error with which a network says the noise that was added to a sequence, summed over its values.

    Args:
        network: From noisy sequences ``(B, T, d)``, times ``(B,)`` and conditions to the score times its deviation.
        x: float ``(B, T, d)``, the sequences.
        condition: float ``(B, T, d)``.
        time: float ``(B,)``, in (0, 1].
        noise: float ``(B, T, d)``, of deviation 1: that of the sequences.
        cond_noise: Likewise, that of the conditions.

    Returns:
        float ``(B,)``.
    """
    sigma = deviation(time)[:, None, None]
    told = network(x + sigma * noise, time, condition + sigma * cond_noise)
    return (told + noise).square().sum((1, 2))


def sampled(network: nn.Module, condition: Tensor, noises: Iterator[Tensor], steps: int) -> Tensor:
    """Run the diffusion backwards from noise at t = 1, by the method of Euler and Maruyama.

    Args:
        network: As in ``denoising_error``.
        condition: float ``(B, T, d)``.
        noises: Noise of deviation 1, each ``(B, T, d)`` or broadcast to it: the start, then two for every step, for
            the condition and for x.
        steps: Steps from t = 1 to 0.001, at least 2.

    Returns:
        float ``(B, T, d)``, without the noise of the last step.
    """
    times = torch.linspace(1.0, _EARLIEST_SAMPLED, steps, device=condition.device, dtype=condition.dtype)
    dt = times[0] - times[1]
    mean = x = (deviation(times[0]) * next(noises)).expand_as(condition)
    for time in times:
        sigma, g = deviation(time), _SIGMA**time
        told = network(x, time.expand(len(x)), condition + sigma * next(noises))
        mean = x + g.square() * dt / sigma * told
        x = mean + dt.sqrt() * g * next(noises)
    return mean


class IMDer(Recovering):
    """IMDer, see the module's docstring. It trains on ``batch.complete``.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``default``; ours: ``fast``, which samples in 20 steps.
        complete_epochs: Epochs on complete clips, which ``trainer.max_epochs`` includes; at least 1.
        complete_lr: Learning rate on complete clips, but for a text encoder.
        dim: Common width d of the modalities; a multiple of ``heads``, at least 4.
        heads: Attention heads of every encoder.
        layers: Layers of the crossmodal encoders; the memory encoders have at least 3.
        kernel_size: Steps seen by one step of the projections.
        score_layers: Layers of the attentions of a score network.
        refiner_layers: Blocks of a refiner.
        sampling_steps: Steps of a sampling, at least 2; each is a pass of the score network.
        sampling_seed: Seed of the noise of predictions.
        cond_noise: Whether in training the noise of the condition is that of the target (``shared``) or its own
            (``independent``).
        idle_recovery: Whether a batch in which a modality is never missing trains scores, maps and refiners, too.
        lambda_score: Weight >= 0 of the errors of the noise.
        lambda_rec: Weight >= 0 of the mean squared errors of recovered modalities.
        dropout_text: Dropout on text features.
        attn_dropout_text: Dropout on attention weights where text is the source, and in the memory encoders.
        attn_dropout_audio: The same where audio is the source.
        attn_dropout_vision: The same where vision is the source.
        relu_dropout: Dropout in feed-forward networks.
        embed_dropout: Dropout on embedded sequences.
        res_dropout: Dropout on residual branches.
        out_dropout: Dropout in the output block.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained, in stage ``complete``.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam, in stage ``task``.
        lr_patience: Epochs without a better ``val/task`` before the learning rate is halved; None keeps it constant.
        gradient_clip: Largest size of a gradient's entry; None for no limit.

    Raises:
        MSABenchError: An argument outside its range, a kernel longer than the text, or training on batches without
            their complete version.
    """

    info = MethodInfo(
        name="imder",
        title="Incomplete Multimodality-Diffused Emotion Recognition",
        venue="NeurIPS",
        year=2023,
        url="https://openreview.net/forum?id=BuGFwUS9B3",
        fidelity="parity",
        code_url="https://github.com/mdswyz/IMDer",
        code_commit="1901a92",
        licence="MIT",
        variants=("fast",),
        trains_with=("complete",),
        smoke={
            "complete_epochs": 1,
            "dim": 12,
            "heads": 2,
            "layers": 1,
            "kernel_size": 3,
            "score_layers": 1,
            "refiner_layers": 1,
            "sampling_steps": 2,
            "lr": 5e-4,
        },
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        complete_epochs: int = 20,
        complete_lr: float = 1e-4,
        dim: int = 32,
        heads: int = 8,
        layers: int = 4,
        kernel_size: int = 3,
        score_layers: int = 2,
        refiner_layers: int = 20,
        sampling_steps: int = 100,
        sampling_seed: int = 0,
        cond_noise: Literal["shared", "independent"] = "shared",
        idle_recovery: bool = True,
        lambda_score: float = 0.1,
        lambda_rec: float = 0.1,
        dropout_text: float = 0.0,
        attn_dropout_text: float = 0.0,
        attn_dropout_audio: float = 0.2,
        attn_dropout_vision: float = 0.0,
        relu_dropout: float = 0.0,
        embed_dropout: float = 0.2,
        res_dropout: float = 0.0,
        out_dropout: float = 0.0,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 1e-4,
        lr: float = 2e-3,
        lr_patience: int | None = 24,
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__(
            spec,
            variant=variant,
            complete_epochs=complete_epochs,
            complete_lr=complete_lr,
            dim=dim,
            heads=heads,
            layers=layers,
            kernel_size=kernel_size,
            refiner_layers=refiner_layers,
            idle_recovery=idle_recovery,
            dropout_text=dropout_text,
            attn_dropout={"text": attn_dropout_text, "audio": attn_dropout_audio, "vision": attn_dropout_vision},
            head_dropouts={
                "relu_dropout": relu_dropout,
                "embed_dropout": embed_dropout,
                "res_dropout": res_dropout,
                "out_dropout": out_dropout,
            },
            text_encoder=text_encoder,
            finetune=finetune,
            text_lr=text_lr,
            lr=lr,
            lr_patience=lr_patience,
            gradient_clip=gradient_clip,
        )
        if sampling_steps < 2:
            raise MSABenchError(f"sampling_steps {sampling_steps} is not allowed; give at least 2")
        if cond_noise not in _COND_NOISE:
            raise one_of("cond_noise", cond_noise, _COND_NOISE)
        self.sampling_steps = _FAST_STEPS if variant == "fast" else sampling_steps
        self.sampling_seed = sampling_seed
        self.cond_noise = cond_noise
        self.lambda_score = lambda_score
        self.lambda_rec = lambda_rec
        self.scores = nn.ModuleDict({m: ScoreNetwork(dim, heads, score_layers) for m in MODALITIES})

    def guess(self, modality: str, streams: dict[str, Tensor], available: Tensor) -> Tensor:
        """Sample the modality, without gradients."""
        with torch.no_grad():
            condition = self._condition(modality, streams, available)
            noises = self._noises(modality, condition)
            return sampled(self.scores[modality], condition, noises, self.sampling_steps)

    def generative_errors(
        self, streams: dict[str, Tensor], targets: dict[str, Tensor], missing: Tensor, batch: Batch
    ) -> Tensor:
        """Errors of the noise for the modalities that are missing, 0 for others."""
        errors = torch.zeros(missing.shape, dtype=targets["text"].dtype, device=missing.device)
        for column, m in enumerate(MODALITIES):
            (rows,) = missing[:, column].nonzero(as_tuple=True)
            if self.anywhere(rows):
                condition = self._condition(m, {n: x[rows] for n, x in streams.items()}, ~missing[rows])
                sizes = self.device_shares(len(rows))
                time = torch.rand(sum(sizes), device=condition.device, dtype=condition.dtype)
                time = self.own_rows(time, sizes) * (1 - _EARLIEST_TRAINED) + _EARLIEST_TRAINED
                noise = self._drawn_like(condition, sizes)
                other = noise if self.cond_noise == "shared" else self._drawn_like(condition, sizes)
                found = denoising_error(self.scores[m], targets[m][rows], condition, time, noise, other)
                errors = errors.index_put((rows, torch.full_like(rows, column)), found.to(errors.dtype))
        return errors

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """Task term, and for each clip the errors of noise and recovery, summed over its missing modalities."""
        terms = super().loss(out, batch)
        if self.stage == "task":
            terms["score"] = self.lambda_score * out.aux["generative"].sum(1).mean()
            terms["rec"] = self.lambda_rec * out.aux["rec"].sum(1).mean()
        return terms

    def _condition(self, modality: str, streams: dict[str, Tensor], available: Tensor) -> Tensor:
        first, second = (streams[n] for n in sources_of(modality))
        return self.merged(modality, first, second, available)

    def _noises(self, modality: str, like: Tensor) -> Iterator[Tensor]:
        """Noise of deviation 1 for one sampling: fresh in training, else ``(T, d)`` that all clips share."""
        if self.training:
            sizes = self.device_shares(len(like))
            while True:
                yield self._drawn_like(like, sizes)
        generator = torch.Generator().manual_seed(3 * self.sampling_seed + MODALITIES.index(modality))
        for _ in range(2 * self.sampling_steps + 1):
            yield torch.randn(like.shape[1:], generator=generator).to(like)

    def _drawn_like(self, x: Tensor, sizes: list[int]) -> Tensor:
        """Noise for sequences ``(B, T, d)``, drawn channel by channel as in the official code, on all devices together.

        Args:
            x: The sequences.
            sizes: How many of them each device has.
        """
        drawn = torch.randn(sum(sizes), x.shape[2], x.shape[1], device=x.device, dtype=x.dtype)
        return self.own_rows(drawn, sizes).transpose(1, 2)
