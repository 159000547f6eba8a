"""What every method must hold, for every method that is registered."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from msabench.data.batch import Batch
from msabench.data.datamodule import MSADataModule
from msabench.errors import MSABenchError
from msabench.methods import registry
from msabench.methods.base import MSAMethod, Output
from msabench.methods.checkpoint import load_checkpoint
from msabench.missingness.conditions import INTER, LETTERS, MODALITIES, Cell
from msabench.missingness.config import MissingConfig
from tests.support.fakes import data_module, quiet_trainer, random_corpus, with_other_content

METHODS = sorted(registry.methods())
CELLS = [*INTER, *(Cell.parse(name) for name in ("intra/0.5", "intra/0.9", "intra/1.0", "inter/la+intra/0.3"))]
TASKS = ("regression", "emotions")


def build(name: str, data: MSADataModule, **changes: object) -> MSAMethod:
    """A tiny instance of a method, seeded, in the last turn of its last stage."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = registry.method_class(name)(data.spec, **{**registry.method_info(name).smoke, **changes})
    method.enter_stage(method.stages[-1])
    method.turn = method.turns[-1]
    if name == "constant":
        with torch.no_grad():
            method.value += 0.25
    return method


def training_batch(method: MSAMethod, data: MSADataModule, rows: int = 12, epoch: int = 0) -> Batch:
    """The first training clips with what the method asks for."""
    return data.training_batch(torch.arange(rows), epoch, needs=method.data_needs)


def predict(method: MSAMethod, data: MSADataModule, cell: Cell, batch_size: int = 96) -> torch.Tensor:
    """Predictions of the test split."""
    method.eval()
    with torch.no_grad():
        needs = method.data_needs
        batches = data.cell_batches(cell, 0, needs=needs, batch_size=batch_size)
        preds = torch.cat([method(batch.for_inference()).pred for batch in batches])
        return data.in_file_order(preds, needs=needs)


def supported(name: str, task: str) -> None:
    if task not in registry.method_info(name).tasks:
        pytest.skip(f"{name} does not handle {task}")


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("name", METHODS)
def test_every_cell_gives_finite_predictions_of_the_right_shape(name: str, task: str) -> None:
    supported(name, task)
    data = data_module(random_corpus(task))
    method = build(name, data)
    for cell in CELLS:
        pred = predict(method, data, cell)
        assert pred.shape == ((10, 4, 2) if task == "emotions" else (10,))
        assert pred.dtype == torch.float32
        assert torch.isfinite(pred).all()


@pytest.mark.parametrize("name", METHODS)
def test_every_variant_trains_and_predicts(name: str) -> None:
    data = data_module(random_corpus(), missing=MissingConfig(regime="mixed"))
    for variant in registry.method_info(name).variants:
        method = build(name, data, variant=variant)
        batch = training_batch(method, data)
        for stage in method.stages:
            method.enter_stage(stage)
            for turn in method.turns:
                method.turn = turn
                terms = method.loss(method.training_forward(batch), batch)
                assert all(torch.isfinite(term) for term in terms.values())
        assert torch.isfinite(predict(method, data, CELLS[3])).all()


@pytest.mark.parametrize("name", METHODS)
def test_unknown_variant_is_refused(name: str) -> None:
    data = data_module(random_corpus())
    with pytest.raises(MSABenchError, match="unknown variant"):
        build(name, data, variant="nonsense")


@pytest.mark.parametrize("regime", ["complete", "intra", "inter", "mixed", "mixed_fsrf", "lnln"])
@pytest.mark.parametrize("name", METHODS)
def test_loss_is_finite_and_gradient_reaches_every_parameter(name: str, regime: str) -> None:
    data = data_module(random_corpus(), missing=MissingConfig(regime=regime))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = registry.method_class(name)(data.spec, **registry.method_info(name).smoke).train()
        with torch.no_grad():  # a LayerNorm's gain gets no gradient as long as what it normalises is all ones
            for parameter in method.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
    silent = set(dict(method.named_parameters()))
    torch.manual_seed(0)
    for stage in method.stages:
        method.enter_stage(stage)
        for turn in method.turns:
            method.turn = turn
            # ReLUs may be dead for a batch; over three epochs of masks every parameter must have moved.
            for epoch in range(3):
                # An odd number of clips: L1's gradients are signs, and an even number of them can cancel exactly.
                batch = training_batch(method, data, rows=11, epoch=epoch)
                terms = method.loss(method.training_forward(batch), batch)
                assert all(torch.isfinite(term) for term in terms.values())
                total = torch.stack(list(terms.values())).sum()
                if total.requires_grad:
                    total.backward()
            served = {id(p) for group in method.param_groups() for p in group["params"]}
            for key, parameter in method.named_parameters():
                if id(parameter) in served and parameter.requires_grad and parameter.grad is not None:
                    silent -= {key} if parameter.grad.any() else set()
            method.zero_grad()
        silent -= {
            key
            for key, parameter in method.named_parameters()
            if stage == method.stages[0] and not parameter.requires_grad
        }
    assert "task" in terms
    assert silent == set()


@pytest.mark.parametrize("name", METHODS)
def test_twenty_steps_lower_the_loss(name: str, task: str) -> None:
    supported(name, task)
    data = data_module(random_corpus(task))
    method = build(name, data).train()
    parameters = [p for group in method.param_groups() for p in group["params"]]  # those of the turn
    if not parameters:
        pytest.skip(f"{name} has nothing to train")
    optimizer = torch.optim.Adam(parameters, lr=5e-3)
    batch = training_batch(method, data, rows=24)
    losses = []
    torch.manual_seed(0)
    for _ in range(20):
        optimizer.zero_grad()
        terms = method.loss(method.training_forward(batch), batch)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        losses.append(terms["task"].item())
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize("name", METHODS)
def test_batch_of_one_and_a_modality_missing_for_a_whole_batch(name: str) -> None:
    corpus = random_corpus()
    method = build(name, data_module(corpus)).train()
    batch = training_batch(method, data_module(corpus), rows=1)
    assert all(torch.isfinite(t) for t in method.loss(method.training_forward(batch), batch).values())
    for modality in MODALITIES:
        without = copy.deepcopy(corpus)
        without.splits["train"].features[modality].zero_()
        without.splits["train"].lengths[modality].zero_()
        batch = training_batch(method, data_module(without))
        assert all(torch.isfinite(t) for t in method.loss(method.training_forward(batch), batch).values())


@pytest.mark.parametrize("name", METHODS)
def test_prediction_does_not_depend_on_the_order_of_the_clips(name: str) -> None:
    data = data_module(random_corpus())
    method = build(name, data).eval()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        batches = (data.validation_batch(rows, needs=method.data_needs) for rows in (torch.arange(8), order))
        in_file, shuffled = (method(batch.for_inference()).pred for batch in batches)
    assert torch.allclose(in_file[order], shuffled, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_prediction_is_deterministic_and_independent_of_batch_composition(name: str) -> None:
    data = data_module(random_corpus())
    method = build(name, data)
    for cell in (CELLS[2], CELLS[6], CELLS[7]):
        together = predict(method, data, cell)
        assert torch.equal(together, predict(method, data, cell))
        assert torch.allclose(together, predict(method, data, cell, batch_size=1), atol=1e-5)
        assert torch.allclose(together, predict(method, data, cell, batch_size=3), atol=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("name", METHODS)
def test_removed_modality_tells_nothing(name: str, modality: str) -> None:
    corpus = random_corpus(steps={"text": 8, "audio": 11, "vision": 9})
    other = with_other_content(corpus, modality)
    assert not torch.equal(corpus.splits["test"].lengths[modality], other.splits["test"].lengths[modality])
    method = build(name, data_module(corpus))
    letters = "".join(letter for letter, known in LETTERS.items() if known != modality)
    for subset in (letters, *letters):
        cell = Cell(subset)
        before, after = predict(method, data_module(corpus), cell), predict(method, data_module(other), cell)
        assert torch.equal(before, after)


@pytest.mark.parametrize("name", METHODS)
def test_present_modality_is_read(name: str) -> None:
    if name == "constant":
        pytest.skip("the constant reads nothing, by design")
    corpus = random_corpus()
    method = build(name, data_module(corpus))
    needs = method.info.needs
    for letter, modality in LETTERS.items():
        other = data_module(with_other_content(corpus, modality))
        for cell in (Cell(letter), Cell()):
            before, after = predict(method, data_module(corpus), cell), predict(method, other, cell)
            beside = cell == Cell() or not set(needs) - {modality}
            if modality in method.info.reads and beside:
                assert not torch.allclose(before, after, atol=1e-6)
            else:
                assert torch.equal(before, after)


@pytest.mark.parametrize("name", METHODS)
def test_unobserved_frames_do_not_matter(name: str) -> None:
    corpus = random_corpus()
    data = data_module(corpus)
    cell = Cell.parse("intra/0.5")
    method = build(name, data)
    before = predict(method, data, cell)
    masks = data.cell_masks(cell, 0)
    changed = copy.deepcopy(corpus)
    for modality in MODALITIES:
        changed.splits["test"].features[modality][~masks.observed[modality]] = 99.0
    assert torch.equal(before, predict(method, data_module(changed), cell))


@pytest.mark.parametrize("name", METHODS)
def test_evaluation_sees_no_training_information(name: str) -> None:
    data = data_module(random_corpus())
    method = build(name, data).eval()
    seen: list[Batch] = []
    original = type(method).forward

    def spy(self: MSAMethod, batch: Batch) -> Output:
        seen.append(batch)
        return original(self, batch)

    type(method).forward = spy
    try:
        batch = data.validation_batch(torch.arange(8), needs=method.data_needs)
        method.validation_step(batch, 0)
        method.test_step(batch, 0, 0)
        method.predict_step(batch, 0)
    finally:
        type(method).forward = original
    assert len(seen) == 3
    for batch in seen:
        assert batch.labels is None
        assert batch.index is None
        assert batch.complete is None
        assert batch.views is None


@pytest.mark.parametrize("name", METHODS)
def test_checkpoint_round_trip_and_refusal_of_another_method(name: str, tmp_path: Path) -> None:
    data = data_module(random_corpus(), batch_size=12)
    # Not from ``build``: what a last stage freezes stays frozen, and a fit begins with the first stage.
    method = registry.method_class(name)(data.spec, **registry.method_info(name).smoke)
    trainer = quiet_trainer(tmp_path, 1 + sum(method.stage_epochs.values()))
    trainer.fit(method, datamodule=data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded, state = load_checkpoint(tmp_path / "a.ckpt")
    assert type(loaded) is type(method)
    assert state["init_args"]["dataset"] == "custom"
    assert torch.equal(predict(method, data, CELLS[0]), predict(loaded, data, CELLS[0]))
    stranger = build("lf_dnn" if name != "lf_dnn" else "constant", data)
    with pytest.raises(MSABenchError, match=f"the checkpoint is of method '{name}'"):
        stranger.on_load_checkpoint(torch.load(tmp_path / "a.ckpt", weights_only=True))


@pytest.mark.parametrize("name", METHODS)
def test_sequences_of_length_one(name: str) -> None:
    smoke = registry.method_info(name).smoke
    data = data_module(random_corpus(steps=dict.fromkeys(MODALITIES, 1)))
    kernels = {key: 1 if isinstance(smoke[key], int) else [1] * 3 for key in smoke if "kernel" in key}
    method = build(name, data, **kernels)
    batch = training_batch(method, data)
    assert all(torch.isfinite(t) for t in method.loss(method.training_forward(batch), batch).values())
    assert torch.isfinite(predict(method, data, CELLS[3])).all()


@pytest.mark.parametrize("name", METHODS)
def test_constructor_arguments_and_docstrings(name: str) -> None:
    import inspect

    cls = registry.method_class(name)
    assert cls.info.name == name
    text = cls.__doc__ or ""
    for argument in inspect.signature(cls.__init__).parameters:
        if argument != "self":
            assert f"{argument}:" in text, f"{cls.__name__} does not document {argument}"
    assert not any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD
        for parameter in inspect.signature(cls.__init__).parameters.values()
    )
    for step in ("validation_step", "test_step", "predict_step", "on_validation_epoch_end", "on_test_epoch_end"):
        assert getattr(cls, step) is getattr(MSAMethod, step), f"{name} overrides {step}"


@pytest.mark.parametrize("name", ["corrkd", "hrlf", "kt"])
def test_a_teacher_that_teaches_is_frozen_and_has_no_dropout(name: str) -> None:
    method = build(name, data_module(random_corpus())).train()
    assert isinstance(method.teacher, torch.nn.Module)
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert not any(part.training for part in method.teacher.modules())
    assert method.training
    method.eval().train()
    assert not method.teacher.training
