"""Fills the templates. Free of torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msabench.optional import require

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

PAGES = (
    ("index", "index.html", "Overview"),
    ("results", "results.html", "Results"),
    ("regimes", "regimes.html", "Training regimes"),
    ("tuning", "tuning.html", "Tuning"),
    ("methods", "methods.html", "Methods"),
    ("published", "published.html", "Published numbers"),
    ("audit", "audit.html", "Audit"),
    ("submit", "submit.html", "Submit"),
)
"""Section, file and name of the pages that every page links to."""

_CODE = re.compile(r"``(.+?)``")
_ADDRESS = re.compile(r"https?://[^\s<>]*[^\s<>.,;:)]")


def inline(text: str) -> Markup:
    """Text of a docstring as HTML: escaped, with double backticks as code and web addresses as links."""
    from markupsafe import Markup, escape

    marked = _CODE.sub(r"<code>\1</code>", str(escape(text)))
    return Markup(_ADDRESS.sub(lambda match: f'<a href="{match[0]}">{match[0]}</a>', marked))


class Writer:
    """Writes pages below one folder.

    Args:
        folder: The site.
        built: Sentence at the end of every page.
    """

    def __init__(self, folder: Path, built: str) -> None:
        self.folder = folder
        self._environment = _environment(built)

    def write(self, path: str, template: str, section: str, **values: Any) -> None:
        """Write one page.

        Args:
            path: Its path below the site.
            template: Name of the template.
            section: The section of ``PAGES`` that it belongs to; empty for none.
            **values: What the template asks for.
        """
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        root = "../" * path.count("/")
        text = self._environment.get_template(template).render(root=root, section=section, **values)
        target.write_text(text, encoding="utf-8")


def _environment(built: str) -> Environment:
    jinja2 = require("jinja2")
    environment: Environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        # Names come out of records that others wrote.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = inline
    environment.globals.update(pages=PAGES, built=built)
    return environment
