"""Prints comparisons and rankings as text, markdown or CSV. Free of torch and pandas."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Sequence

from msabench.results.aggregate import LEVEL, PROTOCOL
from msabench.results.chosen_rows import ChosenRows
from msabench.results.comparison import Compared, Comparison, Ranked, corrected
from msabench.results.derived import derived, meanings_of, spec_of
from msabench.results.paired import Difference
from msabench.results.ranks import ALPHA
from msabench.results.study import TUNING
from msabench.results.table import AVERAGE_MEANINGS
from msabench.tables.marks import FIDELITIES, UNSEEN
from msabench.tables.render import DAGGER, PILCROW, grid_csv, grid_markdown, grid_text

FEW_SEEDS = 5
"""Below this, a comparison says that it rests on few seeds."""

FEW_CLIPS = 200
"""Below this, a comparison says that the test set is small."""

NAMED = 5
"""Up to so many methods that another is not told apart from are named, more are counted."""

CSV_HEADER = (
    *("kind", *PROTOCOL),
    *("method", "method_version", "variant", "regime", "config_hash", "fidelity", "metric", "cell", "baseline"),
    *("value", "baseline_value", "difference", "low", "high", "p", "p_holm"),
    *("n_seeds", "n_seeds_baseline", "seeds_paired", "n_clips", "n_collapsed", "n_collapsed_baseline"),
    *("average_rank", "n_blocks", "n_last", "critical_difference", "friedman_p"),
)


def as_text(
    compared: Sequence[Compared],
    without: Sequence[ChosenRows],
    baseline: str,
    ranked: Ranked | str,
    draws: int,
    *,
    markdown: bool,
) -> str:
    """Comparisons, one part for each corpus and protocol, then the ranks.

    Args:
        compared: The comparisons.
        without: Tables that do not have the baseline.
        baseline: The baseline's name.
        ranked: The ranking, or why there is none.
        draws: Resamples of the bootstrap.
        markdown: Whether to print markdown.
    """
    p_values = corrected(compared)
    count = sum(not math.isnan(p) for p in p_values)
    parts = []
    for part in compared:
        here, p_values = p_values[: len(part.comparisons)], p_values[len(part.comparisons) :]
        table = part.chosen.table
        head = _heading(f"{table.heading}: difference from {part.baseline.label}", markdown)
        about = _paragraphs([f"{table.protocol_text}.", table.caveat], markdown)
        grid = _grid(_difference_grid(part, here), markdown)
        parts.append("\n".join([*head, *about, "", grid, "", *_items(_notes(part), markdown)]))
    parts.append("\n".join(_items(_legend(compared, count, draws), markdown)))
    said = remarks(without, baseline, ranked)
    if isinstance(ranked, Ranked):
        metrics = " / ".join(dict.fromkeys(chosen.table.metric.title for chosen in ranked.chosen_tables))
        head = _heading(f"Average ranks by {metrics}", markdown)
        grid = _grid(_rank_grid(ranked), markdown)
        parts.append("\n".join([*head, grid, "", *_items(_rank_legend(ranked), markdown)]))
    if said:
        parts.append("\n".join(_items(said, markdown)))
    return "\n\n".join(parts)


def remarks(without: Sequence[ChosenRows], baseline: str, ranked: Ranked | str) -> list[str]:
    """Sentences about what was asked for and could not be done."""
    said = [
        f"Not compared, since there are no records of {baseline} under this protocol: {chosen.table.protocol_text} "
        f"(there are: {', '.join(chosen.names)})."
        for chosen in without
    ]
    if isinstance(ranked, str):
        return [*said, f"No ranks: {ranked}."]
    return [*said, *(f"Not ranked: {sentence}." for sentence in ranked.left_out)]


def as_csv(compared: Sequence[Compared], ranked: Ranked | str) -> str:
    """One line per comparison (kind ``difference``), then one per ranked method (kind ``rank``), unrounded."""
    lines = []
    p_values = corrected(compared)
    for part in compared:
        here, p_values = p_values[: len(part.comparisons)], p_values[len(part.comparisons) :]
        lines += [_csv_line(part, comparison, p) for comparison, p in zip(part.comparisons, here, strict=True)]
    if isinstance(ranked, Ranked):
        result = ranked.ranking
        metric = "/".join(dict.fromkeys(chosen.table.metric.key for chosen in ranked.chosen_tables))
        for place, name in enumerate(result.names):
            given = {
                "kind": "rank",
                **{
                    name: "/".join(chosen.table.protocol[name] for chosen in ranked.chosen_tables)
                    for name in ("dataset", "revision")
                },
                "method": name,
                "fidelity": ranked.fidelity[place],
                "metric": metric,
                "average_rank": repr(float(result.average[place])),
                "n_blocks": str(len(result.blocks)),
                "n_last": str(int(result.last[:, place].sum())),
                "critical_difference": repr(result.critical_difference),
                "friedman_p": _number(result.friedman_p),
            }
            if ranked.intervals is not None:
                low, high = map(float, ranked.intervals[place])
                given |= {"low": _number(low), "high": _number(high)}
            lines.append(given)
    # Without tuned rows it is the CSV that it has always been.
    header = (*CSV_HEADER, *([TUNING] if any(TUNING in line for line in lines) else []))
    return grid_csv([list(header), *([line.get(column, "") for column in header] for line in lines)])


# Differences.


def _difference_grid(part: Compared, p_values: Sequence[float]) -> list[list[str]]:
    metric = part.chosen.table.metric
    header = ["method", "regime", "fidelity", "cell", "value", part.baseline.label, "difference"]
    grid = [[*header, f"{LEVEL} % interval", "p", "p (Holm)", "seeds", "note"]]
    for comparison, p in zip(part.comparisons, p_values, strict=True):
        row, found = comparison.row, comparison.found
        about = [row.label, row.regime, row.fidelity, comparison.cell]
        pair = "pairs" if comparison.paired else f"and {part.baseline_seeds}"
        seeds = f"{comparison.seeds} {pair}"
        if found is None:
            quantity = derived(comparison.cell)
            lacking = (
                "no records of every seed" if quantity is None or quantity.applies(metric) else "not of this metric"
            )
            grid.append([*about, "-", "-", "-", "-", "-", "-", seeds, lacking])
            continue
        spec = spec_of(comparison.cell, metric)
        interval = f"[{spec.signed(found.low)}, {spec.signed(found.high)}]"
        numbers = [spec.format(found.value), spec.format(found.baseline), spec.signed(found.difference)]
        note = _marks(part, comparison)
        grid.append([*about, *numbers, interval, f"{found.p:.3f}", f"{p:.3f}", seeds, note])
    return grid


def _marks(part: Compared, comparison: Comparison) -> str:
    ours, theirs = comparison.row.entries.get(comparison.cell), part.baseline.entries.get(comparison.cell)
    words = [PILCROW] * any(entry is not None and entry.unseen for entry in (ours, theirs))
    words += [f"{DAGGER} {ours.n_collapsed}"] if ours and ours.n_collapsed else []
    words += [f"baseline {DAGGER} {theirs.n_collapsed}"] if theirs and theirs.n_collapsed else []
    return ", ".join(words)


def _notes(part: Compared) -> list[str]:
    table = part.chosen.table
    notes = [f"Left out: {sentence}." for sentence in part.chosen.left_out]
    if part.n_clips < FEW_CLIPS:
        notes.append(
            f"Small test set: {part.n_clips} clips (fewer than {FEW_CLIPS}); only gross differences can be seen."
        )
    counts = {part.baseline.label: part.baseline_seeds}
    counts |= {comparison.row.label: comparison.seeds for comparison in part.comparisons}
    few = [f"{name} {count}" for name, count in counts.items() if count < FEW_SEEDS]
    if few:
        notes.append(
            f"Few training seeds (fewer than {FEW_SEEDS}): {', '.join(few)}; where seeds differ much, the intervals "
            "are too narrow and the p values too small."
        )
    if 1 in counts.values():
        notes.append("Of a method with one seed, intervals and p values hold the luck of the test clips only.")
    return [*notes, *(note for note in table.notes if note.startswith(("v, #", "tuned("))), *table.warnings]


def _legend(compared: Sequence[Compared], count: int, draws: int) -> list[str]:
    cells = dict.fromkeys(comparison.cell for part in compared for comparison in part.comparisons)
    better = {spec_of(cell, part.chosen.table.metric).direction for part in compared for cell in cells}
    words = {"max": "more is better", "min": "less is better"}
    percent = " in percent points" if any(part.chosen.table.metric.percent for part in compared) else ""
    lines = [
        f"difference = method minus baseline{percent}, of means over training seeds of means over test masks; "
        f"{' or '.join(words[direction] for direction in sorted(better))}.",
        f"interval: paired bootstrap, {draws} resamples of test clips, the same for both methods, and of training "
        'seeds: "n pairs" if both have the same n seeds and they are drawn in pairs, "n and m" if independently.',
        f"p: two-sided, from the same resamples; p (Holm): corrected for the {count} comparisons shown that have a p.",
    ]
    meanings = [f"{cell}: {AVERAGE_MEANINGS[cell].partition(' = ')[2]}" for cell in cells if cell in AVERAGE_MEANINGS]
    if meanings:
        lines.append("; ".join(meanings) + ".")
    lines += [f"{meaning}." for meaning in meanings_of(list(cells))]
    entries = [c.row.entries.get(c.cell) for part in compared for c in part.comparisons]
    entries += [part.baseline.entries.get(c.cell) for part in compared for c in part.comparisons]
    if any(entry is not None and entry.n_collapsed for entry in entries):
        lines.append("† n = predictions collapsed into one class under n training seeds, see `msabench table`.")
    if any(entry is not None and entry.unseen for entry in entries):
        lines.append(f"{PILCROW} = {UNSEEN}.")
    rows = [part.baseline for part in compared] + [c.row for part in compared for c in part.comparisons]
    lines += [f"{meaning}." for name, meaning in FIDELITIES.items() if name in {row.fidelity for row in rows}]
    if any(c.found is not None and math.isnan(c.found.p) for part in compared for c in part.comparisons):
        ratios = any(quantity.kind == "relative" for cell in cells if (quantity := derived(cell)))
        lines.append(
            "nan = undefined in at least one resample, since predictions or labels are constant in it"
            + (", or the value of complete clips is not above 0, so that nothing is a share of it." if ratios else ".")
        )
    return lines


def _csv_line(part: Compared, comparison: Comparison, p_holm: float) -> dict[str, str]:
    table, row, found = part.chosen.table, comparison.row, comparison.found
    ours, theirs = row.entries.get(comparison.cell), part.baseline.entries.get(comparison.cell)
    return {
        "kind": "difference",
        **table.protocol,
        **{name: str(getattr(row, name)) for name in ("method", "method_version", "variant", "regime", "config_hash")},
        "fidelity": row.fidelity,
        "metric": table.metric.key,
        "cell": comparison.cell,
        "baseline": f"{part.baseline.label} ({part.baseline.regime})",
        "n_seeds": str(comparison.seeds),
        "n_seeds_baseline": str(part.baseline_seeds),
        "seeds_paired": str(comparison.paired).lower(),
        "n_clips": str(part.n_clips),
        "n_collapsed": str(ours.n_collapsed) if ours else "",
        "n_collapsed_baseline": str(theirs.n_collapsed) if theirs else "",
        **(_csv_numbers(found, p_holm) if found else {}),
        **({TUNING: row.tuning} if row.tuning else {}),
    }


def _csv_numbers(found: Difference, p_holm: float) -> dict[str, str]:
    numbers = {
        "value": found.value,
        "baseline_value": found.baseline,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "p_holm": p_holm,
    }
    return {name: _number(value) for name, value in numbers.items()}


# Ranks.


def _rank_grid(ranked: Ranked) -> list[list[str]]:
    result = ranked.ranking
    grid = [["method", "fidelity", "average rank", f"{LEVEL} % interval", "last", "not told apart from"]]
    for place, name in enumerate(result.names):
        close = [
            other
            for number, other in enumerate(result.names)
            if number != place and abs(result.average[number] - result.average[place]) < result.critical_difference
        ]
        words = ", ".join(close) if len(close) <= NAMED else f"{len(close)} of {len(result.names) - 1}"
        last = int(result.last[:, place].sum())
        rank = f"{result.average[place]:.2f}"
        bounds = "-" if ranked.intervals is None else "[{:.1f}, {:.1f}]".format(*ranked.intervals[place])
        grid.append([name, ranked.fidelity[place], rank, bounds, str(last) if last else "", words])
    return grid


def _rank_legend(ranked: Ranked) -> list[str]:
    result = ranked.ranking
    corpora = ", ".join(chosen.title for chosen in ranked.chosen_tables)
    p = "undefined, since all tie" if math.isnan(result.friedman_p) else f"p = {result.friedman_p:.3g}"
    lines = [
        f"Mean of ranks over {len(result.blocks)} test situations ({corpora}), 1 is best, ties share their mean.",
        f"Friedman test of equal ranks: {p}. Critical difference (Nemenyi, {100 * ALPHA:.0f} %): "
        f"{result.critical_difference:.2f} for {len(result.names)} methods.",
        "Test situations of one corpus share models and clips, so they are not independent: this p value is too small "
        "and the critical difference too short.",
    ]
    if ranked.intervals is None:
        lines.append("No intervals of ranks: the predictions of all ranked methods are not here.")
    else:
        lines.append(
            "interval = of the average rank over the same resamples of clips and seeds. It leans to the middle, since "
            "in a resample methods that are close change places; that of the best or worst may leave out its own rank."
        )
    if result.last.any():
        lines.append(
            "last = situations in which the method ranks last because the metric is undefined or, for Acc-2 and F1, "
            "because predictions collapsed into one class under at least one training seed."
        )
    caveats = dict.fromkeys(chosen.table.caveat for chosen in ranked.chosen_tables if chosen.table.caveat)
    warnings = dict.fromkeys(line for chosen in ranked.chosen_tables for line in chosen.table.warnings)
    return [*lines, *caveats, *warnings]


# Layout.


def _number(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def _heading(text: str, markdown: bool) -> list[str]:
    return [f"### {text}", ""] if markdown else [text, "=" * len(text)]


def _grid(grid: list[list[str]], markdown: bool) -> str:
    return grid_markdown(grid) if markdown else grid_text(grid)


def _paragraphs(lines: Sequence[str], markdown: bool) -> list[str]:
    """Sentences below each other, wrapped to the terminal unless they are markdown; empty ones are left out."""
    if markdown:
        return "\n\n".join(line for line in lines if line).splitlines()
    width = max(shutil.get_terminal_size((120, 24)).columns, 40)
    return [piece for line in lines for piece in textwrap.wrap(line, width)]


def _items(lines: Sequence[str], markdown: bool) -> list[str]:
    """Sentences as a list."""
    return [f"- {line}" for line in lines] if markdown else _paragraphs(lines, markdown)
