"""Records read as columns are those read line by line, and nothing passes that line by line would be refused."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msabench.errors import MSABenchError
from msabench.missingness.conditions import SUBSETS
from msabench.results import index
from msabench.results.places import COMMITTED_STORE
from msabench.results.record import CellRecord, JobRecord
from msabench.results.record_file import CHECKSUMS
from msabench.results.store import ResultStore
from tests.results.test_store_integrity import REPOSITORY
from tests.support.records import add, cells, key


def read(folder):
    """The frame, or the sentence that says why there is none."""
    try:
        return ResultStore(folder, indexed=False).frame()
    except MSABenchError as error:
        return str(error)


def line_by_line(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "cell_lines", lambda job, content: None)
        return read(folder)


def in_columns(folder):
    """Likewise, where no file may be read line by line."""

    def refuse(names, read):
        raise AssertionError(f"{names} were read line by line")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_line_by_line", refuse)
        return read(folder)


def assert_same(one, other):
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    for name in one.columns:
        values = one[name].to_numpy(), other[name].to_numpy()
        if one[name].dtype == "float64":
            assert np.array_equal(
                np.signbit(values[0]) & ~np.isnan(values[0]), np.signbit(values[1]) & ~np.isnan(values[1])
            )
        elif one[name].dtype == "Int64":
            # A mask seed of more than 53 bits is not a float.
            assert one[name].tolist() == other[name].tolist()


numbers = st.none() | st.floats(allow_nan=True, allow_infinity=False) | st.integers(-(2**40), 2**40)
names = st.sampled_from(["f1_non0", "acc7", "corr", "mae"])
cell_names = st.sampled_from(["inter/l", "inter/la", "intra/0.5", "inter/lav"])
mask_seeds = st.none() | st.integers(0, 2**63 - 1)
texts = st.text(st.characters(codec="utf-8"), max_size=8)


@st.composite
def jobs(draw):
    """A job of any allowed content with its cells."""
    job_key = key(
        dataset=draw(st.sampled_from(["mosi", "mosi-x", "mosei"])),
        method=draw(st.sampled_from(["mult", "mult_2"])),
        seed=draw(st.integers(0, 2**63 - 1)),
        variant=draw(texts),
        origin=draw(st.sampled_from(["", "external"])),
    )
    places = draw(st.lists(st.tuples(cell_names, mask_seeds), min_size=1, max_size=4, unique=True))
    found = [
        CellRecord(
            job_key.job_id,
            cell,
            mask_seed,
            draw(texts),
            draw(st.integers(-(2**63) + 1, 2**63 - 1)),
            draw(st.dictionaries(st.sampled_from(["text", "audio", "vision"]), numbers, max_size=3)),
            draw(st.booleans()),
            draw(st.dictionaries(names, numbers, max_size=4)),
            draw(numbers),
            draw(numbers),
            draw(st.none() | st.dictionaries(st.sampled_from(SUBSETS), st.integers(0, 2**40), max_size=3)),
        )
        for cell, mask_seed in places
    ]
    about = {
        "unseen": draw(st.none() | st.lists(st.sampled_from(["text", "audio", "vision"]), unique=True)),
        "split_sizes": draw(st.none() | st.lists(st.integers(0, 9), max_size=3)),
        "metric_set": draw(st.sampled_from([None, "sentiment"])),
        "provenance": draw(st.sampled_from([{}, {"method": {"class_path": "a.B"}}])),
    }
    return JobRecord(job_key, **about), found


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(jobs(), max_size=5, unique_by=lambda job: job[0].key.job_id))
def test_any_store_gives_the_same_frame(tmp_path_factory, some):
    folder = tmp_path_factory.mktemp("store")
    for job, found in some:
        ResultStore(folder).add(job, found)
    expected = line_by_line(folder)
    assert_same(read(folder), expected)
    # Out of an index that knew of the first half.
    known = ResultStore(folder)
    kept = [folder / name for name in known._files()]
    for path in kept[: len(kept) // 2]:
        path.rename(path.with_suffix(".away"))
    known.frame()
    for path in kept[: len(kept) // 2]:
        path.with_suffix(".away").rename(path)
    assert_same(known.frame(), expected)
    assert_same(known.frame(), expected)


def test_the_committed_records_and_new_ones_are_read_in_columns(tmp_path):
    committed = REPOSITORY / COMMITTED_STORE
    assert_same(in_columns(committed), line_by_line(committed))
    add(ResultStore(tmp_path), lambda cell, seed: math.nan if cell == "inter/a" else -0.0)
    add(
        ResultStore(tmp_path),
        lambda cell, seed: 1,
        seed=2,
        job={"metric_set": "sentiment"},
        cell_options={"blind": 0.5},
    )
    counted = {"missing_pairs": 0.25, "subsets": {"l": 2, "lav": 3}}
    add(ResultStore(tmp_path), lambda cell, seed: 1, seed=3, cell_options=counted)
    assert_same(in_columns(tmp_path), line_by_line(tmp_path))


def test_files_of_another_form_are_read_beside_those_of_ours(tmp_path):
    paths = [add(ResultStore(tmp_path), lambda cell, seed: 0.25, seed=seed) for seed in range(3)]
    unsealed(paths[1], lambda text: text.replace('"cell":', '"cell" :'))
    assert_same(read(tmp_path), line_by_line(tmp_path))
    assert len(read(tmp_path)) == 75


def unsealed(path, change):
    """Change a file's cell lines, as a file from before checksums that nothing protects."""
    first, _, rest = path.read_text().partition("\n")
    old = {name: value for name, value in json.loads(first).items() if name != CHECKSUMS} | {"schema_version": 1}
    path.write_bytes(f"{json.dumps(old)}\n{change(rest)}".encode())


def second_line(change):
    """A change of the second line alone."""

    def changed(text):
        lines = text.split("\n")
        lines[1] = change(lines[1])
        return "\n".join(lines)

    return changed


SEED = '"mask_seed":null,'
METRICS = '"metrics":{'


@pytest.mark.parametrize(
    "change",
    [
        # Not strict JSON, or not one object a line; the first of these ends the parser's process.
        second_line(lambda line: f"{line}null"),
        second_line(lambda line: f"null{line}"),
        second_line(lambda line: "null"),
        lambda text: text.replace('"mask_hash":"inter/a:None"', '"mask_hash":"{"}null{"x":"}"'),
        lambda text: text.replace('"mask_hash":"inter/a:None"', r'"mask_hash":"\"dropped\":{"'),
        second_line(lambda line: line * 2),
        second_line(lambda line: line.replace(METRICS, f"{METRICS}\n")),
        lambda text: text.replace("}\n{", "}{", 1),
        lambda text: text.replace("\n", "\n\n", 1),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: "",
        second_line(lambda line: line.replace('"corr":0.5', '"corr":NaN')),
        second_line(lambda line: line.replace('"corr":0.5', '"corr":-Infinity')),
        second_line(lambda line: line.replace('"corr":0.5', '"corr":1e999')),
        second_line(lambda line: line.replace('"corr":0.5', '"corr":00.5')),
        second_line(lambda line: line[:-1]),
        second_line(lambda line: f"{line},"),
        # Numbers as Python reads them.
        second_line(lambda line: line.replace('"corr":0.5', '"corr":-0')),
        second_line(lambda line: line.replace('"corr":0.5', '"corr":12345678901234567890123')),
        second_line(lambda line: line.replace('"corr":0.5', '"corr":0.1000000000000000055511151231257827')),
        second_line(lambda line: line.replace('"n":686', f'"n":{-(2**63)}')),
        second_line(lambda line: line.replace('"n":686', f'"n":{2**63}')),
        second_line(lambda line: line.replace('"n":686', '"n":686.0')),
        second_line(lambda line: line.replace('"n":686', f'"n":686,"blind":{2**63}')),
        second_line(lambda line: line.replace('"n":686', '"n":686,"blind":1e19')),
        second_line(lambda line: line.replace('"n":686', '"n":686,"blind":null')),
        second_line(lambda line: line.replace(SEED, f'"mask_seed":{2**63 - 1},')),
        # Fields.
        second_line(lambda line: line.replace(SEED, "")),
        lambda text: text.replace(SEED, "").replace(f"{METRICS}", f'"more":{SEED[12:-1]},{METRICS}'),
        second_line(lambda line: line.replace('"n":686,', "")),
        second_line(lambda line: line.replace('"n":686', '"n":null')),
        second_line(lambda line: line.replace('"n":686', '"n":686,"n":687')),
        second_line(lambda line: line.replace('"n":686', '"n":686,"more":[1,{"x":2}]')),
        second_line(lambda line: line.replace('"n":686', '"n":true')),
        second_line(lambda line: line.replace('"collapsed":false', '"collapsed":0')),
        second_line(lambda line: line.replace('"kind":"cell"', '"kind":"job"')),
        second_line(lambda line: line.replace('"metrics":{', '"metrics":null,"other":{')),
        second_line(lambda line: line.replace('"dropped":{"text":0.1', '"dropped":{"smell":0.1')),
        second_line(lambda line: line.replace('"dropped":{"text":0.1', '"dropped":{"text":"0.1"')),
        second_line(lambda line: line.replace('"corr":0.5', '"bleu":0.5')),
        lambda text: text.replace('"corr":0.5', '"bleu":null'),
        lambda text: text.replace('"corr":0.5', '"corr":[0.5]'),
        lambda text: text.replace('{"f1_non0":0.5,"acc7":0.5,"corr":0.5}', "[[1]]"),
        second_line(lambda line: line.replace('"corr":0.5', '"f1_has0":0.25')),
        *(
            second_line(lambda line, given=given: line.replace('"n":686', f'"n":686,"subsets":{given}'))
            for given in (
                '{"la":3}',
                "{}",
                "null",
                '{"la":null}',
                '{"la":0.5}',
                '{"xy":3}',
                '{"la":3,"la":4}',
                "[3]",
                "{ }",
            )
        ),
        second_line(lambda line: line.replace('"n":686', '"n":686,"subsets" :{"la":3}')),
        second_line(lambda line: line.replace('"n":686', '"n":686,"other":{"la":3}')),
        second_line(lambda line: line.replace('"n":686', '"n":686,"missing_pairs":"0.5"')),
        # What lines say together.
        lambda text: text + text.partition("\n")[0] + "\n",
        second_line(lambda line: line.replace('"job_id":"', '"job_id":"0')),
        second_line(lambda line: line.replace('"cell":"inter/a"', '"cell":"intra/0.0"')),
        second_line(lambda line: line.replace('"cell":"inter/a"', '"cell":"inter/xy"')),
        second_line(lambda line: line.replace('"mask_hash":"inter/a:None"', '"mask_hash":"\\u00e9 é \\u0000"')),
    ],
)
def test_what_is_not_as_we_write_it_is_judged_line_by_line(tmp_path, change):
    # The metric set stands in some records and has to be told from the metrics of others.
    for folder, about in ((tmp_path / "a", {}), (tmp_path / "b", {"metric_set": "sentiment"})):
        store = ResultStore(folder)
        paths = [add(store, lambda cell, seed: 0.5, seed=seed, job=about) for seed in range(2)]
        assert len(in_columns(folder)) == 50
        before = paths[0].read_bytes()
        unsealed(paths[0], change)
        assert paths[0].read_bytes() != before
        expected = line_by_line(folder)
        found = read(folder)
        if isinstance(expected, str):
            assert found == expected
        else:
            assert_same(found, expected)


def test_cell_lines_are_held_against_their_checksum(tmp_path):
    path = add(ResultStore(tmp_path))
    path.write_bytes(path.read_bytes().replace(b'"corr":0.5', b'"corr":0.9', 1))
    assert f"{path} is damaged: its cell lines are not those of its checksum" in read(tmp_path)


def test_a_mask_seed_of_64_bits_comes_back_out_of_the_index(tmp_path):
    job_key = key()
    store = ResultStore(tmp_path)
    store.add(JobRecord(job_key), cells(job_key, names=["intra/0.5", "inter/l"], mask_seeds=(2**63 - 1,)))
    for _ in range(2):
        assert store.frame()["mask_seed"].dropna().tolist() == [2**63 - 1]
