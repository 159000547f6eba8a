"""What selecting the best of many settings on validation does to their score: the table in docs/statistics.md."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, stats

from msabench.results.study import Trial
from tests.support.tuned_runs import LR, study

PAGE = Path(__file__).parents[2] / "docs/statistics.md"
TRUTH, LUCK = 0.03, 0.02
"""Standard deviations between settings, and of the luck of clips and training; t and s on the page."""


def expected_maximum(n: int) -> float:
    """Expected maximum of n standard normal draws: the integral of x times the density of the largest of n."""

    def weighted(x: float) -> float:
        return float(n * x * stats.norm.pdf(x) * stats.norm.cdf(x) ** (n - 1))

    return float(integrate.quad(weighted, -12, 12)[0])


def rows() -> list[list[float]]:
    section = PAGE.read_text(encoding="utf-8").partition("## What tuning changes")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| (\d+ \|.*) \|$", section, flags=re.MULTILINE)
    return [[float(word) for word in line.split(" | ")] for line in lines]


def test_the_expected_maximum_is_known_for_few() -> None:
    assert expected_maximum(1) == pytest.approx(0, abs=1e-9)
    assert expected_maximum(2) == pytest.approx(1 / np.sqrt(np.pi))
    assert expected_maximum(3) == pytest.approx(1.5 / np.sqrt(np.pi))


def test_the_table_on_the_page_is_computed() -> None:
    found = rows()
    assert [row[0] for row in found] == [1, 5, 10, 20, 50, 100, 200]
    spread = np.hypot(TRUTH, LUCK)
    for n, maximum, seems, gains, luck, nothing in found:
        expected = expected_maximum(int(n))
        assert maximum == pytest.approx(expected, abs=5.1e-4)
        assert seems == pytest.approx(expected * spread, abs=5.1e-4)
        assert gains == pytest.approx(expected * TRUTH**2 / spread, abs=5.1e-4)
        assert luck == pytest.approx(expected * LUCK**2 / spread, abs=5.1e-4)
        assert nothing == pytest.approx(expected * LUCK, abs=5.1e-4)


@pytest.mark.parametrize("n", [5, 50])
def test_studies_that_are_drawn_show_the_same(n: int) -> None:
    """The winner as ``Study.best`` selects it: what it seems to gain, and what it keeps when it is trained anew."""
    rng = np.random.default_rng(0)
    draws = 1500
    truth = rng.normal(1.0, TRUTH, (draws, n))
    seen = truth + rng.normal(0.0, LUCK, (draws, n))
    winners = np.array(
        [
            study(
                trials=tuple(Trial(k, {LR: 0.1} if k else {}, "complete", value) for k, value in enumerate(values))
            ).best.number
            for values in seen.tolist()
        ]
    )
    each = np.arange(draws)
    seems, keeps = 1.0 - seen[each, winners].mean(), 1.0 - truth[each, winners].mean()
    [row] = [row for row in rows() if row[0] == n]
    assert seems == pytest.approx(row[2], abs=0.004)
    assert keeps == pytest.approx(row[3], abs=0.004)
    assert seems > keeps + 0.5 * row[4]
