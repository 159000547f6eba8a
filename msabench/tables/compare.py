"""``msabench compare``: differences from a baseline with intervals and p values, and average ranks. Free of torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msabench.errors import MSABenchError, nearest, one_of, printable
from msabench.missingness.named import naming
from msabench.results.aggregate import DRAWS
from msabench.results.derived import DERIVED
from msabench.results.places import store_to_read
from msabench.results.table import CONSTANT

if TYPE_CHECKING:
    from msabench.results.chosen_rows import ChosenRows
    from msabench.results.comparison import Ranked
    from msabench.results.tuned import Tuning

FORMATS = ("text", "markdown", "csv")


@naming(quantities=DERIVED)
def compare(
    baseline: str,
    datasets: list[str] | None = None,
    metric: str | None = None,
    methods: list[str] | None = None,
    variants: list[str] | None = None,
    cells: list[str] = ["avg_missing", "avg_intra"],  # noqa: B006  the command line shows the default
    store: Path | None = None,
    committed: bool = False,
    format: Literal["text", "markdown", "csv"] = "text",
    draws: int = DRAWS,
    scored: bool = False,
    revision: list[str] | None = None,
    tuning: Literal["default", "tuned", "all"] | None = None,
) -> str:
    """Compare methods with a baseline, clip by clip, and rank them over test situations.

    Only records of one protocol are compared. Needs the predictions that `msabench run` leaves in the store.

    Args:
        baseline: Method to compare with; METHOD, METHOD/VARIANT, or either with its regime, e.g. "prlf (mixed)". "mult
            tuned" is the one with tuned settings.
        datasets: Corpora; all in the store if not given.
        metric: Metric key, e.g. corr; each corpus's usual one if not given.
        methods: Methods to compare; all but the constant predictor if not given.
        variants: Variants to compare; only default if not given.
        cells: Averages ({averages}),
            grids ({grids}),
            cells (inter/la, random/0.3) and derived quantities ({quantities}, and
            relative: with a cell or an average, e.g. relative:avg_missing). Ranks are over the cells that averages and
            quantities are made of.
        store: Folder of the result store; runs/store, or what MSABENCH_STORE names, if not given.
        committed: Read the records in git, leaderboard/results, instead.
        format: How to print; csv is unrounded.
        draws: Resamples of the bootstrap.
        scored: Compare and rank predictions from elsewhere as well, which were only scored here; without, only those
            that methods or baseline name.
        revision: Revisions of the data, as tables print them; all if not given. Ranks need one of each corpus.
        tuning: Rows of default settings, of tuned ones, or all; if not given all with a tuned baseline, else default
            ones, and tuned ones where there are only these.

    Returns:
        The text to print.

    Raises:
        MSABenchError: A name is unknown, there are no records or no predictions of it, or the baseline was not run
            under any protocol.
    """
    if format not in FORMATS:
        raise one_of("format", format, FORMATS)
    if draws < 100:
        raise MSABenchError(f"draws {draws} is not allowed; give at least 100")

    from msabench.results.chosen_rows import cells_of
    from msabench.results.comparison import compare_rows
    from msabench.tables import comparison_text

    wanted = cells_of(cells, quantities=True)
    folder = store_to_read(store, committed)
    found = _comparable(baseline, datasets, metric, methods, variants, wanted, folder, scored, revision, tuning)
    compared = [
        compare_rows(chosen, place, wanted, folder, draws)
        for chosen, place in found
        if place is not None and len(chosen.table.rows) > 1
    ]
    without = [chosen for chosen, place in found if place is None]
    if not compared:
        there = list(dict.fromkeys(name for chosen, _ in found for name in chosen.names))
        close = nearest(baseline, there)
        raise MSABenchError(
            f"baseline {baseline!r} has no records beside others under one protocol; here are: {', '.join(there)}"
            + (f"; did you mean {close}?" if close and close != baseline else "")
        )
    ranked = _ranked([chosen for chosen, _ in found], wanted, folder, draws)
    if format == "csv":
        # Remarks inside would no longer be CSV.
        warnings = [line for chosen, _ in found for line in chosen.table.warnings]
        for remark in (*comparison_text.remarks(without, baseline, ranked), *dict.fromkeys(warnings)):
            print(printable(remark), file=sys.stderr)
        return comparison_text.as_csv(compared, ranked)
    return comparison_text.as_text(compared, without, baseline, ranked, draws, markdown=format == "markdown")


def _comparable(
    baseline: str,
    datasets: list[str] | None,
    metric: str | None,
    methods: list[str] | None,
    variants: list[str] | None,
    cells: tuple[str, ...],
    store: Path,
    scored: bool,
    revision: list[str] | None,
    tuning: Tuning | None,
) -> list[tuple[ChosenRows, int | None]]:
    """Tables with the rows asked for and the baseline, and where the baseline stands in each."""
    from msabench.results.chosen_rows import choose_rows
    from msabench.results.comparison import TUNED, baseline_of, named_method

    method, variant = named_method(baseline)
    if tuning is None and f" {TUNED}" in baseline:
        tuning = "all"
    shown = variants or ["default"]
    every = list(dict.fromkeys([*shown, variant or "default"]))
    asked = None if methods is None else list(dict.fromkeys([*methods, method]))
    found = []
    for chosen in choose_rows(
        store,
        datasets,
        asked,
        metric,
        every,
        constant=method == CONSTANT,
        scored=scored,
        baseline=method,
        quantities=cells,
        revision=revision,
        tuning=tuning,
    ):
        place = baseline_of(chosen, baseline)
        kept = [
            number
            for number, row in enumerate(chosen.table.rows)
            if number == place or (row.variant in shown and (methods is None or row.method in methods))
        ]
        if kept:
            found.append((chosen.keeping(kept), None if place is None else kept.index(place)))
    return found


def _ranked(chosen_tables: list[ChosenRows], cells: tuple[str, ...], store: Path, draws: int) -> Ranked | str:
    """The ranking, or why there is none."""
    from msabench.results.comparison import rank_rows

    try:
        return rank_rows(chosen_tables, cells, store, draws)
    except MSABenchError as error:
        return str(error)
