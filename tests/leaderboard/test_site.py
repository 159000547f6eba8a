"""The site in a real browser, opened from disk as a reader does."""

import os
import shutil
from pathlib import Path

import pytest

from msabench.leaderboard.site import build_site
from msabench.results.record import EXTERNAL_ORIGIN
from tests.results.test_scored import scored
from tests.support import site_store
from tests.support.stored_runs import add_runs, noisy

REPOSITORY = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KINDS = (
    "index.html",
    "results.html",
    "tuning.html",
    "methods.html",
    "methods/umdf.html",
    "methods/constant.html",
    "published.html",
    "published/umdf.html",
    "audit.html",
    "submit.html",
    "licences/index.html",
)

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed here").expect
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed here")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    site_store.make(folder / "results")
    build_site(folder / "site", folder / "results", REPOSITORY / "leaderboard/published")
    # A site may be moved, and its sources may go.
    shutil.rmtree(folder / "results")
    return (folder / "site").rename(folder / "moved")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=root)
        yield started
        started.close()


@pytest.fixture
def opened(browser, site):
    """Opens pages, and fails if one of them complained or asked for anything that is not below the site."""
    contexts, complaints = [], []

    def open_page(path, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
        page.on(
            "request",
            lambda r: None if r.url.startswith((site.as_uri(), "blob:", "data:")) else complaints.append(r.url),
        )
        page.goto(f"{site.as_uri()}/{path}")
        return page

    yield open_page
    # Closing breaks off what is still on its way.
    found = list(complaints)
    for context in contexts:
        context.close()
    assert found == []


def ready(page):
    """Wait until the table stands; curves come later, since their library is large."""
    page.wait_for_selector("table.numbers tbody tr")


def names(page):
    return page.eval_on_selector_all("table.numbers tbody th", "cells => cells.map(cell => cell.textContent)")


def column(page, header):
    """Texts of a column of numbers, from the top."""
    place = page.eval_on_selector_all(
        "table.numbers thead tr:nth-child(2) th", "cells => cells.map(c => c.textContent)"
    )
    return page.eval_on_selector_all(
        "table.numbers tbody tr",
        f"rows => rows.map(row => row.querySelectorAll('td[tabindex]')[{place.index(header)}].textContent)",
    )


def box(page, name):
    """A drop-down list, by the name that a screen reader says."""
    return page.get_by_role("combobox", name=name, exact=True)


def choose(page, name, label):
    box(page, name).select_option(label=label)


def shows(page, expected):
    """Wait until the rows are these, in this order."""
    expect(page.locator("table.numbers tbody th")).to_have_text(expected)


def draws(page, expected):
    """Wait until the curves are these, in this order."""
    names_of = "document.querySelector('#curve-intra')?.data?.map(trace => trace.name)"
    page.wait_for_function(f"expected => JSON.stringify({names_of}) === JSON.stringify(expected)", arg=expected)


FIRST_ORDER = ["constant", "lf_dnn‡", "mult", "prlf", "umdf", f"{site_store.HTML} ?"]


def test_what_stands_in_the_table_and_how_it_is_marked(opened):
    page = opened("results.html")
    ready(page)
    assert sorted(names(page)) == sorted(FIRST_ORDER)
    assert names(page)[0] == "constant"
    rows = dict(zip(names(page), zip(column(page, "l"), column(page, "av"), strict=True), strict=True))
    assert rows["constant"] == ("40.00†", "40.00†")
    assert rows["umdf"] == ("80.20", "-")
    assert rows["mult"] == ("70.00", "70.00(2)")
    assert "1 failed" in page.locator("tr", has_text="lf_dnn").inner_text()
    assert "? unknown" in page.locator("tr", has_text="img src").inner_text()
    legend = page.locator("#legend").inner_text()
    for words in (
        "† = collapsed",
        "- = no records",
        "(n) = over n training seeds only",
        "‡ = has failed jobs",
        "unknown =",
    ):
        assert words in legend
    assert "out of <b>memory</b>" in legend
    assert page.locator("#heading").inner_text() == "CMU-MOSI: F1 (non-0), percent"
    assert "f1_score(true, pred)" in page.locator("#protocol").inner_text()
    assert page.locator("tr", has_text="umdf").locator("td.best").first.inner_text() == "80.20"
    assert page.locator("tr", has_text="prlf").locator("td.best").all_inner_texts() == ["75.00", "75.00"]


def test_sorting_by_mouse_and_keyboard_keeps_the_constant_baseline_on_top(opened):
    page = opened("results.html")
    ready(page)
    header = page.locator("table.numbers thead th.number", has_text="l").first
    header.click()
    shows(page, ["constant", "umdf", "prlf", "mult", f"{site_store.HTML} ?", "lf_dnn‡"])
    header.click()
    shows(page, ["constant", "lf_dnn‡", f"{site_store.HTML} ?", "mult", "prlf", "umdf"])
    expect(header).to_have_attribute("aria-sort", "ascending")
    # A cell that was never run is last when the best come first.
    never = page.locator("table.numbers thead th.number", has_text="av").nth(0)
    never.locator("[role=button]").focus()
    page.keyboard.press("Enter")
    expect(never).to_have_attribute("aria-sort", "descending")
    assert page.locator("[aria-sort]").count() == 1
    assert names(page)[-1] == "umdf"
    # Less is better, so that the best still come first; the choice of column stays.
    choose(page, "Metric", "MAE")
    page.wait_for_function("document.getElementById('heading').textContent.includes('MAE')")
    ready(page)
    page.locator("table.numbers thead th.number", has_text="av").nth(0).click()
    page.locator("table.numbers thead th.number", has_text="la").nth(0).click()
    assert column(page, "la")[1:] == sorted(column(page, "la")[1:])


def test_filters(opened):
    page = opened("results.html")
    ready(page)
    page.get_by_label("Search rows").fill("umdf")
    shows(page, ["umdf"])
    page.get_by_label("Search rows").fill("nothing of the kind")
    assert "No row fits the selection." in page.locator("table.numbers").inner_text()
    page.get_by_label("Search rows").fill("")
    choose(page, "Fidelity", "parity")
    shows(page, ["constant", "lf_dnn‡", "mult"])
    assert "left out by the selection" in page.locator("#legend").inner_text()
    choose(page, "Training regime", "complete")
    shows(page, ["constant", "lf_dnn‡"])
    choose(page, "Training regime", "all")
    choose(page, "Fidelity", "all")
    choose(page, "Rows", "with ablations and variants")
    assert "prlf/wo_pi" in names(page)
    choose(page, "Missing", "dropped frames")
    headers = page.eval_on_selector_all("table.numbers thead th.number", "cells => cells.map(c => c.textContent)")
    assert headers == [*(f"0.{tenth}" for tenth in range(10)), "mean"]
    # The selection stands in the address.
    page.reload()
    ready(page)
    assert "prlf/wo_pi" in names(page)
    assert box(page, "Missing").input_value() == "intra"


def test_protocols_never_share_a_table(opened):
    page = opened("results.html")
    ready(page)
    assert column(page, "l")[names(page).index("umdf")] == "80.20"
    choose(page, "Protocol", page.locator("[name=protocol] option").nth(1).inner_text())
    page.wait_for_function("document.getElementById('protocol').textContent.includes('SELECTED ON TEST')")
    ready(page)
    assert (names(page), column(page, "l")) == (["umdf"], ["95.00"])
    choose(page, "Features", "mmsa-unaligned")
    page.wait_for_function("document.getElementById('protocol').textContent.includes('mmsa-unaligned')")
    ready(page)
    assert dict(zip(names(page), column(page, "l"), strict=True)) == {"constant": "50.00", "umdf": "50.00"}
    assert page.locator("#caveat").is_hidden()
    choose(page, "Corpus", "synth (generated)")
    page.wait_for_function("document.getElementById('heading').textContent.includes('synth')")
    assert "never evidence about CMU-MOSI" in page.locator("#caveat").inner_text()


def test_the_switch_between_definitions_of_f1(opened):
    page = opened("results.html")
    ready(page)
    by_name = dict(zip(names(page), column(page, "l"), strict=True))
    assert (by_name["umdf"], by_name["mult"]) == ("80.20", "70.00")
    page.get_by_label("has-0: non-negative").check()
    page.wait_for_function("document.getElementById('heading').textContent.includes('has-0')")
    ready(page)
    by_name = dict(zip(names(page), column(page, "l"), strict=True))
    assert (by_name["umdf"], by_name["mult"]) == ("80.20", "90.00")
    assert page.locator("#swapped").is_hidden()
    page.get_by_label("swapped (wrong; only to read published numbers)").check()
    page.wait_for_function("document.getElementById('heading').textContent.includes('swapped')")
    ready(page)
    by_name = dict(zip(names(page), column(page, "l"), strict=True))
    assert (by_name["umdf"], by_name["mult"]) == ("85.20", "95.00")
    assert "This F1 is wrong" in page.locator("#swapped").inner_text()
    # Metrics that have no such definitions are shown as they are, and the switch says so.
    choose(page, "Metric", "Corr")
    page.wait_for_function("document.getElementById('heading').textContent.includes('Corr')")
    assert page.get_by_label("correct", exact=True).is_disabled()
    assert page.locator("#swapped").is_hidden()


def test_intervals_on_hover_and_on_focus(opened):
    page = opened("results.html")
    ready(page)
    tip = page.locator("#tip")
    line = page.locator("table.numbers tbody tr", has_text="umdf")
    line.locator("td[tabindex]").nth(0).hover()
    assert "95 % interval 75.11 to 85.22" in tip.inner_text()
    assert "3 training seeds, standard deviation 0.10" in tip.inner_text()
    line.locator("td[tabindex]").nth(1).hover()
    assert "interval undefined" in tip.inner_text()
    line.locator("td[tabindex]").nth(2).hover()
    assert "no interval" in tip.inner_text()
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    # One stop for the tab key, then arrows.
    assert page.locator("table.numbers td[tabindex='0']").count() == 1
    page.locator("table.numbers td[tabindex='0']").focus()
    assert "† collapsed in 3 of 3 seeds" in tip.inner_text()
    for _ in range(names(page).index("umdf")):
        page.keyboard.press("ArrowDown")
    assert "95 % interval 75.11 to 85.22" in tip.inner_text()
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip"
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert "never run" in tip.inner_text()


def test_curves_follow_the_selection(opened):
    page = opened("results.html")
    ready(page)
    # Plotly would draw tags in a name.
    shown = [name.removesuffix(" ?").replace("<", "‹").replace(">", "›") for name in names(page)]  # noqa: RUF001
    regimes = {"lf_dnn‡": "complete"}
    draws(page, [f"{name} ({regimes.get(name, 'mixed')})" for name in shown])
    page.get_by_label("Search rows").fill("umdf")
    draws(page, ["umdf"])
    heights = page.evaluate("document.querySelector('#curve-intra').data[0].y")
    assert heights == [80.2] * 10
    page.get_by_label("Search rows").fill("")
    page.get_by_label("Draw mult, mixed").check()
    draws(page, ["mult"])
    assert "1 ticked row" in page.locator("#curves-note").inner_text()
    page.get_by_label("has-0: non-negative").check()
    page.wait_for_function("document.querySelector('#curve-intra').data[0].y[0] === 90")
    choose(page, "Missing", "whole modalities")
    page.wait_for_function("!document.querySelector('#curve-intra')")
    assert page.locator("#curve-inter").is_visible()


def test_the_page_of_a_method(opened):
    page = opened("results.html")
    complete(page, "results.html")
    page.get_by_role("link", name="umdf", exact=True).click()
    page.wait_for_selector(".curves .main-svg")
    text = page.locator("main").inner_text()
    assert "A Unified Self-Distillation Framework" in text
    assert "every equation of the paper is implemented" in text
    assert "the paper calls (2) unbiased" in text
    assert page.locator(".deviations li").count() == 17
    assert page.locator("details.job").count() == 6
    draws(page, ["constant", "umdf"])
    choose(page, "Metric", "F1 (has-0, swapped)")
    page.wait_for_function("document.querySelector('#curve-intra').data[1].y[0] === 85.2")
    box(page, "Corpus and protocol").select_option(index=3)
    page.wait_for_function("!document.getElementById('caveat').hidden")
    failed = opened("methods/lf_dnn.html").locator("details.failed")
    assert failed.count() == 1
    failed.locator("summary").click()
    assert "out of <b>memory</b>" in failed.inner_text()


def test_markup_in_a_name_is_text(opened, site):
    [page_file] = site.glob("methods/-img-*.html")
    for path in ("results.html", "methods.html", f"methods/{page_file.name}"):
        page = opened(path)
        if path == "results.html":
            ready(page)
        if path.startswith("methods/"):
            # Plotly has a markup of its own.
            page.wait_for_selector(".curves .main-svg")
        assert page.locator("img").count() == 0
        assert page.title() != "owned"
        assert page.get_by_text(site_store.HTML).count() > 0
    assert page.get_by_role("heading", level=1).inner_text() == site_store.HTML


def test_the_audit(opened):
    page = opened("audit.html#paper=recap&table=2")
    page.wait_for_selector("div.dt-container")
    rows = page.locator("#findings tbody tr")
    everything = int(page.locator("main p").first.inner_text().split()[0])
    assert {row.split("\t")[3] for row in rows.all_inner_texts()} == {"recap"}
    assert box(page, "Paper").input_value() == "recap"
    few = rows.count()
    choose(page, "Certainty", "proven")
    assert 0 < rows.count() <= few
    assert {row.split("\t")[0] for row in rows.all_inner_texts()} == {"proven"}
    for name in ("Paper", "Table", "Certainty"):
        choose(page, name, "all")
    assert f"of {everything} findings" in page.locator(".dt-info").inner_text()
    page.get_by_label("Search findings").fill("81.91")
    assert rows.count() > 0
    assert all("81.91" in text for text in rows.all_inner_texts())
    header = page.locator("#findings thead th", has_text="Severity")
    header.click()
    expect(header).to_have_attribute("aria-sort", "ascending")
    severities = [text.split("\t")[1] for text in rows.all_inner_texts()]
    assert severities == sorted(severities)


def test_published_numbers_stand_as_printed(opened):
    page = opened("published/prlf.html")
    text = page.locator("main").inner_text()
    assert "PRLF Table 1" in text
    # Trailing zeros are the paper's own.
    assert "64.3" in page.locator("table.numbers").first.inner_text().split()
    assert page.locator("h2").count() == 7
    page.locator("a", has_text="findings").first.click()
    page.wait_for_selector("div.dt-container")
    assert box(page, "Table").input_value() == "1"


def complete(page, path):
    """Wait until scripts have drawn what they draw."""
    if path in ("results.html", "methods/umdf.html"):
        page.wait_for_selector(".curves .main-svg")
    if path == "audit.html":
        page.wait_for_selector("div.dt-container")


def test_no_page_is_wider_than_a_phone(opened, site):
    page = opened("index.html", viewport={"width": 375, "height": 800})
    for path in KINDS:
        page.goto(f"{site.as_uri()}/{path}")
        complete(page, path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, path


@pytest.mark.parametrize(
    ("scheme", "kinds"), [("light", KINDS), ("dark", ("index.html", "results.html", "methods/umdf.html", "audit.html"))]
)
def test_no_page_has_a_serious_barrier(opened, site, scheme, kinds):
    from axe_playwright_python.sync_playwright import Axe

    axe = Axe()
    page = opened("index.html", color_scheme=scheme)
    for path in kinds:
        page.goto(f"{site.as_uri()}/{path}")
        complete(page, path)
        found = axe.run(page, options={"resultTypes": ["violations"], "preload": False}).response["violations"]
        serious = [
            (path, violation["id"], violation["nodes"][0]["html"], violation["nodes"][0]["failureSummary"])
            for violation in found
            if violation["impact"] in ("serious", "critical")
        ]
        assert serious == []


def test_the_first_tab_skips_to_the_content(opened):
    page = opened("results.html")
    ready(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_scored_rows_stand_below_are_best_of_nothing_and_have_a_filter(browser, tmp_path):
    for method, spread in (("umdf", 0.3), ("mult", 0.5)):
        add_runs(tmp_path / "store", method, noisy(spread), seeds=(0,), n=40)
    add_runs(tmp_path / "store", "theirs", noisy(0.01), seeds=(0,), n=40, origin=EXTERNAL_ORIGIN, record=scored)
    build_site(tmp_path / "site", tmp_path / "store", REPOSITORY / "leaderboard/published")
    page = browser.new_page()
    page.goto(f"{(tmp_path / 'site').as_uri()}/results.html")
    ready(page)
    header = page.locator("table.numbers thead th.number", has_text="l").first
    for order in ("descending", "ascending"):
        header.click()
        expect(header).to_have_attribute("aria-sort", order)
        assert names(page)[-1] == "theirs ?"
    best = "rows => rows.map(row => row.querySelectorAll('.best').length)"
    counts = page.eval_on_selector_all("table.numbers tbody tr", best)
    assert counts[-1] == 0
    assert sum(counts) > 0
    choose(page, "Predictions", "only scored here")
    shows(page, ["theirs ?"])
    choose(page, "Predictions", "trained here")
    expect(page.locator("table.numbers tbody th")).to_have_count(2)
    assert {*names(page)} == {"mult", "umdf"}
    page.close()
