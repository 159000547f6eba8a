"""Joint representations: kept by ``msabench evaluate --keep representations``, stored, read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.evaluation import representations
from msabench.evaluation.command import evaluate_checkpoint
from msabench.evaluation.evaluate import evaluate_grid
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.methods.registry import method_class, method_info, methods
from msabench.missingness.conditions import Cell, parse_grid
from msabench.results import predictions
from msabench.results.predictions import CellPredictions, Evaluation
from msabench.results.store import ResultStore
from msabench.testing.corpora import data_module, random_corpus
from tests.support.records import rewrite
from tests.test_cli import TINY, fit

WITH = ("umdf", "fsrf", "prlf", "recap", "kt", "mult", "lf_dnn")
"""Methods that must have one, whatever others do."""


class Means(MSAMethod):
    """The clips' mean features are the representation."""

    info = MethodInfo(name="means", title="means", venue="-", year=0, url="", fidelity="reference")

    def __init__(self, spec: DataSpec, *, variant: str = "default") -> None:
        super().__init__(spec, variant=variant)
        self.read = torch.nn.Linear(sum(spec.feature_dims.values()), self.n_outputs)

    def forward(self, batch):
        pooled = torch.cat([batch.features[m].mean(1) for m in ("text", "audio", "vision")], dim=1)
        return Output(self.to_pred(self.read(pooled)), representation=pooled)

    def loss(self, out, batch):
        return {"task": self.task_loss(out.pred, batch.labels)}


def evaluation(scale: float = 1.0, n: int = 6) -> Evaluation:
    rng = np.random.default_rng(0)
    entries = [
        CellPredictions(
            Cell.parse(name),
            mask,
            np.zeros(n, np.float32),
            "",
            {},
            (scale * rng.normal(size=(n, 3))).astype(np.float32),
        )
        for name, mask in (("inter/la", None), ("intra/0.5", 0), ("intra/0.5", 1))
    ]
    return Evaluation("sentiment", [f"ü{i}" for i in range(n)], np.zeros(n, np.float32), entries, 0.0)


def test_what_is_kept_belongs_to_each_clip_in_each_cell() -> None:
    data = data_module(random_corpus())
    method = Means(data.spec)
    cells = parse_grid(["inter/l", "intra/0.5"])
    found = evaluate_grid(method, data, cells, (0, 1), batch_size=3, keep_representations=True)
    for entry in found.cells:
        masks = data.cell_masks(entry.cell, entry.mask_seed or 0)
        features = data.corpus.splits["test"].features
        pooled = torch.cat([(features[m] * masks.observed[m][..., None]).mean(1) for m in features], dim=1)
        np.testing.assert_allclose(entry.representation, pooled.numpy(), atol=1e-5)
        # The prediction is a reading of it, so the order of clips is the same.
        with torch.no_grad():
            expected = method.to_pred(method.read(torch.from_numpy(entry.representation)))
        np.testing.assert_allclose(entry.preds, expected.numpy(), atol=1e-5)
    assert all(entry.representation is None for entry in evaluate_grid(method, data, cells, (0,)).cells)


@pytest.mark.parametrize("name", [name for name in methods() if name != "constant"])
def test_every_method_with_a_representation_gives_one_row_per_clip(name: str) -> None:
    info = method_info(name)
    data = data_module(random_corpus("regression"))
    torch.manual_seed(0)
    method = method_class(name)(data.spec, **info.smoke)
    if name not in WITH:
        with torch.no_grad():
            if method(data.validation_batch(torch.arange(4)).for_inference()).representation is None:
                with pytest.raises(MSABenchError, match=rf"{name} \(default\) has no joint representation to keep"):
                    evaluate_grid(method, data, parse_grid("inter/la"), (0,), keep_representations=True)
                return
    found = evaluate_grid(method, data, parse_grid("inter/la"), (0,), batch_size=4, keep_representations=True)
    kept = found.cells[0].representation
    assert kept.ndim == 2
    assert len(kept) == len(found.ids)
    assert np.isfinite(kept).all()


def test_round_trip(tmp_path: Path) -> None:
    path, made = tmp_path / "deep" / "x.safetensors", evaluation()
    representations.write(path, made)
    found = representations.read(path)
    assert found.ids == made.ids
    assert list(found.cells) == [("inter/la", None), ("intra/0.5", 0), ("intra/0.5", 1)]
    for entry, kept in zip(made.cells, found.cells.values(), strict=True):
        assert kept.dtype == np.float16
        np.testing.assert_allclose(kept, entry.representation, rtol=1e-3)
    first = path.read_bytes()
    representations.write(path, made)
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]


def test_values_beyond_half_precision_are_kept_whole(tmp_path: Path) -> None:
    path, made = tmp_path / "x.safetensors", evaluation(scale=1e6)
    representations.write(path, made)
    for entry, kept in zip(made.cells, representations.read(path).cells.values(), strict=True):
        np.testing.assert_array_equal(kept, entry.representation)


def test_nothing_kept_and_foreign_files_are_one_sentence(tmp_path: Path) -> None:
    made = evaluation()
    made.cells[1].representation = None
    with pytest.raises(MSABenchError, match=r"no representations of cell intra/0\.5 were kept"):
        representations.write(tmp_path / "x.safetensors", made)
    assert not (tmp_path / "x.safetensors").exists()
    with pytest.raises(MSABenchError, match=r"there are no representations .*; keep them with `msabench run .* --keep"):
        representations.read(tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_bytes(b"not one")
    with pytest.raises(MSABenchError, match="holds no representations of msabench"):
        representations.read(tmp_path / "y.safetensors")


# The verb.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a training that ended."""
    folder = tmp_path_factory.mktemp("trained")
    places = [f"--trainer.default_root_dir={folder}", f"--data.cache={folder / 'cache'}"]
    assert fit("lf_dnn_synth.yaml", *TINY, *places, "--trainer.max_epochs=1", "--early_stop=null") == 0
    return next(folder.glob("**/best.ckpt"))


def test_they_come_with_a_record_or_are_added_to_one(trained: Path, tmp_path: Path) -> None:
    said = evaluate_checkpoint(trained, store=tmp_path / "one", device="cpu", keep=["representations"])
    (job,) = ResultStore(tmp_path / "one").jobs()
    path = representations.beside(predictions.path_of(tmp_path / "one", job.key))
    assert f"representations: {path}" in said
    assert path.parent == predictions.path_of(tmp_path / "one", job.key).parent
    assert len(representations.read(path).cells) == 7 + 9 * 3
    with safe_open(path, framework="numpy") as file:
        assert (
            json.loads(file.metadata()[representations.IDS_KEY])
            == predictions.read(predictions.path_of(tmp_path / "one", job.key))[0].ids
        )

    evaluate_checkpoint(trained, store=tmp_path / "two", device="cpu")
    records = {p: p.read_bytes() for p in (tmp_path / "two").rglob("*.jsonl")}
    with pytest.raises(MSABenchError, match="is recorded already"):
        evaluate_checkpoint(trained, ["intra/0.5"], store=tmp_path / "two", device="cpu")
    # A few cells are enough for a figure, and records are never touched.
    evaluate_checkpoint(trained, ["intra/0.5"], [0], tmp_path / "two", device="cpu", keep=["representations"])
    added = representations.read(representations.beside(predictions.path_of(tmp_path / "two", job.key)))
    assert list(added.cells) == [("intra/0.5", 0)]
    np.testing.assert_array_equal(added.cells["intra/0.5", 0], representations.read(path).cells["intra/0.5", 0])
    assert {p: p.read_bytes() for p in (tmp_path / "two").rglob("*.jsonl")} == records
    assert ResultStore(tmp_path / "two").validate() == []


def test_a_checkpoint_that_is_not_the_recorded_one_adds_nothing(trained: Path, tmp_path: Path) -> None:
    evaluate_checkpoint(trained, store=tmp_path, device="cpu")
    (job,) = ResultStore(tmp_path).jobs()
    path = predictions.path_of(tmp_path, job.key)
    entries = predictions.read(path)
    cells = [CellPredictions(Cell.parse(e.cell), e.mask_seed, e.preds + 0.5, "", {}) for e in entries]
    predictions.write(path, Evaluation("sentiment", entries[0].ids, entries[0].labels, cells, 0.0))
    rewrite(next(tmp_path.rglob(f"{job.key.job_id}.jsonl")), lambda line: None)
    with pytest.raises(MSABenchError, match=r"predicts something else in cell inter/l than .* holds of its job"):
        evaluate_checkpoint(trained, ["inter/l"], store=tmp_path, device="cpu", keep=["representations"])
    assert not representations.beside(predictions.path_of(tmp_path, job.key)).exists()


def test_what_cannot_be_kept_is_one_sentence(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MSABenchError, match="unknown thing to keep 'attention'; allowed: representations"):
        evaluate_checkpoint(trained, store=tmp_path, device="cpu", keep=["attention"])
    with pytest.raises(MSABenchError, match="keep representations needs a store to keep it in; give --store"):
        evaluate_checkpoint(trained, ["inter/l"], device="cpu", keep=["representations"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert fit("constant_synth.yaml", *TINY) == 0
    best = next(tmp_path.glob("runs/fit/synth/constant/*/*/best.ckpt"))
    with pytest.raises(MSABenchError, match=r"constant \(default\) has no joint representation to keep"):
        evaluate_checkpoint(best, store=tmp_path / "store", device="cpu", keep=["representations"])
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
