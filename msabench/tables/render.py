"""Prints tables as text, markdown, LaTeX or HTML, and plain grids. Free of torch and pandas."""

from __future__ import annotations

import csv
import html
import io
import textwrap
from collections.abc import Iterable, Sequence

from msabench.tables.sheet import BEST, SECOND, Item, Sheet

DAGGER = "†"
DOUBLE_DAGGER = "‡"
SECTION = "§"
PILCROW = "¶"
PLUS_MINUS = "±"

COLLAPSES = {
    "sentiment": "all predictions of a test situation fall into one class, with or without the clips labelled 0",
    "sims": "all predictions of a test situation fall into one class",
    "emotions": "all predictions of a test situation fall into one class for at least one emotion",
}
"""Metric set -> what ``metrics.functional.is_collapsed`` means in it."""

LATEX_COLUMNS = 12
"""Columns of numbers that fit a page beside each other."""

Grid = list[list[str]]


# Text.


def render_text(sheet: Sheet, width: int) -> str:
    """For a terminal: blocks side by side if they fit, else below each other, cut where even one is too wide.

    Args:
        sheet: The table.
        width: Characters in a line.
    """
    lines = [sheet.heading, "=" * len(sheet.heading)]
    lines += _wrapped([*sheet.intro, sheet.caveat], width)
    for number, columns in enumerate(_chunks(sheet, width)):
        lines += ["", *_text_lines(sheet, columns, brief=number > 0)]
    return "\n".join([*lines, "", *_wrapped(sheet.notes, width)])


def _chunks(sheet: Sheet, width: int) -> list[Sequence[int]]:
    every = range(len(sheet.columns))
    if _width(sheet, every) <= width:
        return [every]
    chunks: list[Sequence[int]] = []
    for block in sheet.blocks:
        parts = 1
        while parts < len(block) and any(_width(sheet, part) > width for part in _split(block, parts)):
            parts += 1
        chunks.extend(_split(block, parts))
    return chunks


def _split(block: Sequence[int], parts: int) -> list[Sequence[int]]:
    size = -(-len(block) // parts)
    return [block[start : start + size] for start in range(0, len(block), size)]


def _width(sheet: Sheet, columns: Sequence[int]) -> int:
    return max(map(len, _text_lines(sheet, columns, brief=columns[0] != 0)))


def _text_lines(sheet: Sheet, columns: Sequence[int], *, brief: bool) -> list[str]:
    labels = sheet.brief if brief else range(len(sheet.labels))
    grid = [[*(sheet.labels[i] for i in labels), *(sheet.columns[i].flat for i in columns)]]
    for line in sheet.lines:
        grid.append([*(line.labels[i] for i in labels), *(line.items[i].text for i in columns)])
    return _aligned(grid, left=len(labels))


def _aligned(grid: Grid, left: int) -> list[str]:
    """Lines of a grid; the first ``left`` columns flush left."""
    widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]

    def line(row: list[str]) -> str:
        words = [f"{w:<{n}}" if i < left else f"{w:>{n}}" for i, (w, n) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(words).rstrip()

    return [line(grid[0]), "-" * (sum(widths) + 2 * (len(widths) - 1)), *map(line, grid[1:])]


def _wrapped(paragraphs: Sequence[str], width: int) -> list[str]:
    return [line for paragraph in paragraphs if paragraph for line in textwrap.wrap(paragraph, max(width, 20))]


# Markdown.


def render_markdown(sheet: Sheet) -> str:
    """GitHub markdown; the best number of each column is bold, the second best in italics."""
    lines = [f"### {_plain(sheet.heading)}", "", " ".join(map(_plain, sheet.intro)), ""]
    if sheet.caveat:
        lines += [f"**{_plain(sheet.caveat)}**", ""]
    lines.append(_pipes(map(_plain, [*sheet.labels, *(head.flat for head in sheet.columns)])))
    lines.append(_pipes(["---"] * len(sheet.labels) + ["---:"] * len(sheet.columns)))
    for line in sheet.lines:
        lines.append(_pipes([*map(_plain, line.labels), *map(_markdown_item, line.items)]))
    emphasis = _emphasis(sheet, {BEST: "bold = best of a column", SECOND: "italics = second best"})
    return "\n".join([*lines, "", *(f"- {_plain(note)}" for note in (*sheet.notes, *emphasis))])


def _markdown_item(item: Item) -> str:
    return {BEST: "**{}**", SECOND: "*{}*"}.get(item.rank, "{}").format(_plain(item.text))


def _plain(text: str) -> str:
    """Text that markdown prints as it is."""
    for character in "\\*|<":
        text = text.replace(character, f"\\{character}")
    return text


def _pipes(words: Iterable[str]) -> str:
    return f"| {' | '.join(words)} |"


# LaTeX.


def render_latex(sheet: Sheet) -> str:
    """A ``table*`` with a tabular per block, or several if it is wide; best bold, second best underlined.

    Needs the package booktabs.

    Args:
        sheet: The table.
    """
    lines = [r"\begin{table*}[t]", r"\centering\scriptsize\setlength{\tabcolsep}{3pt}"]
    emphasis = _emphasis(sheet, {BEST: "bold = best of a column", SECOND: "underlined = second best"})
    words = [f"{sheet.heading}.", *sheet.intro, sheet.caveat, *sheet.notes, *emphasis]
    lines.append(rf"\caption{{{_latex(' '.join(word for word in words if word))}}}")
    parts = [part for block in sheet.blocks for part in _split(block, -(-len(block) // LATEX_COLUMNS))]
    for number, columns in enumerate(parts):
        lines += [r"\par\smallskip"] * (number > 0)
        lines.append(rf"\begin{{tabular}}{{{'l' * len(sheet.labels)}{'r' * len(columns)}}}")
        lines += [r"\toprule", *_latex_head(sheet, columns), r"\midrule"]
        for place, line in enumerate(sheet.lines):
            lines += [r"\addlinespace"] * (line.apart and place > 0)
            lines.append(_ampersands([*map(_latex, line.labels), *(_latex_item(line.items[i]) for i in columns)]))
        lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, r"\end{table*}"])


def _latex_head(sheet: Sheet, columns: Sequence[int]) -> list[str]:
    labels, lines = [_latex(label) for label in sheet.labels], []
    groups = list(sheet.groups(columns))
    if any(group for group, _ in groups):
        spans, rules, first = [], [], len(labels) + 1
        for group, n in groups:
            spans.append(rf"\multicolumn{{{n}}}{{c}}{{{_latex(group)}}}")
            rules.append(rf"\cmidrule(lr){{{first}-{first + n - 1}}}")
            first += n
        lines = [_ampersands([*[""] * len(labels), *spans]), "".join(rules)]
    return [*lines, _ampersands([*labels, *(_latex(sheet.columns[i].text) for i in columns)])]


def _latex_item(item: Item) -> str:
    text = _latex(item.text)
    if text.startswith("-") and text[1:2].isdigit():
        text = f"$-${text[1:]}"
    return {BEST: "\\textbf{{{}}}", SECOND: "\\underline{{{}}}"}.get(item.rank, "{}").format(text)


def _ampersands(words: Sequence[str]) -> str:
    return " & ".join(words) + r" \\"


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        ">": r"$>$",
        "<": r"$<$",
        "|": r"$|$",
        '"': r"''",
        DAGGER: r"\textsuperscript{\dag}",
        DOUBLE_DAGGER: r"\textsuperscript{\ddag}",
        SECTION: r"\textsuperscript{\S}",
        PILCROW: r"\textsuperscript{\P}",
        PLUS_MINUS: r"$\pm$",
        **{character: rf"\{character}" for character in "&%$#_{}"},
    }
)


def _latex(text: str) -> str:
    # A dash of its own is a gap; two hyphens of an option stay two.
    return "--" if text == "-" else text.translate(_LATEX).replace("--", "-{}-")


# HTML.


def render_html(sheet: Sheet) -> str:
    """A fragment: a table with a caption and header cells, then its notes; best bold, second best underlined."""
    about = " ".join(word for word in sheet.intro if word)
    lines = ['<div class="msabench-table">', "<table>"]
    caption = f"<strong>{html.escape(sheet.heading)}</strong> {html.escape(about)}"
    if sheet.caveat:
        caption += f" <strong>{html.escape(sheet.caveat)}</strong>"
    lines += [f"<caption>{caption}</caption>", "<thead>", *_html_head(sheet), "</thead>", "<tbody>"]
    for line in sheet.lines:
        name, *rest = map(html.escape, line.labels)
        cells = [
            f'<th scope="row">{name}</th>',
            *(f"<td>{word}</td>" for word in (*rest, *map(_html_item, line.items))),
        ]
        opening = '<tr class="apart">' if line.apart else "<tr>"
        lines.append(f"{opening}{''.join(cells)}</tr>")
    lines += ["</tbody>", "</table>"]
    emphasis = _emphasis(sheet, {BEST: "bold = best of a column", SECOND: "underlined = second best"})
    notes = [f"<li>{html.escape(note)}</li>" for note in (*sheet.notes, *emphasis)]
    return "\n".join([*lines, "<ul>", *notes, "</ul>", "</div>"])


def _html_head(sheet: Sheet) -> list[str]:
    groups = list(sheet.groups(range(len(sheet.columns))))
    grouped = any(group for group, _ in groups)
    span = ' rowspan="2"' if grouped else ""
    labels = "".join(f'<th scope="col"{span}>{html.escape(label)}</th>' for label in sheet.labels)
    heads = "".join(f'<th scope="col">{html.escape(head.text)}</th>' for head in sheet.columns)
    if not grouped:
        return [f"<tr>{labels}{heads}</tr>"]
    above = "".join(f'<th scope="colgroup" colspan="{n}">{html.escape(group)}</th>' for group, n in groups)
    return [f"<tr>{labels}{above}</tr>", f"<tr>{heads}</tr>"]


def _html_item(item: Item) -> str:
    return {BEST: "<strong>{}</strong>", SECOND: "<u>{}</u>"}.get(item.rank, "{}").format(html.escape(item.text))


def _emphasis(sheet: Sheet, meanings: dict[int, str]) -> list[str]:
    used = [meaning for rank, meaning in meanings.items() if rank in sheet.ranks]
    return [f"{'; '.join(used)}."] if used else []


# Plain grids.


def grid_text(grid: Grid) -> str:
    """A plain grid for a terminal, header first."""
    return "\n".join(_aligned(grid, left=len(grid[0])))


def grid_csv(grid: Grid) -> str:
    """A plain grid as CSV, header first."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(map(csv_field, row) for row in grid)
    return out.getvalue().rstrip("\n")


def csv_field(value: object) -> str:
    """A field of a CSV: text that a spreadsheet would take for a formula gets an apostrophe in front."""
    text = str(value)
    # A dash alone is a gap; signed numbers are numbers.
    if not text.startswith(("=", "+", "-", "@", "\t", "\r")) or text == "-":
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def grid_markdown(grid: Grid) -> str:
    """A plain grid in markdown, header first."""
    rows = [[word.replace("|", "\\|") for word in row] for row in grid]
    return "\n".join([_pipes(rows[0]), _pipes(["---"] * len(rows[0])), *map(_pipes, rows[1:])])


def grid_html(grid: Grid, caption: str) -> str:
    """A plain grid as an HTML fragment, header first."""
    header, *rows = ([html.escape(word) for word in row] for row in grid)
    heads = "".join(f'<th scope="col">{word}</th>' for word in header)
    lines = ["<table>", f"<caption>{html.escape(caption)}</caption>", f"<thead><tr>{heads}</tr></thead>", "<tbody>"]
    lines += [f"<tr>{''.join(f'<td>{word}</td>' for word in row)}</tr>" for row in rows]
    return "\n".join([*lines, "</tbody>", "</table>"])
