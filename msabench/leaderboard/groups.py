"""The records as the pages' scripts read them: one group per corpus and protocol. Free of torch.

A group is what may stand in one table. Numbers are rounded as tables print them, so that a page shows the digits that
``msabench table`` does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msabench.metrics.spec import METRICS, MetricSpec, metric_keys
from msabench.missingness.conditions import GRIDS, Cell, distinct
from msabench.results.aggregate import LEVEL, PROTOCOL, ROW, jobs_by_row, over_seeds_of
from msabench.results.build import build_tables, entry_of, parts_of
from msabench.results.derived import SUMMARY, columns_for, derived, meanings_of, spec_of
from msabench.results.record import JobRecord, canonical_hash
from msabench.results.records import Records
from msabench.results.rows import RowKey, jobs_hash, key_of
from msabench.results.stored_intervals import Intervals
from msabench.results.table import AVERAGE_MEANINGS, BLOCKS, CONSTANT, Column, Entry, Row, Table, columns_of
from msabench.tables.marks import label, meanings

QUANTITIES = tuple(quantity.key for quantity in SUMMARY)
"""Quantities made of several cells that pages show."""


@dataclass(frozen=True)
class Group:
    """What may stand in one table: a corpus under one protocol, with one metric set.

    Attributes:
        id: Name for addresses, made of corpus and protocol, and of the metric set where the two are not enough.
        table: Its rows and columns, with the numbers of the metric that is shown first.
        jobs: Row -> training seed -> id of its finished job.
        entries: Row -> metric key -> cell or average -> number.
    """

    id: str
    table: Table
    jobs: dict[RowKey, dict[int, str]]
    entries: dict[RowKey, dict[str, dict[str, Entry]]]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Keys of the metrics it has."""
        return metric_keys(self.table.metric_set)


def build_groups(records: Records, failures: Sequence[JobRecord], datasets: Sequence[str]) -> list[Group]:
    """Groups of some corpora, in their order.

    Args:
        records: Records as ``ResultStore.records`` gives them.
        failures: Failed jobs, as ``ResultStore.failures`` gives them.
        datasets: Corpora.
    """
    groups = []
    for dataset in datasets:
        here = records.of(dataset=dataset)
        parts = parts_of(here, dataset)
        entries = {metric_set: _entries(part, metric_set) for metric_set, part in parts.items()}
        jobs = {metric_set: jobs_by_row(part) for metric_set, part in parts.items()}
        tables = build_tables(here, failures, dataset, None, _columns(here))
        for table in tables:
            table.columns = _with_records(table)
            name = f"{dataset}-{canonical_hash(list(table.protocol.values()), 6)}"
            if sum(other.protocol == table.protocol for other in tables) > 1:
                name += f"-{table.metric_set}"
            groups.append(Group(name, table, jobs.get(table.metric_set, {}), entries.get(table.metric_set, {})))
    return groups


def _entries(part: Records, metric_set: str) -> dict[RowKey, dict[str, dict[str, Entry]]]:
    entries: dict[RowKey, dict[str, dict[str, Entry]]] = {}
    for line in over_seeds_of(part, metric_keys(metric_set), quantities=QUANTITIES):
        row = entries.setdefault(tuple(line[name] for name in (*PROTOCOL, *ROW)), {})
        row.setdefault(line["metric"], {})[line["cell"]] = entry_of(line)
    return entries


def _columns(records: Records) -> tuple[Column, ...]:
    """The columns of the papers, one for every other test situation that has records, and derived quantities."""
    usual = set(distinct(GRIDS["paper"]))
    more = distinct(Cell.parse(records.cells[place]) for place in set(records.cell.tolist()))
    return (*columns_of(["paper", *(str(cell) for cell in more if cell not in usual)]), *columns_for(QUANTITIES))


def _with_records(table: Table) -> tuple[Column, ...]:
    """A table's columns without situations that only other protocols of its corpus have records of."""
    usual = set(columns_of(["paper"]))
    return tuple(
        column for column in table.columns if column in usual or any(column.key in row.entries for row in table.rows)
    )


def page_of(method: str) -> str:
    """File name of a method's page; distinct for distinct names, whatever characters they hold."""
    safe = re.sub(r"[^a-z0-9_-]", "-", method.lower())
    return f"{safe}.html" if safe == method else f"{safe}-{canonical_hash(method, 8)}.html"


def to_json(groups: Sequence[Group], intervals: dict[str, Intervals]) -> dict[str, Any]:
    """What the pages' scripts read.

    Args:
        groups: The groups.
        intervals: Corpus -> stored intervals.

    Returns:
        ``metrics``: key -> how it is called and printed; ``level``: coverage of intervals in percent; ``averages``:
        what the averages are taken over; ``blocks``: block of columns -> what its headers mean; ``derived``: what
        derived quantities are; ``groups``: the groups with their rows. Plain data without NaN.
    """
    used = dict.fromkeys(metric for group in groups for metric in group.metrics)
    shown = {column.key for group in groups for column in group.table.columns}
    return {
        "metrics": {key: _metric(METRICS[key]) for key in used},
        "level": LEVEL,
        "averages": [meaning for key, meaning in AVERAGE_MEANINGS.items() if key in shown],
        "blocks": BLOCKS,
        "derived": meanings_of([key for key in QUANTITIES if key in shown]),
        "groups": [_group(group, intervals.get(group.table.dataset, {})) for group in groups],
    }


def _metric(spec: MetricSpec) -> dict[str, Any]:
    swapped = spec.key.endswith("_swapped")
    name, _, zeros = spec.key.removesuffix("_swapped").rpartition("_")
    has_protocol = zeros in ("non0", "has0")
    return {
        "title": spec.title,
        "name": name if has_protocol else spec.key.removesuffix("_swapped"),
        "zeros": zeros if has_protocol else "",
        "swapped": swapped,
        "percent": spec.percent,
        "decimals": spec.decimals,
        "direction": spec.direction,
    }


def _group(group: Group, intervals: Intervals) -> dict[str, Any]:
    table = group.table
    shown = [(row, row.entries.get(column.key)) for row in table.rows for column in table.columns]
    return {
        "id": group.id,
        "dataset": table.dataset,
        "title": table.title,
        "caveat": table.caveat,
        "features": table.protocol["features"],
        "protocol": {name: value for name, value in table.protocol.items() if name not in ("dataset", "features")},
        "protocolText": table.protocol_text,
        "default": table.metric.key,
        "definitions": {key: METRICS[key].definitions[table.metric_set] for key in group.metrics},
        "columns": [_column(column) for column in table.columns],
        "notes": [*meanings(table.rows, shown, table.metric_set), *table.notes],
        "rows": [_row(group, row, intervals) for row in table.rows],
    }


def _column(column: Column) -> dict[str, str]:
    quantity = derived(column.key)
    kind = {} if quantity is None else {"kind": quantity.kind}
    return {"key": column.key, "header": column.header, "block": column.block, **kind}


def _row(group: Group, row: Row, intervals: Intervals) -> dict[str, Any]:
    key, cells = key_of(group.table, row), [column.key for column in group.table.columns]
    jobs, numbers = jobs_hash(group.jobs.get(key, {}).values()), group.entries.get(key, {})
    counts = [row.entries.get(cell) for cell in cells]
    return {
        "label": label(row),
        "method": row.method,
        "page": page_of(row.method),
        "variant": row.variant,
        "regime": row.regime,
        "tuning": row.tuning,
        "fidelity": row.fidelity,
        "constant": row.method == CONSTANT and not row.origin,
        "scored": bool(row.origin),
        "seeds": row.n_seeds,
        "failures": row.failures,
        "counts": [entry and [entry.n_seeds, entry.n_mask_seeds, entry.n_collapsed, entry.unseen] for entry in counts],
        "values": {
            metric: [
                _value(METRICS[metric], cell, numbers.get(metric, {}).get(cell), intervals.get((jobs, metric, cell)))
                for cell in cells
            ]
            for metric in group.metrics
        },
    }


def _value(
    metric: MetricSpec, cell: str, entry: Entry | None, interval: tuple[float, float] | None
) -> list[float | None] | None:
    """``[mean, std]`` or ``[mean, std, low, high]`` as printed, None if undefined; None where there are no records."""
    quantity = derived(cell)
    if entry is None or (quantity is not None and not quantity.applies(metric)):
        return None
    return [_printed(spec_of(cell, metric), number) for number in (entry.mean, entry.std, *(interval or ()))]


def _printed(spec: MetricSpec, number: float) -> float | None:
    return None if math.isnan(number) else float(spec.format(number))
