"""Evaluation over a grid, stored predictions, and metrics recomputed from them."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from msabench.data import datamodule
from msabench.data.datamodule import MSADataModule
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.evaluation.cell_table import cell_table
from msabench.evaluation.evaluate import evaluate_grid
from msabench.methods import registry
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.metrics.spec import METRICS, metric_keys
from msabench.missingness.conditions import GRIDS, Cell, parse_grid
from msabench.missingness.config import MissingConfig
from msabench.missingness.patterns import mask_hash
from msabench.results import predictions
from msabench.results.predictions import CellPredictions, Evaluation
from msabench.results.record import CellRecord
from msabench.testing.corpora import data_module, random_corpus
from msabench.testing.subject import fresh


class Probe(MSAMethod):
    """A fixed linear reading of the means; notes what it is shown."""

    info = MethodInfo(name="probe", title="probe", venue="-", year=0, url="", fidelity="reference")

    def __init__(self, spec: DataSpec, *, variant: str = "default") -> None:
        super().__init__(spec, variant=variant)
        self.seen = []
        self.read = torch.nn.Linear(sum(spec.feature_dims.values()), self.n_outputs)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, batch):
        self.seen.append((batch, self.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        pooled = torch.cat([batch.features[m].mean(1) for m in ("text", "audio", "vision")], dim=1)
        return Output(self.to_pred(self.read(pooled)))

    def loss(self, out, batch):
        return {"task": self.task_loss(out.pred, batch.labels)}


def made(task="regression", missing=None):
    data = data_module(random_corpus(task), **({"missing": missing} if missing else {}))
    return Probe(data.spec), data


def test_every_distinct_cell_once_and_random_cells_once_per_mask_seed():
    method, data = made()
    found = evaluate_grid(method, data, GRIDS["paper"], (3, 5))
    names = [(str(entry.cell), entry.mask_seed) for entry in found.cells]
    assert names == [(f"inter/{s}", None) for s in ("l", "a", "v", "la", "lv", "av", "lav")] + [
        (f"intra/0.{tenth}", seed) for tenth in range(1, 10) for seed in (3, 5)
    ]
    assert [record.n for record in found.records("x")] == [10] * len(names)
    holes = {e.mask_seed: e.mask_hash for e in found.cells if str(e.cell) == "intra/0.5"}
    assert holes[3] != holes[5]


@pytest.mark.parametrize("task", ["regression", "emotions"])
def test_predictions_are_those_of_the_masked_clips(task):
    method, data = made(task, MissingConfig(lengths="keep"))
    cells = parse_grid(["inter/lv", "inter/la+intra/0.4", "intra/1.0"])
    found = evaluate_grid(method, data, cells, (2,), batch_size=3)
    for entry in found.cells:
        masks = data.cell_masks(entry.cell, 2)
        split = data.corpus.splits["test"]
        features = {m: split.features[m] * masks.observed[m][..., None] for m in split.features}
        pooled = torch.cat([features[m].mean(1) for m in ("text", "audio", "vision")], dim=1)
        with torch.no_grad():
            expected = method.to_pred(method.read(pooled))
        np.testing.assert_allclose(entry.preds, expected.numpy(), atol=1e-5)
        assert entry.mask_hash == mask_hash(masks)
        for letter, modality in zip("lav", ("text", "audio", "vision"), strict=True):
            if letter not in entry.cell.available or entry.cell.rate == "1.0":
                assert entry.dropped[modality] == 1.0
            elif entry.cell.rate == "0.0":
                assert entry.dropped[modality] == 0.0
            else:
                assert 0.0 < entry.dropped[modality] < 1.0
    assert found.cells[-1].preds.dtype == np.float32


@pytest.mark.parametrize("size", [1, 4, None])
def test_batch_size_does_not_matter(size):
    method, data = made()
    whole = evaluate_grid(method, data, parse_grid("intra"), (0,), batch_size=10)
    parts = evaluate_grid(method, data, parse_grid("intra"), (0,), batch_size=size)
    for one, other in zip(whole.cells, parts.cells, strict=True):
        np.testing.assert_allclose(one.preds, other.preds, atol=1e-5)
        assert one.mask_hash == other.mask_hash


def test_a_method_sees_what_a_deployed_model_sees():
    method, data = made()
    method.train()
    evaluate_grid(method, data, parse_grid("inter"), (0,))
    for batch, training, gradients, inference in method.seen:
        assert batch.labels is None
        assert batch.index is None
        assert batch.complete is None
        assert batch.views is None
        assert (training, gradients, inference) == (False, False, False)


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,)])
def test_mask_seeds_are_checked(seeds):
    method, data = made()
    with pytest.raises(MSABenchError, match="mask seeds"):
        evaluate_grid(method, data, parse_grid("inter"), seeds)


def test_predictions_that_are_not_finite_are_an_error_that_names_the_cell():
    method, data = made()
    method.read.bias.data.fill_(float("nan"))
    with pytest.raises(MSABenchError, match="probe predicts values that are not finite in cell inter/l"):
        evaluate_grid(method, data, parse_grid("inter"), (0,))


@pytest.mark.parametrize("task", ["regression", "emotions"])
def test_records_are_recomputed_exactly_from_stored_predictions(task, tmp_path):
    method, data = made(task)
    found = evaluate_grid(method, data, GRIDS["paper"], (0, 1))
    path = tmp_path / "a" / "b.parquet"
    predictions.write(path, found)
    records = found.records("x")
    again = predictions.metrics_from_predictions(path, found.metric_set)
    assert again == {(r.cell, r.mask_seed): r.metrics for r in records}
    stored = predictions.read(path)
    assert [(s.cell, s.mask_seed) for s in stored] == [(r.cell, r.mask_seed) for r in records]
    for one, other in zip(stored, found.cells, strict=True):
        assert one.ids == found.ids
        assert np.array_equal(one.preds, other.preds)
        assert np.array_equal(one.labels, found.labels)
        assert one.labels.dtype == found.labels.dtype
    json.dumps([record.to_json() for record in records], allow_nan=False)


def test_columns_are_documented_ones(tmp_path):
    for task, values in (
        ("regression", ["label", "pred"]),
        (
            "emotions",
            [
                column
                for emotion in ("happy", "sad", "angry", "neutral")
                for column in (f"label_{emotion}", f"pred_{emotion}_0", f"pred_{emotion}_1")
            ],
        ),
    ):
        method, data = made(task)
        predictions.write(tmp_path / task, evaluate_grid(method, data, parse_grid("inter/la"), (0,)))
        table = pq.read_table(tmp_path / task)
        assert table.column_names == ["id", "cell", "mask_seed", *values]
        assert table["mask_seed"].null_count == len(table) == 10


finite = st.floats(-100, 100, width=32)


@given(
    preds=npst.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 6)), elements=finite),
    seeds=st.lists(st.none() | st.integers(0, 2**62), min_size=3, max_size=3),
)
@settings(max_examples=40)
def test_any_scores_survive_storing(preds, seeds, tmp_path_factory):
    n = preds.shape[1]
    cells = [
        CellPredictions(Cell("lav", f"0.{number}"), seeds[number], row, "h", {}) for number, row in enumerate(preds)
    ]
    labels = np.linspace(-3, 3, n).astype(np.float32)
    found = Evaluation("sentiment", [f"é${i}" for i in range(n)], labels, cells, 0.0)
    path = tmp_path_factory.mktemp("predictions") / "p.parquet"
    predictions.write(path, found)
    first = path.read_bytes()
    for stored, entry in zip(predictions.read(path), cells, strict=True):
        assert (stored.cell, stored.mask_seed, stored.ids) == (str(entry.cell), entry.mask_seed, found.ids)
        assert np.array_equal(stored.preds, entry.preds)
    predictions.write(path, found)
    assert path.read_bytes() == first, "the same predictions are the same bytes"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    method, data = made()
    found = evaluate_grid(method, data, parse_grid("inter"), (0,))
    path = tmp_path / "p.parquet"
    predictions.write(path, found)
    before = path.read_bytes()

    def full_disk(table, stream, **options):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(predictions.pq, "write_table", full_disk)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        predictions.write(path, found)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_reading_what_is_no_predictions(tmp_path):
    with pytest.raises(MSABenchError, match="there are no predictions"):
        predictions.read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(MSABenchError, match="holds no predictions"):
        predictions.read(tmp_path / "text.parquet")


def test_a_cell_without_correlation_is_stored_as_none():
    labels = np.array([1.0, -1.0, 2.0], dtype=np.float32)
    constant = CellPredictions(Cell(), None, np.ones(3, dtype=np.float32), "h", {})
    (record,) = Evaluation("sentiment", ["a", "b", "c"], labels, [constant], 0.0).records("x")
    assert record.metrics["corr"] is None
    assert record.collapsed


def test_a_state_is_refused_on_other_data(monkeypatch):
    state = data_module(random_corpus()).state_dict()
    assert (state["revision"], state["features"]) == ("test", "custom")
    other = replace(random_corpus(), revision="other")
    with pytest.raises(MSABenchError, match="revision 'test', but the data opened here have revision 'other'"):
        data_module(other).load_state_dict(state)
    # Opened only later.
    monkeypatch.setattr(datamodule, "open_corpus", lambda *_, **__: replace(other, revision="test", features="x"))
    rebuilt = MSADataModule.from_state(state)
    with pytest.raises(MSABenchError, match="features 'custom', but the data opened here have features 'x'"):
        _ = rebuilt.corpus
    with pytest.raises(MSABenchError, match=r"data\.normalise 'none', the config says 'zscore'"):
        MSADataModule.from_state(state, normalise="zscore")


@pytest.mark.parametrize(("metric_set", "default"), [("sentiment", "f1_non0"), ("sims", "f1"), ("emotions", "f1_mean")])
def test_all_metrics_are_printed_in_lines_that_fit(metric_set: str, default: str) -> None:
    keys = metric_keys(metric_set)
    values = {key: 0.01 * number for number, key in enumerate(keys)}
    hashes = {"mask_hash": "", "n": 1, "dropped": {}, "metrics": values}
    records = [
        CellRecord("", "inter/la+intra/0.3", 0, collapsed=True, **hashes),
        CellRecord("", "inter/lav", None, collapsed=False, **hashes),
    ]
    blocks = [block.splitlines() for block in cell_table(records, default, []).split("\n\n")]
    heads = [block[0].split() for block in blocks]
    assert heads[0][:5] == ["cell", "mask", "seed", "note", default]
    printed = [name for head in heads for name in head if name in keys]
    assert sorted(printed) == sorted(keys)
    assert all(len(line) <= 100 for block in blocks for line in block)
    found = [word for block in blocks for word in block[2].removeprefix("inter/lav").split()[1:]]
    assert found == [METRICS[name].format(values[name]) for name in printed]


@pytest.mark.parametrize("task", ["regression", "emotions"])
@pytest.mark.parametrize("size", [None, 25, 10])
def test_cells_in_one_pass_are_predicted_as_one_by_one(task, size):
    method, data = made(task)
    alone = evaluate_grid(method, data, GRIDS["paper"], (0, 1))
    method.seen.clear()
    together = evaluate_grid(method, data, GRIDS["paper"], (0, 1), batch_size=size, stack_cells=True)
    passes = {None: 1, 25: 13, 10: 25}
    assert len(method.seen) == passes[size], "25 situations of 10 clips"
    for one, other in zip(alone.cells, together.cells, strict=True):
        assert (one.cell, one.mask_seed, one.mask_hash) == (other.cell, other.mask_seed, other.mask_hash)
        assert (one.dropped, one.blind) == (other.dropped, other.blind)
        np.testing.assert_allclose(one.preds, other.preds, atol=1e-6)


def test_on_a_cpu_cells_are_predicted_one_by_one():
    method, data = made()
    evaluate_grid(method, data, GRIDS["inter"], (0,))
    assert len(method.seen) == 7


def test_conversations_of_different_cells_stay_apart():
    cls = registry.method_class("gcnet")
    data = data_module(random_corpus())
    method = fresh(cls, data)
    assert method.data_needs.conversations
    alone = evaluate_grid(method, data, GRIDS["inter"], (0,))
    together = evaluate_grid(method, data, GRIDS["inter"], (0,), stack_cells=True)
    for one, other in zip(alone.cells, together.cells, strict=True):
        np.testing.assert_allclose(one.preds, other.preds, atol=1e-5)


def test_cells_in_one_pass_are_fewer_where_memory_ends(monkeypatch):
    """What is halved are the clips of a pass, down to one cell and then to parts of it."""
    method, data = made()
    whole = evaluate_grid(method, data, GRIDS["paper"], (0,))
    sizes = []
    forward = Probe.forward

    def fits_four(self, batch):
        sizes.append(batch.size)
        if batch.size > 4:
            raise torch.cuda.OutOfMemoryError("no room")
        return forward(self, batch)

    monkeypatch.setattr(Probe, "forward", fits_four)
    halved = evaluate_grid(method, data, GRIDS["paper"], (0,), batch_size=40, stack_cells=True)
    assert sizes[:4] == [40, 20, 10, 5]
    assert max(sizes[4:]) == 3
    for one, other in zip(whole.cells, halved.cells, strict=True):
        np.testing.assert_allclose(one.preds, other.preds, atol=1e-5)
