"""Critical-difference diagram of average ranks (J. Demsar, JMLR 7, 2006), drawn by scikit-posthocs."""

from __future__ import annotations

from msabench.errors import MSABenchError
from msabench.figures.sheet import CAPTION_SIZE, PAGE, Picture, sheet, stem_of
from msabench.figures.words import EXPERIMENTAL, mark_of, seed_words
from msabench.optional import require
from msabench.results.comparison import Ranked
from msabench.results.ranks import ALPHA
from msabench.results.record import SCORED
from msabench.tables.marks import FIDELITIES

MOST_RANKED = 30
"""Most rows of a diagram of ranks, whose names stand below each other on both sides."""


def rank_diagram(ranked: Ranked) -> Picture:
    """Average ranks on a line; bars join methods that Nemenyi's test does not tell apart.

    Args:
        ranked: The ranking.

    Raises:
        MSABenchError: There are more than ``MOST_RANKED`` rows.
    """
    import pandas as pd

    result = ranked.ranking
    if len(result.names) > MOST_RANKED:
        raise MSABenchError(
            f"{len(result.names)} rows cannot be told apart in one diagram of ranks ({', '.join(result.names)}); name "
            f"at most {MOST_RANKED} with --methods and --variants"
        )
    names = [name + mark_of(fidelity) for name, fidelity in zip(result.names, ranked.fidelity, strict=True)]
    p_values = result.nemenyi().set_axis(names, axis=0).set_axis(names, axis=1)
    tables = [chosen.table for chosen in ranked.chosen_tables]
    metrics = list(dict.fromkeys(table.metric.key for table in tables))
    corpora = ", ".join(chosen.title for chosen in ranked.chosen_tables)
    said = [
        f"Average ranks by {', '.join(metrics)} over {len(result.blocks)} test situations of "
        f"{corpora}; 1 is best. Bars join methods whose ranks differ by less than "
        f"the critical difference (CD) of {result.critical_difference:.2f} (Nemenyi, {100 * ALPHA:.0f} %; Friedman p = "
        f"{result.friedman_p:.2g}). Test situations of one corpus share models and clips, so the CD is too short.",
        seed_words([row for table in tables for row in table.rows]),
        "Undefined values and, for Acc-2 and F1, collapsed predictions rank last." if result.last.any() else "",
        f"{EXPERIMENTAL} {FIDELITIES['experimental']}." if "experimental" in ranked.fidelity else "",
        f"{FIDELITIES[SCORED]}." if SCORED in ranked.fidelity else "",
        *(f"Not ranked: {sentence}." for sentence in ranked.left_out),
        *dict.fromkeys(table.caveat for table in tables),
        *dict.fromkeys(line for table in tables for line in table.warnings),
    ]
    figure, above = sheet(PAGE, 1.2 + 0.17 * len(names), said)
    axes = above.subplots()
    axes.grid(visible=False)
    require("scikit_posthocs").critical_difference_diagram(
        pd.Series(result.average, index=names),
        p_values,
        alpha=ALPHA,
        ax=axes,
        label_fmt_left="{label} ({rank:.2f})  ",
        label_fmt_right="  ({rank:.2f}) {label}",
        label_props={"fontsize": CAPTION_SIZE + 1},
        marker_props={"s": 14},
        elbow_props={"color": "#555555", "linewidth": 0.8},
        crossbar_props={"color": "#0072B2", "linewidth": 2.5},
    )
    # Drawn here, since the library's own bar for it lies on the numbers of the axis.
    start, end = result.average[0], result.average[0] + result.critical_difference
    axes.errorbar([(start + end) / 2], [2.2], xerr=(end - start) / 2, color="black", capsize=3, linewidth=1)
    axes.annotate("CD", ((start + end) / 2, 2.3), ha="center", va="bottom", fontsize=CAPTION_SIZE)
    data = [word for chosen in ranked.chosen_tables for word in (chosen.table.dataset, chosen.revision)]
    return Picture(stem_of("ranks", *data, *metrics), figure)
