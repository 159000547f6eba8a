"""Files of predictions from elsewhere: what is read as it is meant, and what is refused in one sentence."""

import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msabench.data.info import EMOTIONS
from msabench.errors import MSABenchError
from msabench.missingness.conditions import Cell
from msabench.results import predictions, scored_file
from msabench.results.predictions import CellPredictions, Evaluation
from msabench.results.scored_cells import arranged

IDS = [f"007${n}" for n in range(5)]
PLACES = [(Cell.parse("inter/la"), None), (Cell.parse("inter/lav"), None)]
PLACES += [(Cell.parse("intra/0.3"), seed) for seed in (0, 1)]


def evaluation(emotions=False):
    rng = np.random.default_rng(0)
    shape = (len(IDS), len(EMOTIONS), 2) if emotions else (len(IDS),)
    labels = rng.integers(0, 2, shape[:2]) if emotions else rng.normal(size=shape).astype(np.float32)
    cells = [
        CellPredictions(cell, seed, rng.normal(size=shape).astype(np.float32), f"{number:016x}", {})
        for number, (cell, seed) in enumerate(PLACES)
    ]
    return Evaluation("emotions" if emotions else "sentiment", list(IDS), labels, cells, 0.0)


def frame():
    made = evaluation()
    parts = [
        pd.DataFrame(
            {"id": IDS, "cell": str(e.cell), "mask_seed": e.mask_seed, "pred": e.preds, "mask_hash": e.mask_hash}
        )
        for e in made.cells
    ]
    return pd.concat(parts, ignore_index=True).astype({"mask_seed": "Int64"})


def arrange(path, emotions=False):
    return arranged(scored_file.read(path), IDS, PLACES, emotions=emotions, corpus="mosi")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("emotions", [False, True])
def test_what_is_written_is_read_to_the_last_bit(suffix, emotions, tmp_path):
    made, path = evaluation(emotions), tmp_path / "new" / f"preds.{suffix}"
    scored_file.write(path, made, {"dataset": "mosi", "level": "vectors"})
    read = scored_file.read(path)
    assert read.protocol == ({} if suffix == "csv" else {"dataset": "mosi", "level": "vectors"})
    for ours, theirs in zip(made.cells, arrange(path, emotions), strict=True):
        assert (ours.cell, ours.mask_seed, ours.mask_hash) == (theirs.cell, theirs.mask_seed, theirs.mask_hash)
        assert ours.preds.tobytes() == theirs.preds.tobytes()
        assert theirs.labels is None
    again = tmp_path / f"again.{suffix}"
    scored_file.write(again, made, {"dataset": "mosi", "level": "vectors"})
    assert again.read_bytes() == path.read_bytes()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False), st.booleans(), st.booleans())
def test_rows_may_stand_in_any_order_as_pandas_writes_them(tmp_path, random, as_csv, with_floats):
    rows = frame()
    order = list(rows.index)
    random.shuffle(order)
    rows = rows.loc[order].astype({"pred": "float64", **({"mask_seed": "float64"} if with_floats else {})})
    path = tmp_path / f"shuffled.{'csv' if as_csv else 'parquet'}"
    (rows.to_csv if as_csv else rows.to_parquet)(path)
    for ours, theirs in zip(evaluation().cells, arrange(path), strict=True):
        assert ours.preds.tobytes() == theirs.preds.tobytes()
        assert ours.mask_hash == theirs.mask_hash


def test_a_cell_may_go_by_its_other_name(tmp_path):
    path = tmp_path / "preds.csv"
    frame().replace({"cell": {"inter/lav": "intra/0.0"}}).to_csv(path, index=False)
    assert [entry.mask_hash for entry in arrange(path)] == [entry.mask_hash for entry in evaluation().cells]


@pytest.mark.parametrize("emotions", [False, True])
def test_predictions_of_a_store_are_read_as_they_are_with_their_labels(emotions, tmp_path):
    made, path = evaluation(emotions), tmp_path / "store.parquet"
    predictions.write(path, made)
    for ours, theirs in zip(made.cells, arrange(path, emotions), strict=True):
        assert ours.preds.tobytes() == theirs.preds.tobytes()
        assert theirs.mask_hash is None
        assert np.array_equal(theirs.labels.astype(made.labels.dtype), made.labels)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda rows: rows.drop(3),
            "lacks predictions of test clips of mosi: 1, e.g. of clip '007$3' in cell inter/la",
        ),
        (
            lambda rows: pd.concat([rows, rows.iloc[[6, 7]]]),
            "more than once: 2, e.g. of clip '007$1' in cell inter/lav",
        ),
        (lambda rows: rows.replace({"id": {"007$1": "x"}}), "not in the test split of mosi: 1, e.g. 'x'"),
        (
            lambda rows: rows[rows["cell"] != "intra/0.3"],
            "lacks 2 of 4 test situations, e.g. cell intra/0.3 with mask s",
        ),
        (
            lambda rows: rows[rows["mask_seed"].ne(1).fillna(True)],
            "lacks 1 of 4 test situations, e.g. cell intra/0.3 with mask seed 1",
        ),
        (lambda rows: rows.replace({"mask_seed": {1: 2}}), "mask_seed 2 in cell intra/0.3; asked for: 0 1"),
        (lambda rows: rows.assign(mask_seed=0), "mask_seed 0 in cell inter/la, whose masks are not random"),
        (lambda rows: rows.assign(mask_seed=None), "no mask_seed in cell intra/0.3"),
        (lambda rows: rows.assign(mask_seed=0.5), "has mask_seed 0.5; allowed: whole numbers from 0 on"),
        (lambda rows: rows.assign(mask_seed=-1), "has mask_seed -1; allowed"),
        (lambda rows: rows.assign(pred=rows["pred"].where(rows.index != 2)), "not finite: 1, e.g. of clip '007$2'"),
        (lambda rows: rows.assign(pred=np.inf), "not finite: 20, e.g. of clip '007$0' in cell inter/la"),
        (lambda rows: rows.assign(pred=1e39), "not finite: 20"),
        (lambda rows: rows.replace({"cell": {"inter/la": "inter/al"}}), "unknown modality condition 'al'"),
        (lambda rows: rows.replace({"cell": {"inter/la": "intra/0.5"}}), "intra/0.5, which is not in the grid"),
        (lambda rows: rows.replace({"cell": {"inter/la": "inter/lav"}}), "more than once: 5"),
        (lambda rows: rows.rename(columns={"pred": "prd"}), "unknown column 'prd'; allowed: .*; did you mean pred?"),
        (lambda rows: rows.drop(columns="pred"), "has no column 'pred', which mosi needs"),
        (lambda rows: rows.drop(columns="cell"), "has no column 'cell'; it has: id, mask_seed, pred, mask_hash"),
        (lambda rows: rows.assign(mask_hash=[f"{n:x}" for n in range(20)]), "several mask_hash in cell inter/la"),
        (lambda rows: rows.iloc[:0], "has 0 rows; allowed are 1 to 5000000"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_what_is_wrong_is_one_sentence(edit, words, suffix, tmp_path):
    path, rows = tmp_path / f"preds.{suffix}", edit(frame())
    rows.to_csv(path, index=False) if suffix == "csv" else rows.to_parquet(path, index=False)
    # Words are literal but for a stretch in between.
    parts = words.split(".*")
    with pytest.raises(MSABenchError) as caught:
        arrange(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert all(part in said for part in parts), said
    assert "\n" not in said


def test_files_that_are_none(tmp_path):
    path = tmp_path / "preds.csv"
    for content, words in (
        (b"id,cell,mask_seed,pred\na,inter/l,,good\n", "cannot be read as csv: .*invalid value 'good'"),
        (b"\xff\xfe\x00", "cannot be read as csv"),
        (b"", "cannot be read as csv: Empty CSV file"),
        (b"id,id,cell,mask_seed,pred\na,a,inter/l,,1\n", "has the column 'id' 2 times"),
        (f"id,cell,mask_seed,pred\n{'a' * 1001},inter/l,,1\n".encode(), "text of 1001 characters in column 'id'"),
    ):
        path.write_bytes(content)
        with pytest.raises(MSABenchError, match=words):
            scored_file.read(path)
    (tmp_path / "preds.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(MSABenchError, match="cannot be read as parquet"):
        scored_file.read(tmp_path / "preds.parquet")
    with pytest.raises(MSABenchError, match=r"there is no file .*none\.csv"):
        scored_file.read(tmp_path / "none.csv")
    with pytest.raises(MSABenchError, match=r"ends in \.parquet or \.csv"):
        scored_file.read(tmp_path / "preds.npz")


@pytest.mark.parametrize(
    ("columns", "metadata", "words"),
    [
        ({"pred": ["1.0"]}, None, "has string in column 'pred'; expected numbers"),
        ({"id": [7]}, None, "has int64 in column 'id'; expected text"),
        ({"id": pa.array([None], pa.string())}, None, "has 1 rows without 'id'"),
        ({}, b"[", "not valid JSON"),
        ({}, b"[" * 100_000, "not valid JSON"),
        ({}, b'{"level": 1}', "no mapping of words to words"),
        ({}, b'{"rows": "x"}', "unknown word 'rows' in its protocol"),
    ],
)
def test_columns_and_metadata_of_another_kind(columns, metadata, words, tmp_path):
    usual = {"id": ["a"], "cell": ["inter/l"], "mask_seed": pa.array([None], pa.int64()), "pred": [1.0]}
    table = pa.table({**usual, **columns})
    path = tmp_path / "preds.parquet"
    pq.write_table(table.replace_schema_metadata(metadata and {"msabench": metadata}), path)
    with pytest.raises(MSABenchError, match=words):
        scored_file.read(path)


def test_a_file_that_is_too_large_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "preds.parquet"
    frame().to_parquet(path)
    monkeypatch.setattr(scored_file, "MAX_ROWS", 19)
    with pytest.raises(MSABenchError, match="has 20 rows; allowed are 1 to 19"):
        scored_file.read(path)
    monkeypatch.setattr(scored_file, "MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(MSABenchError, match="bytes; allowed are"):
        scored_file.read(path)


def test_metadata_are_json_that_any_reader_has(tmp_path):
    path = tmp_path / "preds.parquet"
    scored_file.write(path, evaluation(), {"dataset": "mosi"})
    schema = pq.read_schema(io.BytesIO(path.read_bytes()))
    assert json.loads(schema.metadata[b"msabench"]) == {"dataset": "mosi"}
    assert schema.names == ["id", "cell", "mask_seed", "pred", "mask_hash"]
    with pytest.raises(MSABenchError, match="unknown word 'seed'"):
        scored_file.write(path, evaluation(), {"seed": "1"})
