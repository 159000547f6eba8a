"""Our own result tables, ready to print. Free of torch and pandas."""

from __future__ import annotations

from msabench.results.aggregate import DRAWS, LEVEL
from msabench.results.derived import BLOCK, derived, meanings_of, spec_of
from msabench.results.table import AVERAGE_MEANINGS, BLOCKS, Table
from msabench.tables.marks import label, marked, meanings
from msabench.tables.render import PLUS_MINUS
from msabench.tables.sheet import Head, Item, Line, Sheet, ranked


def result_sheet(table: Table) -> Sheet:
    """The printed form of a result table."""
    seeds = any(row.seed is not None for row in table.rows)
    labels = ["method", "regime", "fidelity", *(["seed"] if seeds else []), "runs"]
    several = len({row.regime for row in table.rows}) > 1
    told_apart = {"method", "seed", *(["regime"] if several else [])}
    ranks = [[0] * len(table.rows)] * len(table.columns) if seeds else list(map(list, _ranks(table)))
    lines = []
    for place, row in enumerate(table.rows):
        words = {"method": label(row), "regime": row.regime, "fidelity": row.fidelity, "runs": row.runs(table.columns)}
        items = [
            Item(
                marked(spec_of(column.key, table.metric), row.entries.get(column.key), row.n_seeds), ranks[index][place]
            )
            for index, column in enumerate(table.columns)
        ]
        lines.append(Line(tuple((words | {"seed": str(row.seed)})[name] for name in labels), tuple(items)))
    return Sheet(
        heading=table.heading,
        intro=(f"{table.protocol_text}.",),
        caveat=table.caveat,
        labels=tuple(labels),
        brief=tuple(index for index, name in enumerate(labels) if name in told_apart),
        columns=tuple(Head(column.header, block=column.block) for column in table.columns),
        lines=tuple(lines),
        notes=tuple(legend(table)),
    )


def _ranks(table: Table) -> list[list[int]]:
    ranks = []
    for column in table.columns:
        quantity = derived(column.key)
        if quantity is not None and quantity.kind != "area":
            # What answers with a constant keeps all of its little and has no spread: of these nothing is best.
            ranks.append([0] * len(table.rows))
            continue
        # Nobody here saw how scored predictions came about: they are best of nothing, and nothing is second to them.
        entries = [None if row.origin else row.entries.get(column.key) for row in table.rows]
        printed = [None if entry is None else table.metric.format(entry.mean) for entry in entries]
        ranks.append(ranked(printed, table.metric.direction))
    return ranks


def legend(table: Table) -> list[str]:
    """Sentences below a table: what the metric, the columns and the marks mean, then the table's notes."""
    shown = [
        (row, row.entries.get(column.key))
        for row in table.rows
        for column in table.columns
        # What a dash means there is said apart.
        if column.block != BLOCK or column.key in row.entries
    ]
    definition = table.metric.definitions[table.metric_set]
    lines = [f"{table.metric.title} [{table.metric.key}]: {definition}."]
    blocks = dict.fromkeys(column.block for column in table.columns if column.block in BLOCKS)
    columns = [f"{_example(table, block)} = {BLOCKS[block]}" for block in blocks]
    columns += [AVERAGE_MEANINGS[c.key] for c in table.columns if c.key in AVERAGE_MEANINGS]
    lines.append(f"Columns: {'; '.join(columns)}.")
    quantities = [column.key for column in table.columns if column.block == BLOCK]
    if quantities:
        lines.append(f"Derived for each seed: {'; '.join(meanings_of(quantities))}.")
        lines.append(
            "Of derived columns, - = a cell that it is made of has no records, or it is a share and the value of "
            "complete clips is not above 0, or less of the metric is better. Shares and spreads flatter what answers "
            "with a constant, so that none is best."
        )
    if any(row.seed is not None for row in table.rows):
        spread = "One training seed a row, mean over test masks"
    else:
        spread = f"Mean{PLUS_MINUS}standard deviation over training seeds of the mean over test masks"
    if any(entry is not None and entry.interval for _, entry in shown):
        spread = (
            f"Mean [{LEVEL} % interval: bootstrap of test clips and training seeds, {DRAWS} resamples] of the mean "
            "over test masks; with few seeds it is rough"
        )
    differ = " (fewest-most of any column)" if any("-" in row.runs(table.columns) for row in table.rows) else ""
    lines.append(f"{spread}; runs = training seeds x test masks{differ}.")
    return [*lines, *meanings(table.rows, shown, table.metric_set), *table.notes]


def _example(table: Table, block: str) -> str:
    headers = [
        column.header for column in table.columns if column.block == block and column.key not in AVERAGE_MEANINGS
    ]
    return headers[0] if len(headers) == 1 else f"{headers[0]} to {headers[-1]}"
