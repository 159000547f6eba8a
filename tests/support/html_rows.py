"""Reads the tables of an HTML fragment, for tests."""

from html.parser import HTMLParser


class Cells(HTMLParser):
    """Rows of an HTML fragment, and whether its elements are balanced."""

    def __init__(self):
        super().__init__()
        self.rows, self.open, self.heads, self.captions = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "th":
            self.heads.append(dict(attributes)["scope"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        elif "caption" in self.open:
            self.captions.append(data)


def parsed(text):
    cells = Cells()
    cells.feed(text)
    cells.close()
    assert cells.open == []
    return cells
