"""Prints tables as text, markdown, LaTeX or CSV. Free of torch and pandas."""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections.abc import Sequence

from msabench.results.aggregate import DRAWS, LEVEL, PROTOCOL
from msabench.tables.spec import AVERAGE_MEANINGS, BLOCKS, Column, Entry, Row, Table

DAGGER = "†"
PLUS_MINUS = "±"

COLLAPSES = {
    "sentiment": "all predictions of a test situation fall into one class, with or without the clips labelled 0",
    "sims": "all predictions of a test situation fall into one class",
    "emotions": "all predictions of a test situation fall into one class for at least one emotion",
}
"""Metric set -> what ``metrics.functional.is_collapsed`` means in it."""

Grid = list[list[str]]

CSV_COLUMNS = (
    *PROTOCOL,
    *("method", "method_version", "variant", "regime", "config_hash", "fidelity", "seed", "metric"),
    *("block", "column", "cell", "mean", "std", "n_seeds", "n_mask_seeds", "n_collapsed"),
    *("low", "high"),
)


def render_text(table: Table, width: int) -> str:
    """For a terminal: blocks side by side if they fit, else below each other, cut where even one is too wide.

    Args:
        table: The table.
        width: Characters in a line.
    """
    lines = [table.heading, "=" * len(table.heading)]
    lines += _wrapped([_sentence(table.protocol_text), table.caveat], width)
    for number, columns in enumerate(_chunks(table, width)):
        lines += ["", *_text_lines(table, columns, brief=number > 0)]
    return "\n".join([*lines, "", *_wrapped(legend(table), width)])


def render_markdown(table: Table) -> str:
    """GitHub markdown; the best number of each column is bold."""
    header, *body = _cells(table, table.columns, bold="**{}**")
    labels = len(header) - len(table.columns)
    lines = [f"### {table.heading}", "", _sentence(table.protocol_text), ""]
    if table.caveat:
        lines += [f"**{table.caveat}**", ""]
    lines.append(_pipes(header))
    lines.append(_pipes(["---"] * labels + ["---:"] * len(table.columns)))
    lines += [_pipes(row) for row in body]
    return "\n".join([*lines, "", *(f"- {note}" for note in legend(table))])


def render_latex(table: Table) -> str:
    """A ``table*`` with one tabular per block; needs the package booktabs; best numbers bold."""
    lines = [r"\begin{table*}[t]", r"\centering\scriptsize\setlength{\tabcolsep}{3pt}"]
    words = [table.heading + ".", _sentence(table.protocol_text), table.caveat, *legend(table)]
    lines.append(rf"\caption{{{_escape(' '.join(word for word in words if word))}}}")
    for number, columns in enumerate(_blocks(table.columns)):
        header, *body = _cells(table, columns, bold="\\textbf{{{}}}", escape=True)
        lines += [r"\par\smallskip"] * (number > 0)
        lines.append(rf"\begin{{tabular}}{{{'l' * (len(header) - len(columns))}{'r' * len(columns)}}}")
        lines += [r"\toprule", _ampersands(header), r"\midrule", *map(_ampersands, body), r"\bottomrule"]
        lines.append(r"\end{tabular}")
    return "\n".join([*lines, r"\end{table*}"])


def render_csv(tables: Sequence[Table]) -> str:
    """One line per number, unrounded and in natural scale; cells without records have empty values and 0 seeds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in tables:
        for row in table.rows:
            about = [row.method, row.method_version, row.variant, row.regime, row.config_hash, row.fidelity]
            seed = "" if row.seed is None else row.seed
            for column in table.columns:
                key = [
                    *table.protocol.values(),
                    *about,
                    seed,
                    table.metric.key,
                    column.block,
                    column.header,
                    column.key,
                ]
                entry = row.entries.get(column.key)
                writer.writerow([*key, *(_numbers(entry) if entry else ["", "", 0, 0, 0, "", ""])])
    return out.getvalue().rstrip("\n")


def grid_text(grid: Grid) -> str:
    """A plain grid for a terminal, header first."""
    return "\n".join(_aligned(grid, left=len(grid[0])))


def grid_csv(grid: Grid) -> str:
    """A plain grid as CSV, header first."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(grid)
    return out.getvalue().rstrip("\n")


def grid_markdown(grid: Grid) -> str:
    """A plain grid in markdown, header first."""
    return "\n".join([_pipes(grid[0]), _pipes(["---"] * len(grid[0])), *map(_pipes, grid[1:])])


def legend(table: Table) -> list[str]:
    """Sentences below a table: what the metric, the columns and the marks mean, then the table's notes."""
    entries = [row.entries[c.key] for row in table.rows for c in table.columns if c.key in row.entries]
    definition = table.metric.definitions[table.metric_set]
    lines = [f"{table.metric.title} [{table.metric.key}]: {definition}."]
    blocks = dict.fromkeys(column.block for column in table.columns)
    meanings = [f"{_example(table, block)} = {BLOCKS[block]}" for block in blocks]
    meanings += [AVERAGE_MEANINGS[c.key] for c in table.columns if c.key in AVERAGE_MEANINGS]
    lines.append(_sentence("Columns: " + "; ".join(meanings)))
    if any(row.seed is not None for row in table.rows):
        spread = "One training seed a row, mean over test masks"
    else:
        spread = f"Mean{PLUS_MINUS}standard deviation over training seeds of the mean over test masks"
    if any(entry.interval for entry in entries):
        spread = (
            f"Mean [{LEVEL} % interval: bootstrap of test clips and training seeds, {DRAWS} resamples] of the mean "
            "over test masks; with few seeds it is rough"
        )
    differ = " (fewest-most of any column)" if any("-" in row.runs(table.columns) for row in table.rows) else ""
    lines.append(f"{spread}; runs = training seeds x test masks{differ}.")
    if any(
        row.entries.get(c.key) and row.entries[c.key].n_seeds < row.n_seeds for row in table.rows for c in table.columns
    ):
        lines.append("(n) = over n training seeds only.")
    if any(column.key not in row.entries for row in table.rows for column in table.columns):
        lines.append("- = no records.")
    if any(entry.n_collapsed for entry in entries):
        lines.append(
            f"{DAGGER} = collapsed: {COLLAPSES[table.metric_set]}, so that a constant would score the same there; "
            f"{DAGGER}n = in n of the training seeds; in averages, in any situation averaged over."
        )
    if any(math.isnan(entry.mean) for entry in entries):
        lines.append("nan = undefined for at least one run, since predictions or labels are constant.")
    return [*lines, *table.notes]


# Cells.


def _cells(table: Table, columns: Sequence[Column], *, bold: str, escape: bool = False, brief: bool = False) -> Grid:
    """Header and rows as strings; the label columns come first, the brief form has only those that tell rows apart."""
    clean = _escape if escape else str
    seeds = any(row.seed is not None for row in table.rows)
    several = len({row.regime for row in table.rows}) > 1
    labelled = ["method"]
    labelled += ["regime"] if several or not brief else []
    labelled += [] if brief else ["fidelity"]
    labelled += ["seed"] if seeds else []
    labelled += [] if brief else ["runs"]
    best = {} if seeds else {column.key: _best(table, column) for column in columns}
    grid = [[clean(word) for word in (*labelled, *(column.header for column in columns))]]
    for row in table.rows:
        labels = {
            "method": row.label,
            "regime": row.regime,
            "fidelity": row.fidelity,
            "seed": str(row.seed),
            "runs": row.runs(table.columns),
        }
        numbers = []
        for column in columns:
            entry = row.entries.get(column.key)
            text = clean(_number(table, row, entry))
            is_best = entry is not None and table.metric.format(entry.mean) == best.get(column.key)
            numbers.append(bold.format(text) if is_best else text)
        grid.append([*(clean(labels[name]) for name in labelled), *numbers])
    return grid


def _number(table: Table, row: Row, entry: Entry | None) -> str:
    if entry is None:
        return "-"
    text = table.metric.format(entry.mean)
    if entry.interval is not None:
        text += f" [{', '.join(map(table.metric.format, entry.interval))}]"
    elif not math.isnan(entry.std):
        text += PLUS_MINUS + table.metric.format(entry.std)
    if entry.n_seeds < row.n_seeds:
        text += f"({entry.n_seeds})"
    if entry.n_collapsed:
        text += DAGGER + (str(entry.n_collapsed) if entry.n_collapsed < entry.n_seeds else "")
    return text


def _best(table: Table, column: Column) -> str | None:
    """The best number of a column as printed, so that ties share it; None with fewer than two numbers."""
    means = [row.entries[column.key].mean for row in table.rows if column.key in row.entries]
    defined = [mean for mean in means if not math.isnan(mean)]
    if len(defined) < 2:
        return None
    return table.metric.format(max(defined) if table.metric.direction == "max" else min(defined))


def _numbers(entry: Entry) -> list[str | int]:
    mean, std, low, high = (
        "" if math.isnan(value) else repr(value)
        for value in (entry.mean, entry.std, *(entry.interval or (math.nan, math.nan)))
    )
    return [mean, std, entry.n_seeds, entry.n_mask_seeds, entry.n_collapsed, low, high]


# Layout.


def _blocks(columns: Sequence[Column]) -> list[list[Column]]:
    return [[c for c in columns if c.block == block] for block in dict.fromkeys(c.block for c in columns)]


def _chunks(table: Table, width: int) -> list[Sequence[Column]]:
    if _width(table, table.columns) <= width:
        return [table.columns]
    chunks: list[Sequence[Column]] = []
    for block in _blocks(table.columns):
        parts = 1
        while parts < len(block) and any(_width(table, part) > width for part in _split(block, parts)):
            parts += 1
        chunks.extend(_split(block, parts))
    return chunks


def _split(block: Sequence[Column], parts: int) -> list[Sequence[Column]]:
    size = -(-len(block) // parts)
    return [block[start : start + size] for start in range(0, len(block), size)]


def _width(table: Table, columns: Sequence[Column]) -> int:
    return len(_text_lines(table, columns, brief=columns[0] != table.columns[0])[0])


def _text_lines(table: Table, columns: Sequence[Column], *, brief: bool) -> list[str]:
    grid = _cells(table, columns, bold="{}", brief=brief)
    return _aligned(grid, left=len(grid[0]) - len(columns))


def _aligned(grid: Grid, left: int) -> list[str]:
    """Lines of a grid; the first ``left`` columns flush left."""
    widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]

    def line(row: list[str]) -> str:
        words = [f"{w:<{n}}" if i < left else f"{w:>{n}}" for i, (w, n) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(words).rstrip()

    return [line(grid[0]), "-" * (sum(widths) + 2 * (len(widths) - 1)), *map(line, grid[1:])]


def _pipes(words: Sequence[str]) -> str:
    return f"| {' | '.join(word.replace('|', chr(92) + '|') for word in words)} |"


def _ampersands(words: Sequence[str]) -> str:
    return " & ".join(words) + r" \\"


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        ">": r"$>$",
        "<": r"$<$",
        DAGGER: r"\textsuperscript{\dag}",
        PLUS_MINUS: r"$\pm$",
        **{character: rf"\{character}" for character in "&%$#_{}"},
    }
)


def _escape(text: str) -> str:
    return "--" if text == "-" else text.translate(_LATEX)


def _wrapped(paragraphs: Sequence[str], width: int) -> list[str]:
    return [line for paragraph in paragraphs if paragraph for line in textwrap.wrap(paragraph, max(width, 20))]


def _sentence(text: str) -> str:
    return f"{text}."


def _example(table: Table, block: str) -> str:
    headers = [
        column.header for column in table.columns if column.block == block and column.key not in AVERAGE_MEANINGS
    ]
    return headers[0] if len(headers) == 1 else f"{headers[0]} to {headers[-1]}"
