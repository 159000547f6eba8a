"""``msabench methods``. Free of torch."""

from __future__ import annotations

from typing import Literal

from msabench.methods.registry import methods as registered
from msabench.tables.render import grid_csv


def methods(format: Literal["text", "csv"] = "text") -> str:
    """List the methods: name, venue, how faithful it is, tasks, variants, title.

    Args:
        format: ``text`` for people, ``csv`` for programs.
    """
    header = ("method", "venue", "fidelity", "tasks", "trains with", "variants", "title")
    rows = [
        (
            info.name,
            f"{info.venue} {info.year}" if info.year else "-",
            info.fidelity,
            " ".join(info.tasks),
            " ".join(info.trains_with) or "-",
            " ".join(info.variants) or "-",
            info.title,
        )
        for info in registered().values()
    ]
    if format == "csv":
        return grid_csv([list(header), *map(list, rows)])
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "\n".join(
        "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in [header, *rows]
    )
