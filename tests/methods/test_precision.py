"""Every method trains and predicts in every precision of the trainer."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from msabench.data.info import DataSpec
from msabench.data.needs import Needs
from msabench.evaluation.evaluate import evaluate_grid
from msabench.losses.distances import squared_distances
from msabench.methods import registry
from msabench.methods.base import MSAMethod
from msabench.methods.checkpoint import load_checkpoint
from msabench.missingness.conditions import Cell
from msabench.missingness.config import MissingConfig
from msabench.nn.crossmodal import CrossmodalEncoder
from msabench.nn.positions import sinusoidal_positions
from msabench.nn.score_classes import LabelClasses, ScoreClasses
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus

METHODS = sorted(registry.methods())
VARIANTS = [(name, variant) for name in METHODS for variant in registry.method_info(name).variants]
TYPES = {"64-true": torch.float64, "bf16-mixed": torch.float32, "bf16-true": torch.bfloat16}
CELL = Cell.parse("inter/la+intra/0.3")


def build(name: str, spec: DataSpec, **changes: object) -> MSAMethod:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return registry.method_class(name)(spec, **{**registry.method_info(name).smoke, **changes})


def fitted(name: str, precision: str, folder: Path) -> tuple[MSAMethod, object, object]:
    data = data_module(random_corpus(), batch_size=12, missing=MissingConfig(regime="mixed"))
    method = build(name, data.spec)
    # Two epochs of a stage, since some methods remember the one before.
    epochs = 2 + sum(method.stage_epochs.values())
    trainer = quiet_trainer(folder, epochs, precision=precision)
    trainer.fit(method, datamodule=data)
    return method, data, trainer


@pytest.mark.by_sources(method="name")
@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("name", METHODS)
def test_a_fit_and_its_evaluation(name: str, precision: str, tmp_path: Path) -> None:
    method, data, trainer = fitted(name, precision, tmp_path)
    assert {p.dtype for p in method.parameters()} <= {TYPES[precision]}
    assert torch.isfinite(trainer.callback_metrics["val/task"])
    (entry,) = evaluate_grid(method, data, [CELL], (0,)).cells
    assert entry.preds.dtype == "float32"


@pytest.mark.by_sources(method="name")
@pytest.mark.parametrize("name", METHODS)
def test_double_precision_predicts_what_single_precision_does(name: str) -> None:
    data = data_module(random_corpus())
    single, double = build(name, data.spec).eval(), build(name, data.spec).eval().double()
    batch = next(data.cell_batches(CELL, 0))
    expected = single(batch).pred.detach()
    torch.set_default_dtype(torch.float64)  # as Lightning does in a step
    try:
        found = double(batch.in_type(double.dtype)).pred.detach()
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(single(batch).pred, expected)


@pytest.mark.by_sources(method="name")
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_variants_learn_in_half_precision(name: str, variant: str) -> None:
    data = data_module(random_corpus(), missing=MissingConfig(regime="mixed"))
    method = build(name, data.spec, variant=variant).to(torch.bfloat16)
    batch = data.training_batch(torch.arange(12), 0, needs=method.data_needs).in_type(method.dtype)
    for stage in method.stages:
        method.enter_stage(stage)
        for turn in method.turns:
            method.turn = turn
            torch.set_default_dtype(torch.bfloat16)
            try:
                total = torch.stack(list(method.loss(method.training_forward(batch), batch).values())).sum()
            finally:
                torch.set_default_dtype(torch.float32)
            total.backward()
            assert torch.isfinite(total)
            assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@pytest.mark.by_sources(method="name")
@pytest.mark.parametrize(("name", "precision"), [("mult", "64-true"), ("self_mm", "bf16-mixed"), ("smil", "bf16-true")])
def test_checkpoints_are_evaluated_in_single_precision(name: str, precision: str, tmp_path: Path) -> None:
    method, data, trainer = fitted(name, precision, tmp_path)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded, _ = load_checkpoint(tmp_path / "a.ckpt")
    assert loaded.dtype == torch.float32
    (entry,) = evaluate_grid(loaded, data, [CELL], (0,)).cells
    (in_its_own,) = evaluate_grid(method, data, [CELL], (0,)).cells
    near = {"64-true": 1e-5, "bf16-mixed": 1e-5, "bf16-true": 0.05}[precision]
    assert entry.preds == pytest.approx(in_its_own.preds, abs=near)


def test_features_change_their_type_and_labels_lose_no_digits() -> None:
    data = data_module(random_corpus())
    batch = data.training_batch(torch.arange(4), 0, needs=Needs(views=True, complete=True))
    assert batch.in_type(torch.float32) is batch
    half = batch.in_type(torch.bfloat16)
    for part in (half, half.complete, *half.views):
        assert {values.dtype for values in part.features.values()} == {torch.bfloat16}
    assert torch.equal(half.labels, batch.labels)
    assert half.labels.dtype == torch.float32
    assert batch.in_type(torch.float64).labels.dtype == torch.float64
    emotions = data_module(random_corpus("emotions")).training_batch(torch.arange(4), 0)
    assert emotions.in_type(torch.float64).labels.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_crossmodal_tables_of_one_type_are_not_given_to_another(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    encoder = CrossmodalEncoder(8, 2, 1)
    x, source = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
    wide = copy.deepcopy(encoder).to(dtype)
    torch.set_default_dtype(dtype)
    try:
        found = wide(x.to(dtype), source.to(dtype))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), encoder(x, source), atol=1e-5 if dtype == torch.float64 else 0.1, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tables_made_within_a_step_are_as_good_as_those_made_before(dtype: torch.dtype) -> None:
    expected = sinusoidal_positions(300, 6)
    torch.set_default_dtype(dtype)
    try:
        assert torch.equal(sinusoidal_positions(300, 6), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_labels_on_an_edge_stay_in_their_class(dtype: torch.dtype) -> None:
    spec = DataSpec({}, {}, task="regression", metric_set="sims", label_range=(-1.0, 1.0), n_train=5)
    labels = torch.tensor([-0.7, -0.1, 0.1, 0.7])
    torch.set_default_dtype(dtype)
    try:
        of = ScoreClasses(spec).of(labels.to(torch.promote_types(labels.dtype, dtype)))
    finally:
        torch.set_default_dtype(torch.float32)
    assert of.tolist() == [0, 1, 2, 3]


def test_a_sum_over_the_training_goes_on_in_half_precision() -> None:
    spec = DataSpec({}, {}, task="regression", metric_set="sentiment", label_range=(-3.0, 3.0), n_train=5)
    classes = LabelClasses(spec, "polarity").bfloat16()
    for _ in range(1000):
        classes.observe(torch.full((8,), 2.0))
    # Summed in bfloat16 they would stop at 2048 clips.
    assert classes.sizes.tolist() == [16001.5, 8001.0]
    assert classes.double().sizes.dtype == torch.float64


def test_distances_are_of_single_precision_at_least() -> None:
    a = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = squared_distances(a, a)
    assert found.dtype == torch.float32
    assert torch.equal(found, squared_distances(a.float(), a.float()))
    assert squared_distances(a.double(), a.double()).dtype == torch.float64
