"""Second-hand numbers: kept apart, each with its protocol and where it was read; what the audit says of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from msabench.audit.run import run_audit
from msabench.errors import MSABenchError
from msabench.missingness.conditions import LAWS, TENTHS, Cell
from msabench.published.constant_scores import explaining
from msabench.published.layouts import PAPER_TABLES, SECOND_HAND_TABLES, paper_tables
from msabench.published.numbers import AREAS, PAPERS, Number, load_published, read_numbers
from msabench.published.second_hand import SECOND_HAND, load_second_hand
from msabench.published.tables import PaperTable, recorded_cell
from msabench.tables.command import table

PUBLISHED = Path(__file__).parents[2] / "leaderboard" / "published"


@pytest.fixture(scope="module")
def numbers() -> list[Number]:
    return load_second_hand(PUBLISHED)


def test_every_number_is_there_and_none_is_one_of_the_papers(numbers: list[Number]) -> None:
    found = Counter((number.paper, number.table) for number in numbers)
    assert found == {
        ("imder", "random"): 240,
        ("cyin", "complete"): 4,
        ("cyin", "0.7"): 4,
        ("emt_dlfr", "AUILC"): 29,
        ("semmsa", "quoted"): 16,
        ("hitnet", "quoted"): 3,
        ("tcmr", "quoted"): 22,
    }
    assert not set(SECOND_HAND) & set(PAPERS)
    assert not {number.paper for number in load_published(PUBLISHED)} & set(SECOND_HAND)
    assert all(number.note.startswith("second-hand") for number in numbers)
    assert {spec.paper for spec in PAPER_TABLES} == set(PAPERS)


def test_a_folder_of_ones_own_need_not_have_them(tmp_path: Path) -> None:
    assert load_second_hand(tmp_path) == []


@pytest.mark.parametrize("spec", SECOND_HAND_TABLES, ids=lambda spec: f"{spec.paper}-{spec.label}")
def test_every_number_has_one_place(spec: PaperTable, numbers: list[Number]) -> None:
    mine = [number for number in numbers if (number.paper, number.table) == (spec.paper, spec.label)]
    placed = spec.numbers_in(mine)
    assert len(placed) == len(mine) > 0
    for block in spec.blocks:
        for row in block.rows:
            assert any(block.spot(row, column) in placed for column in block.columns), row


def test_no_two_protocols_share_a_table(numbers: list[Number]) -> None:
    for spec in SECOND_HAND_TABLES:
        mine = [number for number in numbers if (number.paper, number.table) == (spec.paper, spec.label)]
        assert len({number.protocol for number in mine}) == 1
    laws = {number.cell: number.protocol for number in numbers if number.protocol in LAWS}
    assert all(cell.startswith(f"{law}/") for cell, law in laws.items())
    assert {cell for cell, law in laws.items() if law == "random-table"} == {
        f"random-table/{rate}" for rate in ("0.0", *TENTHS)
    }
    assert recorded_cell("random-table/0.0") == str(Cell())
    assert recorded_cell("random-table/0.3") != recorded_cell("random/0.3")


def test_tables_say_whose_protocol_they_are_of_and_where_they_were_read() -> None:
    for source, about in SECOND_HAND.items():
        text = " ".join(table(paper=source, published=PUBLISHED, width=4000).split())
        assert about.models in text
        assert about.law in text
        assert f"Second-hand, read in: {about.read_in}." in text
        assert "reproduce" not in text
        assert [spec.paper for spec in paper_tables(source)] == [source] * len(paper_tables(source))
    words = table(paper="imder", table="random", datasets=["mosi"], published=PUBLISHED, width=400).splitlines()
    [row] = [line.split() for line in words if line.startswith("mmin ")]
    assert row[1:4] + row[-3:] == ["84.6", "84.4", "44.8", "62.8", "61", "28.4"]


def test_nothing_of_ours_is_set_beside_them() -> None:
    with pytest.raises(MSABenchError, match="numbers of imder are second-hand, and nothing is set beside them"):
        table(paper="imder", show="reproduced", published=PUBLISHED)
    with pytest.raises(MSABenchError, match=r"unknown paper 'imdr'; allowed: prlf, .*kt, imder, cyin"):
        table(paper="imdr", published=PUBLISHED)


def test_the_audit_finds_the_row_that_was_copied_to_another_corpus(numbers: list[Number]) -> None:
    found = {finding.id: finding for finding in run_audit(numbers)}
    copied = found["repeated_row:imder:random:table:random:mosi:imder=table:random:mosei:dcca"]
    assert (copied.kind, copied.severity) == ("repeated_row", "error")
    assert "agree in 23 of 24" in copied.printed
    assert copied.expected == "differing: acc2 84.8 and 84.9"
    # Selected on the test split and on the validation split.
    apart = found["disagreement:semmsa:quoted:mosi:p_rmf:avg_intra:acc7"]
    assert apart.printed == "semmsa table quoted: 34.19; tcmr table quoted: 28.91"


def test_the_two_laws_and_areas_are_not_compared(tmp_path: Path, numbers: list[Number]) -> None:
    rows = ["a,mosi,mmin,random/0.3,f1,76.2", "b,mosi,mmin,random-table/0.3,f1,66.1", "a,mosi,mmin,auilc_1.0,f1,39.32"]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["paper,dataset,method,cell,metric,value", *rows, "b,mosi,mmin,auilc_1.0,f1,20"]) + "\n")
    mine = read_numbers(path)
    assert [number.protocol for number in mine] == ["random", "random-table", "intra_area", "intra_area"]
    assert not [finding for finding in run_audit(mine) if finding.kind in ("disagreement", "constant", "scale")]
    path.write_text(path.read_text().replace("random-table/0.3", "random/0.3"))
    assert [finding.kind for finding in run_audit(read_numbers(path)) if finding.kind == "disagreement"]
    areas = [number for number in numbers if number.cell in AREAS]
    assert areas
    assert not any(explaining(number) for number in (*areas, mine[2]))
