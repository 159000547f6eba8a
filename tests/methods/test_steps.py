"""How gradients become steps: summed batches, clipping, turns that some batches take, further steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.data.datamodule import MSADataModule
from msabench.data.info import DataSpec
from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus


class Plain(MSAMethod):
    """A linear model, trained by SGD's cousin Adam; remembers its batches."""

    info = MethodInfo(name="plain", title="t", venue="v", year=2026, url="u", fidelity="reference")

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        gradient_clip: float | None = None,
        clip_by: Literal["norm", "value", "group"] = "norm",
        accumulate: int = 1,
    ) -> None:
        super().__init__(
            spec, variant=variant, lr=0.01, gradient_clip=gradient_clip, clip_by=clip_by, accumulate=accumulate
        )
        self.side = nn.Linear(spec.feature_dims["audio"], 1)
        self.head = nn.Linear(spec.feature_dims["text"], 1)
        self.batches: list[tuple[str, Batch]] = []

    def forward(self, batch: Batch) -> Output:
        text, audio = batch.features["text"].mean(1), batch.features["audio"].mean(1)
        return Output(pred=(self.head(text) + self.side(audio)).squeeze(-1))

    def training_forward(self, batch: Batch) -> Output:
        self.batches.append((self.turn, batch))
        return self(batch)

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        assert batch.labels is not None
        return {"task": self.task_loss(out.pred, batch.labels)}


class Passes(Plain):
    """Two turns that each go over the training split in every epoch, the first until its third batch."""

    schedule: ClassVar[dict[str, tuple[str, ...]]] = {"task": ("bounds", "main")}

    @property
    def data_needs(self) -> Needs:
        return replace(super().data_needs, passes=2)

    def turns_of(self, number: int, batches: int) -> dict[str, int]:
        which, place = divmod(number, -(-batches // 2))
        return {"main": place} if which else {"bounds": place} if place < 3 else {}

    def param_groups(self) -> list[dict[str, Any]]:
        part = {"bounds": self.side, "main": self.head}[self.turn]
        return [{"params": list(part.parameters())}]


def data(size: int = 5) -> MSADataModule:
    return data_module(random_corpus(), batch_size=size)


def fitted(cls: type[Plain], folder: Path, epochs: int, source: MSADataModule, **settings: Any) -> Plain:
    torch.manual_seed(0)
    method = cls(source.spec, **settings)
    quiet_trainer(folder, epochs).fit(method, datamodule=source)
    return method


def fresh(cls: type[Plain], source: MSADataModule) -> Plain:
    torch.manual_seed(0)
    return cls(source.spec)


def assert_same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name


@pytest.mark.parametrize("clip_by", ["norm", "value"])
def test_summed_batches_as_official_codes_do(tmp_path: Path, clip_by: Literal["norm", "value"]) -> None:
    """Five batches an epoch, steps after the second and fourth; the fifth is dropped; clipped after every batch."""
    source = data()
    method = fitted(Plain, tmp_path, 2, source, accumulate=2, gradient_clip=0.05, clip_by=clip_by)
    assert len(method.batches) == 10

    by_hand = fresh(Plain, source)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=0.01)
    clip = {"norm": nn.utils.clip_grad_norm_, "value": nn.utils.clip_grad_value_}[clip_by]
    for epoch in (method.batches[:5], method.batches[5:]):
        optimizer.zero_grad()
        for number, (_, batch) in enumerate(epoch):
            by_hand.loss(by_hand(batch), batch)["task"].backward()
            clip(by_hand.parameters(), 0.05)
            if number % 2:
                optimizer.step()
                optimizer.zero_grad()
    assert_same_weights(method, by_hand)


def test_sums_differ_from_means_where_gradients_are_clipped(tmp_path: Path) -> None:
    """The reason for an option of our own: the trainer's accumulation would give other weights."""
    source = data()
    summed = fitted(Plain, tmp_path, 1, source, accumulate=2, gradient_clip=0.05)
    single = fitted(Plain, tmp_path, 1, source, accumulate=1, gradient_clip=0.05)
    assert not torch.allclose(summed.head.weight, single.head.weight)


class Grouped(Plain):
    """Its two layers are two groups."""

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(part.parameters())} for part in (self.side, self.head)]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_groups_are_limited_each_by_itself(tmp_path: Path, accumulate: int) -> None:
    """The gradient of a small group does not shrink because that of another is large."""
    source, settings = data(6), {"gradient_clip": 0.05, "accumulate": accumulate}
    method = fitted(Grouped, tmp_path, 1, source, clip_by="group", **settings)
    by_hand = fresh(Grouped, source)
    optimizer = torch.optim.Adam(by_hand.param_groups(), lr=0.01)
    for number, (_, batch) in enumerate(method.batches):
        if number % accumulate == 0:
            optimizer.zero_grad()
        by_hand.loss(by_hand(batch), batch)["task"].backward()
        for part in (by_hand.side, by_hand.head):
            before = nn.utils.clip_grad_norm_(part.parameters(), 0.05)
            assert before > 0.05
        if (number + 1) % accumulate == 0:
            optimizer.step()
    assert_same_weights(method, by_hand)
    if accumulate == 2:  # the sum of gradients of other sizes has another direction
        joint = fitted(Grouped, tmp_path, 1, source, clip_by="norm", **settings)
        assert not torch.allclose(method.head.weight, joint.head.weight, atol=1e-6)


PARTS = {"bounds": "side", "main": "head"}


def test_turns_with_passes_of_their_own(tmp_path: Path) -> None:
    source = data()
    method = fitted(Passes, tmp_path, 2, source, gradient_clip=0.05, accumulate=2)
    assert [turn for turn, _ in method.batches] == (["bounds"] * 3 + ["main"] * 5) * 2

    # Each pass has an order of its own.
    passes = [torch.cat([batch.index for _, batch in method.batches[i : i + n]]) for i, n in ((0, 3), (3, 5), (11, 5))]
    assert all(torch.equal(order.sort().values, torch.arange(24)) for order in passes[1:])
    assert len({tuple(order[:15].tolist()) for order in passes}) == 3

    by_hand = fresh(Passes, source)
    optimizers = {turn: torch.optim.Adam(getattr(by_hand, part).parameters(), lr=0.01) for turn, part in PARTS.items()}
    for turn, batches in ((turn, method.batches[i : i + n]) for turn, i, n in ORDER):
        part = getattr(by_hand, PARTS[turn])
        for number, (_, batch) in enumerate(batches):
            if number % 2 == 0:
                by_hand.zero_grad()
            by_hand.loss(by_hand(batch), batch)["task"].backward()
            nn.utils.clip_grad_norm_(part.parameters(), 0.05)
            if number % 2:
                optimizers[turn].step()
    assert_same_weights(method, by_hand)


ORDER = (("bounds", 0, 3), ("main", 3, 5), ("bounds", 8, 3), ("main", 11, 5))
"""Turn, where its pass begins and how many batches it has."""


def test_steps_beyond_those_of_a_group(tmp_path: Path) -> None:
    class Further(Plain):
        def steps_after(self, place: int) -> int:
            return super().steps_after(place) + int(place == 2)

    source = data()
    method = fitted(Further, tmp_path, 1, source, accumulate=2)
    by_hand = fresh(Further, source)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=0.01)
    for number, (_, batch) in enumerate(method.batches):
        if number % 2 == 0:
            optimizer.zero_grad()
        by_hand.loss(by_hand(batch), batch)["task"].backward()
        for _ in range({1: 1, 2: 1, 3: 1}.get(number, 0)):
            optimizer.step()
    assert_same_weights(method, by_hand)


def test_logged_means_are_over_the_clips_of_a_turns_own_pass(tmp_path: Path) -> None:
    source = data()
    torch.manual_seed(0)
    method = Passes(source.spec)
    trainer = quiet_trainer(tmp_path, 1)
    trainer.fit(method, datamodule=source)
    size = sum(batch.size for turn, batch in method.batches if turn == "main")
    assert size == 24
    # With no step taken in its pass, the turn's mean is that of the untrained model.
    untrained = fresh(Passes, source)
    bounds = [batch for turn, batch in method.batches if turn == "bounds"]
    losses = [untrained.loss(untrained(batch), batch)["task"] * batch.size for batch in bounds]
    first = float(trainer.callback_metrics["train/loss_bounds"])
    assert first == pytest.approx(
        float(torch.stack(losses).sum().detach() / sum(batch.size for batch in bounds)), rel=0.1
    )


def test_accumulate_must_be_positive() -> None:
    with pytest.raises(MSABenchError, match="accumulate 0 is not allowed; give at least 1"):
        Plain(data().spec, accumulate=0)


@pytest.mark.parametrize(
    ("cls", "settings", "limit", "message"),
    [
        # 24 clips in batches of 5 are 5 batches.
        (
            Plain,
            {"accumulate": 6},
            1.0,
            "plain takes its first step after 6 batches, but an epoch has 5, so it would never take one; "
            "give a smaller data.batch_size or a smaller model.init_args.accumulate",
        ),
        (
            Plain,
            {"accumulate": 2},
            1,
            "after 2 batches, but an epoch has 1, .* or a larger trainer.limit_train_batches",
        ),
        (
            Passes,
            {"accumulate": 4},
            1.0,
            "after 4 batches, but turn 'bounds' of an epoch has 3, ",
        ),
        (
            Passes,
            {},
            1,
            "after 1 batches, but turn 'main' of an epoch has 0, so it would never take one; "
            "give a smaller data.batch_size or a larger trainer.limit_train_batches",
        ),
    ],
)
def test_a_training_without_a_step_is_refused(
    cls: type[Plain], settings: dict[str, Any], limit: float, message: str, tmp_path: Path
) -> None:
    source = data()
    method = cls(source.spec, **settings)
    with pytest.raises(MSABenchError, match=message):
        quiet_trainer(tmp_path, 1, limit_train_batches=limit).fit(method, datamodule=source)
    # As many as there are will do.
    enough = cls(source.spec, accumulate=3 if cls is Passes else 5)
    before = enough.head.weight.detach().clone()
    quiet_trainer(tmp_path, 1).fit(enough, datamodule=source)
    assert not torch.equal(enough.head.weight, before)


def test_the_trainers_own_accumulation_steps_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    source = data()
    method = fresh(Plain, source)
    before = method.head.weight.detach().clone()
    quiet_trainer(tmp_path, 1, accumulate_grad_batches=100).fit(method, datamodule=source)
    assert not torch.equal(method.head.weight, before)
