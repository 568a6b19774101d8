"""The page as HTML: it is self-contained, and inert whatever names the data contains."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from datetime import date, datetime
from html.parser import HTMLParser

import polars as pl
import pytest
from markdown_it import MarkdownIt

from models.page.blocks import INK, Block, Chart, Explorer, Figures, Grid, Line, Section, Text, Track
from models.sales.sections import sections
from tasks.page import render as reports
from tasks.page.render import render
from tasks.scoring.events import as_markdown
from tests.sales_run import a_run

HOSTILE = "</script><script>window.hacked=1</script><img src=http://example.org/x onerror=hacked()>"


class Elements(HTMLParser):
    """A page as a browser reads it: elements with their attributes, and text by element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append((self.found[-1][0] if self.found else "", data))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def page(*parts: Block, title: str = "Title") -> str:
    return render(title, "subtitle", [Section("Section", parts)])


def an_explorer(sku: str, reason: str | None = None) -> Explorer:
    rows = pl.LazyFrame({"sku": [sku], "week": [date(2024, 1, 1)], "units": [1.0]})
    about = pl.LazyFrame({"sku": [sku], "Reason": [reason]})
    return Explorer({"sku": "SKU"}, "week", [Track(rows, Line("units", HOSTILE))], unit=HOSTILE, about=about)


def cells(html: str) -> list[list[str]]:
    body = html.split("<tbody>")[1].split("</tbody>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.S)
    return [re.findall(r"<td[^>]*>(?:<a[^>]*>)?(.*?)(?:</a>)?</td>", row) for row in rows]


@pytest.mark.parametrize(
    "part",
    [
        Text(HOSTILE),
        Figures({HOSTILE: HOSTILE}),
        Grid(pl.DataFrame({HOSTILE: [HOSTILE]}), HOSTILE, key={"sku": HOSTILE}),
        Chart({"data": [{"x": [HOSTILE], "y": [1], "name": HOSTILE}], "layout": {"title": HOSTILE}}, HOSTILE),
        an_explorer(HOSTILE, HOSTILE),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_hostile_name_adds_no_element_and_no_address(part: Block) -> None:
    plain, hostile = Elements(page(type(part)(**_harmless(part)))), Elements(page(part, title=HOSTILE))
    assert [tag for tag, _ in hostile.found] == [tag for tag, _ in plain.found]
    for _, attributes in hostile.found:
        assert "src" not in attributes
        assert "onerror" not in attributes


def _harmless(part: Block) -> dict:
    """The fields of a part of the same shape with a name that is a word."""

    def tame(value: object) -> object:
        if isinstance(value, str):
            return value.replace(HOSTILE, "word")
        if isinstance(value, dict):
            return {tame(k): tame(v) for k, v in value.items()}
        if isinstance(value, list):
            return [tame(v) for v in value]
        if isinstance(value, pl.DataFrame):
            return pl.DataFrame({"word": ["word"]})
        return value

    if isinstance(part, Explorer):
        return vars(an_explorer("word", "word"))
    return {name: tame(value) for name, value in vars(part).items()}


def test_nothing_is_fetched_from_anywhere() -> None:
    elements = Elements(render("Sales", "as of today", sections(a_run()), {"Run": "1"}))
    for tag, attributes in elements.found:
        assert "src" not in attributes, tag
        address = attributes.get("href") or ""
        assert address.startswith(("#", "data:,")) or not address, address
    assert "@import" not in reports._packaged("page.css")
    assert "url(" not in reports._packaged("page.css")


def test_the_policy_allows_no_network_and_only_the_scripts_that_are_there() -> None:
    html = page(Text("x"))
    policy = next(m["content"] for m in Elements(html).named("meta") if m.get("http-equiv")) or ""
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src" not in policy
    assert "'unsafe-inline'" not in policy.split("style-src")[0]
    executed = re.findall(r"<script>(.*?)</script>", html, re.S)
    assert len(executed) == 1
    digest = base64.b64encode(hashlib.sha256(executed[0].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy


def test_the_same_input_gives_the_same_page() -> None:
    assert render("a", "b", sections(a_run())) == render("a", "b", sections(a_run()))


def test_data_cannot_end_the_element_it_is_in_and_is_read_back_unchanged() -> None:
    value = {"name": HOSTILE + "<!-- & \u2028", "y": [1.5, None]}
    text = str(reports._json(value))
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_text_of_a_figure_is_shown_not_obeyed_but_templates_are_kept() -> None:
    figure = {"data": [{"name": "<b>x</b>", "hovertemplate": "%{y}<extra></extra>", "line": {"color": INK}}]}
    assert reports._plain(figure)["data"][0] == {
        "name": "&lt;b>x&lt;/b>",
        "hovertemplate": "%{y}<extra></extra>",
        "line": {"color": INK},
    }


def test_a_figure_may_hold_dates_series_and_what_is_not_a_number() -> None:
    figure = {"x": [date(2024, 1, 1), datetime(2024, 1, 1, 6)], "y": pl.Series([1.0, float("nan")])}
    assert reports._plain(figure) == {"x": ["2024-01-01", "2024-01-01 06:00:00"], "y": [1.0, None]}


def test_markdown_makes_tables_and_emphasis_but_no_images_and_no_unsafe_links() -> None:
    html = page(Text("**bold** ![x](http://example.org/x.png) [y](javascript:alert)"))
    assert "<strong>bold</strong>" in html
    assert "<img" not in html
    assert "javascript:" not in html.replace("[y](javascript:alert)", "")


def test_a_long_table_is_cut_and_the_rest_is_counted() -> None:
    html = page(Grid(pl.DataFrame({"n": range(2_000)}), limit=10))
    assert len(cells(html)) == 10
    assert "1,990 more rows are not shown" in html


@pytest.mark.parametrize(
    ("values", "form", "texts"),
    [
        ([1234567, None], None, ["1,234,567", "–"]),
        ([1234.5, 80.25], None, ["1,234", "80"]),
        ([0.164, -0.473], None, ["0.164", "−0.473"]),
        ([0.5, float("nan")], ".1%", ["50.0%", "–"]),
        ([-1500.0, 20.0], "+,.0f", ["−1,500", "+20"]),
        ([date(2024, 1, 1), None], None, ["2024-01-01", "–"]),
        (["a & b", None], None, ["a &amp; b", "–"]),
        ([True, False], None, ["yes", "no"]),
        ([0.0, 0.0], None, ["0", "0"]),
    ],
)
def test_cells_are_formatted_alike(values: Sequence[object], form: str | None, texts: list[str]) -> None:
    frame = pl.DataFrame({"c": values}, strict=False)
    html = page(Grid(frame, formats={"c": form} if form else {}))
    assert [row[0] for row in cells(html)] == texts


def test_a_row_opens_the_explorer_at_its_key() -> None:
    frame = pl.DataFrame({"Product": ["a b&c"], "Shop": [7]})
    html = page(Grid(frame, key={"sku": "Product", "store": "Shop"}))
    assert '<a href="#sku=a+b%26c&amp;store=7">a b&amp;c</a>' in html


def test_sections_of_one_title_have_different_anchors_and_empty_ones_are_left_out() -> None:
    html = render("t", "s", [Section("Same", [Text("1")]), Section("Same", [Text("2")]), Section("None", [])])
    assert 'id="same"' in html
    assert 'id="same-2"' in html
    assert "None" not in html


def test_an_explorer_without_series_says_so() -> None:
    empty = pl.LazyFrame(schema={"sku": pl.String, "week": pl.Date, "units": pl.Float64})
    html = page(Explorer({"sku": "SKU"}, "week", [Track(empty, Line("units", "Sold"))]))
    assert "There are no series to show." in html


def test_a_small_page_is_mostly_the_chart_library() -> None:
    assert len(render("Sales", "as of today", sections(a_run()))) < 2_500_000


def test_a_hostile_name_is_only_text_in_the_notes_that_prefect_shows() -> None:
    note = (
        f"{HOSTILE} ![x](http://example.org/x) [y](http://example.org) <http://example.org> *a*_b_ at 12:30"
    )
    html = MarkdownIt("commonmark").render(f"- {as_markdown(note)}")
    elements = Elements(html)
    assert [tag for tag, _ in elements.found] == ["ul", "li"]
    assert "".join(text for _, text in elements.text).strip() == note
