"""Every check that methods are held to catches the fault that it is there for, and says it in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msabench.data import batches
from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods import registry
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.testing import check_method, checks, checks_of, method_tests


class Sound(MSAMethod):
    """Means over the observed steps of each modality, then two layers.

    Args:
        spec: What the data look like.
        variant: Only ``default``.
    """

    info = MethodInfo(name="sound", title="", venue="", year=0, url="", fidelity="reference", variants=("other",))

    def __init__(self, spec: DataSpec, *, variant: str = "default") -> None:
        super().__init__(spec, variant=variant)
        self.net = nn.Sequential(nn.Linear(sum(spec.feature_dims.values()), 8), nn.ReLU(), nn.Linear(8, self.n_outputs))

    def forward(self, batch: Batch) -> Output:
        means = [self.mean(batch, modality) for modality in batch.features]
        return Output(self.to_pred(self.net(torch.cat(means, dim=1))))

    def mean(self, batch: Batch, modality: str) -> Tensor:
        return batch.features[modality].sum(1) / batch.observed[modality].sum(1, keepdim=True).clamp(min=1)


class Changed(Sound):
    """Does something to what a sound method predicts."""

    def score(self, batch: Batch) -> Tensor:
        return super().forward(batch).pred


class ComparesClips(Changed):
    def forward(self, batch: Batch) -> Output:
        return Output(self.score(batch) - self.score(batch).mean())


class CountsClips(Changed):
    def forward(self, batch: Batch) -> Output:
        return Output(self.score(batch) + 0.01 * torch.arange(batch.size))


class Draws(Changed):
    def forward(self, batch: Batch) -> Output:
        return Output(self.score(batch) + torch.rand(batch.size))


class DividesByNothing(Sound):
    def mean(self, batch: Batch, modality: str) -> Tensor:
        return batch.features[modality].sum(1) / batch.observed[modality].sum(1, keepdim=True)


class Raises(Sound):
    def mean(self, batch: Batch, modality: str) -> Tensor:
        if not batch.observed[modality].any():
            raise IndexError("nothing to look at")
        return super().mean(batch, modality)


class KeepsAnAxis(Changed):
    def forward(self, batch: Batch) -> Output:
        return Output(self.score(batch).unsqueeze(-1))


class Doubles(Changed):
    def forward(self, batch: Batch) -> Output:
        return Output(self.score(batch).double())


class Deaf(Sound):
    def mean(self, batch: Batch, modality: str) -> Tensor:
        return super().mean(batch, modality) * (modality != "audio")


class TakesTheSecondStep(Sound):
    def mean(self, batch: Batch, modality: str) -> Tensor:
        return super().mean(batch, modality) + batch.features[modality][:, 1]


class DeadParameter(Sound):
    def __init__(self, spec: DataSpec, *, variant: str = "default") -> None:
        super().__init__(spec, variant=variant)
        self.spare = nn.Linear(3, 3)


class DetachesWhatStandsAlone(Sound):
    def __init__(self, spec: DataSpec, *, variant: str = "default") -> None:
        super().__init__(spec, variant=variant)
        self.gate = nn.Parameter(torch.ones(()))

    def forward(self, batch: Batch) -> Output:
        there = torch.stack([batch.observed[modality].any(dim=1) for modality in batch.features]).sum(dim=0)
        return Output(super().forward(batch).pred * torch.where(there == 1, self.gate.detach(), self.gate))


class Climbs(Sound):
    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        task = super().loss(out, batch)["task"]
        return {"task": task, "other": -2 * task}


class NamesNoTask(Sound):
    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        return {"score": super().loss(out, batch)["task"]}


class SpreadOfTheBatch(Sound):
    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        return {**super().loss(out, batch), "spread": out.pred.std()}


class OverTheClipsThatHaveIt(Sound):
    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        there = batch.observed["audio"].any(1)
        return {**super().loss(out, batch), "audio": out.pred[there].abs().mean()}


class Remembers(Sound):
    """Learns something that no checkpoint holds."""

    info = MethodInfo(name="remembers", title="", venue="", year=0, url="", fidelity="reference")

    def __init__(self, spec: DataSpec, *, variant: str = "default") -> None:
        super().__init__(spec, variant=variant)
        self.seen = 0

    def training_forward(self, batch: Batch) -> Output:
        self.seen += 1
        return self(batch)

    def forward(self, batch: Batch) -> Output:
        return Output(super().forward(batch).pred + self.seen)


class GrowsLater(Sound):
    """Has parameters after a training that it does not have before."""

    info = MethodInfo(name="grows_later", title="", venue="", year=0, url="", fidelity="reference")

    def training_forward(self, batch: Batch) -> Output:
        self.late = nn.Linear(3, 3)
        return self(batch)


class AnyVariant(Sound):
    def __init__(self, spec: DataSpec, *, variant: str = "default") -> None:
        super().__init__(spec)


class FailsInAVariant(Sound):
    def forward(self, batch: Batch) -> Output:
        if self.variant == "other":
            raise KeyError("other")
        return super().forward(batch)


class EvaluatesItself(Sound):
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        pass


class TakesAnything(Sound):
    """.

    Args:
        spec: .
    """

    def __init__(self, spec: DataSpec, **options: Any) -> None:
        super().__init__(spec, **options)


class SaysNothing(Sound):
    """Documents no argument but spec: so does no help."""


FAULTS = [
    (ComparesClips, "batch_composition", "no clip must depend on those beside it"),
    (CountsClips, "order_of_clips", "with the order of the clips"),
    (Draws, "batch_composition", "a second prediction differs"),
    (DividesByNothing, "every_cell-regression", "cell inter/l: 10 predictions are not finite"),
    (Raises, "every_cell-regression", "cell inter/l: the method raises IndexError: nothing to look at"),
    (KeepsAnAxis, "every_cell-regression", "have shape (10, 1), expected (10,)"),
    (Doubles, "every_cell-emotions", "predictions are torch.float64, expected float32"),
    (Deaf, "present_modality_is_read", "cell inter/a: audio moves no prediction, and info.reads names it"),
    (TakesTheSecondStep, "sequences_of_length_one", "clips of one step: the method raises IndexError"),
    (DeadParameter, "gradient_reaches_every_parameter-mixed", "no gradient reaches spare.bias, spare.weight"),
    (DeadParameter, "gradient_reaches_every_parameter-random_table", "no gradient reaches spare.bias, spare.weight"),
    (
        DetachesWhatStandsAlone,
        "specialist_trains_what_it_reads-a",
        "regime only(a): the task term reads gate, which no",
    ),
    (NamesNoTask, "gradient_reaches_every_parameter-complete", "has no term task, but score"),
    (Climbs, "twenty_steps_lower_the_loss-regression", "it must fall"),
    (SpreadOfTheBatch, "batch_of_one", "a batch of one clip: loss term spread is not finite"),
    (OverTheClipsThatHaveIt, "modality_missing_for_a_whole_batch", "a batch without audio: loss term audio is not"),
    (Remembers, "checkpoint_round_trip", "rebuilding from a checkpoint: it predicts something else"),
    (GrowsLater, "checkpoint_round_trip", "rebuilding from a checkpoint: the method raises RuntimeError"),
    (AnyVariant, "unknown_variant_is_refused", "variant nonsense is taken; hand variant on"),
    (FailsInAVariant, "every_variant", "variant other: the method raises KeyError"),
    (EvaluatesItself, "evaluation_is_the_base_s", "EvaluatesItself overrides validation_step"),
    (TakesAnything, "arguments_are_explicit_and_documented", "the constructor takes **options"),
    (SaysNothing, "arguments_are_explicit_and_documented", "the docstring of SaysNothing does not say what variant is"),
]


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes here are methods for one test each."""
    monkeypatch.setattr(registry, "_found_by_path", {})


def check(cls: type[MSAMethod], name: str, folder: Path) -> None:
    [found] = [one for one in checks_of(cls.info) if str(one) == name]
    found(cls, folder)


@pytest.mark.parametrize(("cls", "name", "sentence"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_fault_is_caught(cls: type[MSAMethod], name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as caught:
        check(cls, name, tmp_path)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value).partition("raises")[0]


@pytest.mark.parametrize("name", sorted({name for _, name, _ in FAULTS}))
def test_a_sound_method_passes(name: str, tmp_path: Path) -> None:
    check(Sound, name, tmp_path)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("removed_modality_tells_nothing-text", "cell inter/av: predictions move by up to"),
        ("unobserved_frames", "cell intra/0.5: predictions move by up to"),
    ],
)
def test_what_is_missing_and_reaches_a_method_is_noticed(
    name: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(Sound, name, tmp_path)
    original = batches.build_batch

    def leaky(split: Any, masks: Any, index: Any, **settings: Any) -> Batch:
        batch = original(split, masks, index, **settings)
        return Batch(**{**vars(batch), "features": {m: split.features[m][index].clone() for m in batch.features}})

    monkeypatch.setattr(batches, "build_batch", leaky)
    with pytest.raises(AssertionError) as caught:
        check(Sound, name, tmp_path)
    assert sentence in str(caught.value)


def test_labels_in_an_evaluation_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(Sound, "evaluation_sees_no_training_information", tmp_path)
    monkeypatch.setattr(Batch, "for_inference", lambda self: self)
    with pytest.raises(AssertionError, match="forward sees labels in an evaluation"):
        check(Sound, "evaluation_sees_no_training_information", tmp_path)


def test_a_class_that_no_config_could_name_is_noticed(tmp_path: Path) -> None:
    check(Sound, "found_by_its_class_path", tmp_path)

    class Hidden(Sound):
        """Stands in a function."""

    with pytest.raises(MSABenchError, match=r"class path .*<locals>"):
        check(Hidden, "found_by_its_class_path", tmp_path)


def test_each_check_has_a_report_of_its_own() -> None:
    by_class, by_path = method_tests(Sound), method_tests(f"{__name__}.Sound")
    [mark] = by_class.pytestmark
    names = [str(one) for one in mark.args[1]]
    assert mark.args[0] == "check"
    assert len(set(names)) == len(names) == 35
    assert {name for _, name, _ in FAULTS} <= set(names)
    assert [str(one) for one in by_path.pytestmark[0].args[1]] == names
    with pytest.raises(MSABenchError, match="unknown method class 'nonsense'"):
        method_tests("nonsense")


def test_checks_follow_from_what_a_method_says_of_itself() -> None:
    info = MethodInfo("x", "", "", 0, "", "reference", tasks=("regression",))
    names = {str(one) for one in checks_of(info)}
    assert "every_cell-regression" in names
    assert not {"every_cell-emotions", "every_variant"} & names


def test_all_checks_at_once_name_those_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [one for one in checks_of(Sound.info) if str(one) in ("batch_composition", "order_of_clips")]
    monkeypatch.setattr(checks, "checks_of", lambda info: few)
    check_method(Sound)
    with pytest.raises(AssertionError) as caught:
        check_method(ComparesClips)
    lines = str(caught.value).splitlines()
    assert lines[0] == "ComparesClips fails 1 checks"
    assert lines[1].startswith("- batch_composition: cell inter/v: predictions differ by up to")
