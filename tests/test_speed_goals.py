"""The list of aims in ``benchmarks/speed`` says what its pages say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SPEED = Path(__file__).parents[1] / "benchmarks" / "speed"
GOALS = (SPEED / "goals.md").read_text(encoding="utf-8").strip()
FIGURE = re.compile(r"\d[\d.,]*(?:x| s| ms| GB| MB)?(?![\d.,]*\d)")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in GOALS.splitlines()
    if line.startswith("|") and "](" in line
]
APART = "beside MMSA", "likewise misa"
"""Rows whose first figures are not of their page."""


def without_goals(page: str) -> str:
    """A page of measurements; the list itself stands in one of them."""
    return (SPEED / page).read_text(encoding="utf-8").replace(GOALS, "")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_figures_stand_in_their_page(row: list[str]) -> None:
    what, before, now, _, link = row
    page = re.search(r"\]\((.+)\)", link)
    assert page is not None
    text = without_goals(page[1])
    for side in (now,) if any(words in what for words in APART) else (before, now):
        for figure in FIGURE.findall(side):
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d])", text), (figure, page[1])


def test_the_list_stands_in_the_page() -> None:
    assert GOALS in (SPEED / "README.md").read_text(encoding="utf-8")
    assert len(ROWS) >= 20


def test_every_page_is_linked() -> None:
    text = (SPEED / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in SPEED.glob("*.md")} - {"README.md", "goals.md"}
    assert pages == {name for name in pages if f"({name})" in text}
    assert {Path(name).stem for name in pages} <= {path.stem for path in SPEED.glob("*.py")}
