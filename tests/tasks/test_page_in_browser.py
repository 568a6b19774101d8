"""The page in a real browser: what it draws, what it asks for, and how it looks on a phone."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from models.page.blocks import ALERT, Band, Explorer, Line, Mark, Section, Track
from models.page.explorer import pack
from models.sales.sections import sections
from tasks.page.render import render
from tests.browser import Page, browser
from tests.explorers import values_of
from tests.sales_run import HISTORY_WEEKS, HORIZON, a_run

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"
KEYS = [("A", "1"), ("A", "2"), ("B & C", "1"), (HOSTILE, HOSTILE), *[(f"SKU {i}", "9") for i in range(300)]]
PLOT = "document.querySelector('.explorer .plot')"
LINES = f"""Object.fromEntries({PLOT}.data.map((t) => [t.name, t.y]))"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    with browser() as page:
        yield page


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "sales.html"
    path.write_text(render("Weekly sales", "as of today", sections(a_run(KEYS)), {"Run": HOSTILE}))
    return path


@pytest.fixture
def page(chromium: Page, file: Path) -> Iterator[Page]:
    """The sales page on a desktop; the test also checks that nothing but the file was requested, and that nothing failed."""
    chromium.send("Page.navigate", url="about:blank")
    chromium.errors.clear()
    chromium.requests.clear()
    chromium.show(1280, 900)
    chromium.open(file)
    yield chromium
    assert chromium.errors == []
    assert {r.split("#")[0] for r in chromium.requests} <= {file.as_uri(), "about:blank", "data:,"}
    assert chromium.run("window.hacked") is None


def chosen(page: Page) -> list[str]:
    return json.loads(page.run(f"{PLOT}.dataset.key"))


def wait_for(page: Page, *key: str) -> None:
    page.wait(
        f"{PLOT}.dataset.key === {json.dumps(json.dumps(list(key), separators=(',', ':'), ensure_ascii=False))}"
    )


def pick(page: Page, place: int, text: str) -> None:
    """Type into a selector and press Enter."""
    page.run(f"document.querySelectorAll('.picker input')[{place}].focus()")
    page.send("Input.insertText", text=text)
    for kind in ("keyDown", "keyUp"):
        page.send("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13)


def test_every_chart_is_drawn_and_the_explorer_opens_on_the_largest_key(page: Page) -> None:
    assert chosen(page) == ["SKU 299", "9"]
    assert page.run("[...document.querySelectorAll('.plot')].every((p) => p.querySelector('svg .trace'))")


def test_a_key_found_by_typing_is_drawn_with_its_own_values(page: Page) -> None:
    pick(page, 0, "a")
    wait_for(page, "A", "1")
    pick(page, 1, "2")
    wait_for(page, "A", "2")
    lines = page.run(LINES)
    assert lines["Sold"] == [20.0 + week for week in range(1, HISTORY_WEEKS + 1)]
    assert lines["Median forecast"] == [200.0] * HORIZON
    assert sorted(set(lines["5–95%"])) == [80.0, 400.0]
    assert sorted(set(lines["25–75%"])) == [160.0, 260.0]
    assert len(lines["On deal"]) == sum(1 for step in range(-HISTORY_WEEKS + 1, 1) if step % 7 == 0)


def test_lines_and_bands_have_the_colours_that_planners_know(page: Page) -> None:
    look = page.run(
        f"Object.fromEntries({PLOT}.data.map((t) => [t.name, [t.line?.color, t.line?.dash ?? 'solid', t.fillcolor]]))"
    )
    assert look["Sold"][:2] == ["#16181d", "solid"]
    assert look["Median forecast"][0] == "#16181d"
    assert "px" in look["Median forecast"][1]
    assert look["25–75%"][2] == "#f4a6c0"
    assert look["5–95%"][2] == "#b9d5f3"


def test_a_hostile_name_can_be_chosen_and_is_only_text(page: Page) -> None:
    pick(page, 0, "</scr")
    wait_for(page, HOSTILE, HOSTILE)
    assert page.run("document.querySelectorAll('.picker input')[1].value") == HOSTILE
    assert page.run("document.querySelectorAll('img').length") == 0


def test_the_list_narrows_and_says_how_many_more_there_are(page: Page) -> None:
    page.run("document.querySelector('.picker input').focus()")
    items = "[...document.querySelectorAll('.picker li')].map((li) => li.textContent)"
    assert len(page.run(items)) == 101
    assert page.run(items)[-1] == f"{len(KEYS) - 1 - 100} more; type to search"
    page.send("Input.insertText", text="sku 29")
    assert page.run(items) == ["SKU 29", *[f"SKU {i}" for i in range(290, 300)]]
    page.send("Input.insertText", text="9999")
    assert page.run(items) == ["Nothing matches"]
    page.run("document.querySelector('.picker input').blur()")
    assert page.run("document.querySelector('.picker input').value") == "SKU 299"


def test_the_arrows_step_to_the_neighbouring_key(page: Page) -> None:
    page.run("document.querySelector('.picker .step[data-step=\"-1\"]').click()")
    wait_for(page, "SKU 298", "9")


def test_a_row_of_a_table_opens_its_key(page: Page) -> None:
    links = "[...document.querySelectorAll('#changes-since-the-last-forecast a')]"
    page.run(f"{links}.find((a) => a.textContent === 'SKU 297').click()")
    wait_for(page, "SKU 297", "9")


def test_an_address_with_a_key_opens_on_it_and_shows_why_it_fell_back(page: Page, file: Path) -> None:
    page.send("Page.navigate", url="about:blank")
    page.open(file, "#sku=B+%26+C&store=1")
    assert chosen(page) == ["B & C", "1"]
    assert page.run("document.querySelector('.about').textContent") == "Outcome: Scored · Estimator: pooled"
    page.run("location.hash = '#sku=SKU+299&store=9'")
    wait_for(page, "SKU 299", "9")
    assert "Reason: sold in 3 of its last 30 weeks" in page.run(
        "document.querySelector('.about').textContent"
    )


def test_the_numbers_of_the_chosen_key_can_be_read(page: Page) -> None:
    pick(page, 0, "a")
    wait_for(page, "A", "1")
    row = page.run("[...document.querySelectorAll('.numbers tbody tr')[0].cells].map((c) => c.textContent)")
    assert row == ["2024-06-10", "100", "40", "200", "80", "130"]


@pytest.mark.parametrize("width", [320, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_needs_no_sideways_scrolling(page: Page, file: Path, width: int, dark: bool) -> None:
    page.show(width, 800, phone=True, dark=dark)
    page.open(file)
    page.run("document.querySelector('.numbers').open = true")
    pick(page, 0, "</scr")
    wait_for(page, HOSTILE, HOSTILE)
    assert page.run("document.documentElement.scrollWidth") <= width
    widest = page.run(
        "Math.max(...[...document.querySelectorAll('.plot svg')].map((s) => s.getBoundingClientRect().right))"
    )
    assert widest <= width


def test_dark_mode_changes_page_and_charts_at_once(page: Page) -> None:
    ink = f"{PLOT}.data.find((t) => t.name === 'Sold').line.color"
    assert page.run(ink) == "#16181d"
    page.show(1280, 900, dark=True)
    page.wait(f"{ink} === '#eceef2'")
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 24)"


def test_script_and_network_are_refused_even_if_something_got_in(chromium: Page, file: Path) -> None:
    chromium.open(file)
    chromium.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.got = 1'}))"
    )
    assert chromium.run("window.got") is None
    assert chromium.run("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    chromium.wait("1")
    assert any("Content Security Policy" in error for error in chromium.errors)
    assert not [r for r in chromium.requests if r.startswith("http")]


def test_a_browser_that_is_too_old_is_told_so(chromium: Page, file: Path) -> None:
    script = chromium.send(
        "Page.addScriptToEvaluateOnNewDocument", source="delete window.DecompressionStream"
    )
    try:
        chromium.open(file)
        assert "browser of 2023 or later" in chromium.run("document.querySelector('#problem').textContent")
    finally:
        chromium.send("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])


def readings() -> Explorer:
    """Two devices with two tags of a reading a minute, a normal band, a hole, and an anomaly each."""
    start = datetime(2024, 1, 1)
    rows = [
        {
            "device": device,
            "tag": tag,
            "time": start + timedelta(minutes=m),
            "value": m / 10 + (5 if m == 30 else 0),
            "low": m / 10 - 1,
            "high": m / 10 + 1,
            "fault": "spike" if m == 30 else None,
        }
        for device in ("d1", "d2")
        for tag in ("temperature", "<b>flow</b>")
        for m in range(60)
        if not (tag == "temperature" and 10 <= m < 20)
    ]
    track = Track(
        pl.LazyFrame(rows),
        Line("value", "Reading"),
        bands=[Band("low", "high", "Normal")],
        marks=[Mark("fault", "Anomaly", ALERT)],
    )
    return Explorer(
        {"device": "Device", "tag": "Tag"}, "time", [track], panels="tag", order=["temperature"], recent=40
    )


def test_panels_show_all_tags_of_a_device_with_gaps_bands_and_marks(chromium: Page, tmp_path: Path) -> None:
    path = tmp_path / "devices.html"
    path.write_text(render("Devices", "", [Section("Any device", [readings()])]))
    chromium.errors.clear()
    chromium.show(1280, 900)
    chromium.open(path)
    assert chosen(chromium) == ["d1"]
    titles = "[...document.querySelectorAll('.ytitle, .y2title')].map((t) => t.textContent)"
    assert chromium.run(titles) == ["temperature", "<b>flow</b>"]
    recent = chromium.run(f"{PLOT}.data.filter((t) => t.name === 'Reading').map((t) => t.x.length)")
    assert recent == [40, 40]
    chromium.run("document.querySelector('.range [data-all=\"1\"]').click()")
    chromium.wait(f"{PLOT}.data[0].x.length > 100")
    lines = chromium.run(f"{PLOT}.data.filter((t) => t.name === 'Reading').map((t) => t.y)")
    assert [line.count(None) for line in lines] == [1, 0]
    marks = chromium.run(f"{PLOT}.data.filter((t) => t.name === 'Anomaly').map((t) => [t.x, t.y, t.text])")
    assert marks == [[["2024-01-01 00:30:00"], [8], ["Anomaly  spike"]]] * 2
    assert chromium.errors == []


def test_the_browser_decodes_every_value_as_python_does(chromium: Page, tmp_path: Path) -> None:
    explorer = sections(a_run(KEYS[4:40]))[1].blocks[0]
    assert isinstance(explorer, Explorer)
    packed = pack(explorer)
    path = tmp_path / "one.html"
    path.write_text(render("t", "s", [Section("Explorer", [explorer])]))
    chromium.open(path, "#sku=SKU+17&store=9")
    lines = chromium.run(LINES)
    key = {"sku": "SKU 17", "store": "9"}
    assert lines["Sold"] == values_of(packed, key, 0)[0].tolist()
    assert lines["Median forecast"] == values_of(packed, key, 1)[2].tolist()
