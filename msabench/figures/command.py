"""``msabench figures``. Free of torch, but for the importance of modalities, which is read from checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msabench.errors import MSABenchError, one_of
from msabench.missingness.named import naming
from msabench.results.derived import DERIVED
from msabench.results.places import store_to_read

if TYPE_CHECKING:
    from msabench.figures.sheet import Picture
    from msabench.results.tuned import Tuning

OPTIONS = {
    "robustness": ("datasets", "methods", "variants", "metric", "band", "scored", "revision", "tuning"),
    "conditions": ("datasets", "methods", "variants", "metric", "band", "scored", "revision", "tuning"),
    "confusion": ("datasets", "methods", "variants", "cells", "scored", "revision", "tuning"),
    "tsne": ("datasets", "methods", "variants", "cells", "scored", "revision", "tuning"),
    "importance": ("checkpoints",),
    "cost": ("datasets", "methods", "variants", "metric", "band", "cost", "revision", "tuning"),
    "ranks": ("datasets", "methods", "variants", "metric", "cells", "scored", "revision", "tuning"),
}
"""Kind of figure -> options that mean something to it, besides store and out."""


@naming(quantities=DERIVED)
def figures(
    kind: Literal["robustness", "conditions", "confusion", "tsne", "importance", "cost", "ranks"],
    datasets: list[str] | None = None,
    methods: list[str] | None = None,
    variants: list[str] | None = None,
    metric: str | None = None,
    cells: list[str] | None = None,
    band: Literal["intervals", "std", "none"] | None = None,
    cost: Literal["parameters", "seconds"] | None = None,
    checkpoints: list[str] | None = None,
    store: Path | None = None,
    committed: bool = False,
    out: Path = Path("figures"),
    scored: bool = False,
    revision: list[str] | None = None,
    tuning: Literal["default", "tuned", "all"] | None = None,
) -> str:
    """Draw figures of stored results as PDF and PNG, one for each corpus and protocol.

    Args:
        kind: robustness (curves over the share of dropped frames), conditions (bars over available modalities),
            confusion (matrices of rounded scores), tsne (of joint representations), importance (of modalities over
            epochs, PRLF), cost (against the mean over rates), ranks (critical-difference diagram over all corpora).
        datasets: Corpora; all in the store if not given.
        methods: Methods; all if not given.
        variants: Variants; only default if not given.
        metric: Metric key; each corpus's usual one if not given.
        cells: Cells and grids ({grids}).
            For confusion and tsne intra/0.5 if not given; for ranks paper if not given, and averages and derived
            quantities ({quantities}) stand for the cells that they are made of.
        band: Spread of robustness, conditions and cost; intervals (default, needs predictions), std (over training
            seeds, needs records only) or none.
        cost: parameters (default) or seconds.
        checkpoints: Checkpoints for importance, e.g. runs/synth/prlf/JOB/best.ckpt.
        store: Folder of the result store; runs/store, or what MSABENCH_STORE names, if not given.
        committed: Read the records in git, leaderboard/results, instead.
        out: Folder for the figures.
        scored: Draw predictions from elsewhere as well, which were only scored here; without, only those that methods
            names.
        revision: Revisions of the data, as tables print them; all if not given. Ranks need one of each corpus.
        tuning: Rows of default settings, of tuned ones, or all; default ones if not given, tuned ones where there are
            only these.

    Returns:
        The files written.

    Raises:
        MSABenchError: A name is unknown, the store lacks what the figure needs, an option does not belong to the kind,
            or a library of the extra report is not installed.
    """
    given = {
        "datasets": datasets,
        "methods": methods,
        "variants": variants,
        "metric": metric,
        "cells": cells,
        "band": band,
        "cost": cost,
        "checkpoints": checkpoints,
        "scored": scored or None,
        "revision": revision,
        "tuning": tuning,
    }
    if kind not in OPTIONS:
        raise one_of("kind of figure", kind, OPTIONS)
    for name, value in given.items():
        if value is not None and name not in OPTIONS[kind]:
            raise MSABenchError(f"{name} means nothing to figures of kind {kind}; it takes {', '.join(OPTIONS[kind])}")

    from msabench.figures.sheet import drawing, save

    place = store_to_read(store, committed)
    with drawing():
        if kind == "importance":
            from msabench.figures.importance import importance

            draws: list[Callable[[], Picture]] = [lambda: importance([Path(path) for path in checkpoints or ()])]
        else:
            draws = _of_store(
                kind,
                datasets,
                methods,
                variants,
                metric,
                cells,
                band or "intervals",
                cost or "parameters",
                place,
                scored,
                revision,
                tuning,
            )
        paths: list[Path] = []
        problems: list[MSABenchError] = []
        for draw in draws:
            try:
                picture = draw()
            except MSABenchError as error:
                problems.append(error)
                continue
            paths += save(picture, out)
    if not paths:
        raise problems[0]
    return "\n".join([*map(str, paths), *(f"not drawn: {problem}" for problem in problems)])


def _of_store(
    kind: str,
    datasets: Sequence[str] | None,
    methods: Sequence[str] | None,
    variants: Sequence[str] | None,
    metric: str | None,
    cells: Sequence[str] | None,
    band: str,
    measure: str,
    store: Path,
    scored: bool,
    revision: Sequence[str] | None,
    tuning: Tuning | None,
) -> list[Callable[[], Picture]]:
    """How to draw each figure: one for each table, but one for all tables of ranks."""
    from msabench.figures import confusion, cost, curves, embedding, rank_diagram
    from msabench.results.chosen_rows import cells_of, choose_rows
    from msabench.results.comparison import rank_rows
    from msabench.results.store import ResultStore

    banded = "band" in OPTIONS[kind]
    chosen_tables = choose_rows(
        store,
        datasets,
        methods,
        metric,
        variants,
        constant=banded,
        intervals=banded and band == "intervals",
        scored=scored,
        revision=revision,
        tuning=tuning,
    )
    if kind == "ranks":
        ranked = rank_rows(chosen_tables, cells_of(cells or ["paper"], quantities=True))
        return [partial(rank_diagram.rank_diagram, ranked)]
    if kind in ("robustness", "conditions"):
        draw = {"robustness": curves.robustness, "conditions": curves.conditions}[kind]
        return [partial(draw, chosen, chosen_tables, band) for chosen in chosen_tables]
    if kind == "cost":
        jobs = {job.key.job_id: job for job in ResultStore(store).jobs() if job.status == "ok"}
        return [partial(cost.cost, chosen, chosen_tables, jobs, measure, band) for chosen in chosen_tables]
    panels = {"confusion": confusion.confusion, "tsne": embedding.tsne}[kind]
    wanted = cells_of(cells or ["intra/0.5"], averages=False)
    return [partial(panels, chosen, chosen_tables, wanted, store) for chosen in chosen_tables]
