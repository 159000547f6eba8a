"""``msabench.evaluate``: anybody's predictions go through the walk that methods go through."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import msabench as mb
from msabench.evaluation.evaluate import evaluate_grid
from msabench.methods.registry import method_class
from msabench.missingness.conditions import GRIDS, MISSING_CONDITIONS
from msabench.results import scored_file
from msabench.results.predictions import stored_metrics
from tests.api.conftest import own_file

EXAMPLE = Path(__file__).parents[2] / "examples/own_network.py"


def pooled(batch: mb.Batch) -> torch.Tensor:
    """A fixed reading of everything that a batch of features has."""
    return torch.stack([batch.features[m].mean(dim=(1, 2)) for m in batch.features], dim=1).sum(1)


class Pooled(nn.Module):
    """The same as a module, with a part that behaves otherwise in training."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.drop = nn.Dropout(0.5)
        self.seen: list[tuple[bool, bool, torch.dtype]] = []

    def forward(self, batch: mb.Batch) -> torch.Tensor:
        self.seen.append((self.training, torch.is_grad_enabled(), batch.text.dtype))
        return self.drop(pooled(batch)) * self.weight


@pytest.mark.parametrize("task", ["regression", "emotions"])
def test_a_method_that_is_called_scores_what_the_method_scores(task: str, elsewhere: Path) -> None:
    data = mb.load(own_file(elsewhere / "mine.npz", task), task=task)
    torch.manual_seed(0)
    method = method_class("lf_dnn")(data.spec).eval()
    theirs = evaluate_grid(method, data, GRIDS["paper"], (0, 1))
    for ours in (
        mb.evaluate(lambda batch: method(batch).pred, data, mask_seeds=(0, 1)),
        mb.evaluate(lambda batch: method(batch).pred.double().tolist(), data, mask_seeds=(0, 1), batch_size=3),
        mb.evaluate(method, data, mask_seeds=(0, 1)),
    ):
        assert ours.ids == theirs.ids
        for mine, entry in zip(ours.evaluation.cells, theirs.cells, strict=True):
            assert (mine.cell, mine.mask_seed, mine.mask_hash) == (entry.cell, entry.mask_seed, entry.mask_hash)
            assert (mine.dropped, mine.blind) == (entry.dropped, entry.blind)
            assert np.allclose(mine.preds, entry.preds, atol=1e-6)
    assert np.array_equal(mine.preds, entry.preds), "the method itself, to the last bit"
    expected = {(r.cell, r.mask_seed): r.metrics for r in theirs.records("")}
    for (cell, seed), row in ours.frame.iterrows():
        metrics = expected[cell, None if pd.isna(seed) else seed]
        assert row.index.tolist() == list(metrics)
        assert np.array_equal(row.to_numpy(), [np.nan if v is None else v for v in metrics.values()], equal_nan=True)


def test_a_batch_tells_nothing_that_a_deployed_model_would_not_see(data: mb.MSADataModule) -> None:
    batches: list[mb.Batch] = []

    def predict(batch: mb.Batch) -> list[float]:
        batches.append(batch)
        return [0.0] * batch.size

    mb.evaluate(predict, data, ["inter/la", "intra/0.5"], [0], batch_size=4)
    assert [batch.size for batch in batches] == [4, 4, 2] * 2
    for batch in batches:
        assert (batch.labels, batch.index, batch.complete, batch.views, batch.tokens) == (None,) * 5
        for modality, values in batch.features.items():
            assert not values[~batch.observed[modality]].any()
    assert not any(batch.observed["vision"].any() for batch in batches[:3])


def test_whoever_writes_into_a_batch_changes_nothing_else(data: mb.MSADataModule) -> None:
    def vandal(batch: mb.Batch) -> torch.Tensor:
        preds = pooled(batch)
        for values in (*batch.features.values(), *batch.observed.values(), *batch.valid.values()):
            values.zero_()
        return preds

    first, second = mb.evaluate(pooled, data, mask_seeds=[0]), mb.evaluate(vandal, data, mask_seeds=[0])
    assert all(np.array_equal(first.predictions[place], second.predictions[place]) for place in first.predictions)
    assert [e.mask_hash for e in first.evaluation.cells] == [e.mask_hash for e in second.evaluation.cells]


def test_a_module_is_evaluated_and_left_as_it_was(data: mb.MSADataModule) -> None:
    module = Pooled().double()
    module.drop.eval()
    scores = mb.evaluate(module, data, "inter")
    assert set(module.seen) == {(False, False, torch.float64)}
    assert (module.training, module.drop.training) == (True, False)
    assert module.weight.dtype == torch.float64
    plain = mb.evaluate(pooled, data, "inter")
    assert np.allclose(scores.predictions["inter/la", None], plain.predictions["inter/la", None], atol=1e-6)

    def broken(batch: mb.Batch) -> torch.Tensor:
        raise KeyError("weights")

    module.forward = broken
    with pytest.raises(KeyError) as caught:
        mb.evaluate(module, data, "inter/la", name="mine")
    assert caught.value.__notes__ == ["raised by mine, asked to predict 10 clips in cell inter/la"]
    assert module.training


def test_whole_conversations_come_back_in_file_order(elsewhere: Path) -> None:
    data = mb.load(own_file(elsewhere / "mine.npz"))
    sizes: list[int] = []

    def of_a_conversation(batch: mb.Batch) -> torch.Tensor:
        assert batch.conversation is not None
        sizes.extend(batch.conversation.unique(return_counts=True)[1].tolist())
        return pooled(batch)

    together = mb.evaluate(of_a_conversation, data, "inter/la", conversations=True, batch_size=2)
    alone = mb.evaluate(pooled, data, "inter/la")
    assert sorted(sizes) == [1, 3, 3]
    assert np.allclose(together.predictions["inter/la", None], alone.predictions["inter/la", None], atol=1e-6)


def returning(values: Any) -> Callable[[mb.Batch], Any]:
    def mine(batch: mb.Batch) -> Any:
        return values

    return mine


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (torch.zeros(10, 1), "returned shape (10, 1) in cell inter/la; expected scores of shape (10,)"),
        (torch.zeros(3), "returned shape (3,) in cell inter/la"),
        (torch.tensor(0.5), "returned shape () in cell inter/la"),
        (torch.zeros(10, dtype=torch.bool), "returned values of type torch.bool in cell inter/la"),
        (np.zeros(10, dtype=complex), "returned values of type complex128 in cell inter/la"),
        (["positive"] * 10, "returned values of type <U8 in cell inter/la"),
        ([[0.0], [0.0, 1.0]], "returned a list that is no array in cell inter/la"),
        (None, "returned a NoneType in cell inter/la"),
        ({"pred": 1}, "returned a dict in cell inter/la"),
        (torch.tensor([0.0] * 9 + [float("nan")]), "mine predicts values that are not finite in cell inter/la"),
        (np.full(10, 1e300), "mine predicts values that are not finite in cell inter/la"),
    ],
)
def test_what_is_no_prediction_is_one_sentence_that_names_the_cell(
    values: Any, words: str, data: mb.MSADataModule
) -> None:
    with pytest.raises(mb.MSABenchError) as caught:
        mb.evaluate(returning(values), data, "inter/la")
    assert words in str(caught.value)
    assert "mine" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"predict_fn": 3}, "3 cannot be called"),
        ({"grid": "all"}, "'all'"),
        ({"mask_seeds": [0, 0]}, "mask seeds"),
        ({"mask_seeds": []}, "mask seeds"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"device": "gpu:9"}, "'gpu:9'"),
    ],
)
def test_arguments_that_are_not_allowed(arguments: dict[str, Any], words: str, data: mb.MSADataModule) -> None:
    with pytest.raises(mb.MSABenchError, match=words):
        mb.evaluate(**{"predict_fn": pooled, "data": data} | arguments)


def test_tokens_come_in_place_of_text_features(data: mb.MSADataModule, elsewhere: Path) -> None:
    def of_tokens(batch: mb.Batch) -> torch.Tensor:
        assert batch.tokens is not None
        assert "text" not in batch.features
        return batch.tokens[:, 0].double().mean(dim=1)

    scores = mb.evaluate(of_tokens, data, "inter/la", tokens=True)
    assert len(set(scores.predictions["inter/la", None].tolist())) > 1
    with pytest.raises(mb.MSABenchError, match="no token ids"):
        mb.evaluate(of_tokens, mb.load(own_file(elsewhere / "mine.npz")), "inter/la", tokens=True)


def test_cells_that_cannot_be_are_refused_before_anything_is_predicted(data: mb.MSADataModule) -> None:
    def unasked(batch: mb.Batch) -> torch.Tensor:
        raise AssertionError("it was asked for predictions")

    with pytest.raises(mb.MSABenchError, match=r"^cell noise/1.0 adds noise to text features, and the method reads"):
        mb.evaluate(unasked, data, ["inter", "noise/1.0"], tokens=True)
    with pytest.raises(mb.MSABenchError, match=r"^cell words/0.3 replaces words"):
        mb.evaluate(unasked, data, ["inter", "words/0.3"])


def test_a_method_of_other_data_is_refused(data: mb.MSADataModule, elsewhere: Path) -> None:
    method = method_class("lf_dnn")(data.spec)
    with pytest.raises(mb.MSABenchError, match="lf_dnn was made for feature_dims"):
        mb.evaluate(method, mb.load(own_file(elsewhere / "mine.npz")))


def test_means_are_over_mask_seeds_and_averages_over_whole_conditions(data: mb.MSADataModule) -> None:
    scores = mb.evaluate(pooled, data, ["inter", "intra/0.3"], [0, 1, 2])
    per_seed = scores.frame.loc["intra/0.3", "mae"]
    assert len(per_seed) == 3
    assert scores.mean.loc["intra/0.3", "mae"] == pytest.approx(per_seed.mean())
    conditions = [f"inter/{letters}" for letters in MISSING_CONDITIONS]
    assert scores.mean.loc["avg_missing", "mae"] == pytest.approx(scores.mean.loc[conditions, "mae"].mean())
    assert "avg_intra" not in scores.mean.index
    by_hand = stored_metrics("sentiment", scores.labels, scores.predictions["inter/la", None])
    assert scores.frame.loc["inter/la"].iloc[0].to_dict() == pytest.approx(by_hand)


def test_an_undefined_value_makes_every_mean_over_it_undefined(data: mb.MSADataModule) -> None:
    scores = mb.evaluate(lambda batch: batch.text.mean(dim=(1, 2)), data, "inter")
    # Without text all predictions are equal and have no correlation.
    assert np.isnan(scores.mean.loc["inter/av", "corr"])
    assert not np.isnan(scores.mean.loc["inter/la", "corr"])
    assert np.isnan(scores.mean.loc["avg_missing", "corr"])


def test_scores_print_their_means(data: mb.MSADataModule) -> None:
    scores = mb.evaluate(pooled, data, ["inter/la", "intra/0.3"], name="My network")
    heading, header, _, *lines = repr(scores).splitlines()
    assert heading.startswith("My network on synth (synth), 10 test clips, means over mask seeds 0 1 2")
    assert header.split()[0] == "f1_non0"
    assert [line.split()[0] for line in lines] == ["inter/la", "intra/0.3"]
    assert lines[0].split()[1] == f"{100 * scores.mean.loc['inter/la', 'f1_non0']:.2f}"
    assert "<table" in scores._repr_html_()


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_what_is_saved_is_what_score_reads(suffix: str, data: mb.MSADataModule, elsewhere: Path) -> None:
    scores = mb.evaluate(pooled, data, ["inter/la", "intra/0.3"], [0, 1])
    path = scores.save(elsewhere / f"new/mine{suffix}")
    read = scored_file.read(path)
    assert read.is_hashed
    if suffix == ".parquet":
        assert read.protocol == {
            "dataset": "synth",
            "revision": data.corpus.revision,
            "features": "synth",
            "level": "vectors",
            "lengths": "hide",
            "token_fill": "",
        }
    rows = pd.read_parquet(path) if suffix == ".parquet" else pd.read_csv(path)
    assert len(rows) == 3 * 10
    one = rows[(rows["cell"] == "intra/0.3") & (rows["mask_seed"] == 1)]
    assert one["id"].tolist() == scores.ids
    assert np.array_equal(one["pred"].to_numpy(np.float32), scores.predictions["intra/0.3", 1])
    with pytest.raises(mb.MSABenchError, match=r"\.parquet or \.csv"):
        scores.save(elsewhere / "mine.txt")


def test_the_example_of_ones_own_network(elsewhere: Path) -> None:
    spec = importlib.util.spec_from_file_location("own_network", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    trained = example.main(epochs=20, size=(64, 16, 64), length=8)
    untrained = example.main(epochs=0, size=(64, 16, 64), length=8)
    assert trained.mean.loc["inter/lav", "corr"] > untrained.mean.loc["inter/lav", "corr"] + 0.1
    assert len(trained.frame) == 7 + 9 * 3
