"""The blocks of a page, as data. `tasks.page.render` renders them into one self-contained HTML file.

Colours in a `Chart` are roles (`INK`, `MEDIAN`, ...), which the page turns into colours that suit
its light or dark background.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

INK = "@ink"
"""The line of observed values: black on white, near white on black."""
MEDIAN = "@median"
OUTER = "@outer"
"""The fill of the outermost band."""
INNER = "@inner"
"""The fill of the bands inside it."""
ACCENT = "@accent"
SECOND = "@second"
THIRD = "@third"
MUTED = "@muted"
ALERT = "@alert"


@dataclass(frozen=True)
class Text:
    """One or more paragraphs in Markdown; HTML in it is shown literally."""

    markdown: str


@dataclass(frozen=True)
class Figures:
    """A few key figures: label -> value as shown."""

    values: Mapping[str, str]


@dataclass(frozen=True)
class Grid:
    """A table of at most `limit` rows, and the number of those left out.

    Column names are the headings. `formats` gives a column's number format (`".1%"`, `"+,.0f"`);
    other numbers have thousands separators and as many decimals as their size needs. `key` maps
    key columns of the page's `Explorer` to columns of the table: a row then opens the
    explorer at its key.
    """

    frame: pl.DataFrame
    caption: str = ""
    limit: int = 200
    formats: Mapping[str, str] = field(default_factory=dict)
    key: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Chart:
    """A plotly figure as its JSON-ready dict (`data`, `layout`); its text is shown literally."""

    figure: Mapping[str, Any]
    caption: str = ""


@dataclass(frozen=True)
class Line:
    """A column of a track, and its label on the page; the default colour depends on its role."""

    column: str
    label: str
    colour: str | None = None


@dataclass(frozen=True)
class Mark:
    """A column of a track that says where to put a marker, and its label on the page.

    The column is boolean, a number (marked where it is positive) or text (marked where it is not
    null, and shown).
    """

    column: str
    label: str
    colour: str = ACCENT


@dataclass(frozen=True)
class Band:
    """Two columns of a track with `low <= high`, and the label of the area between them on the page."""

    low: str
    high: str
    label: str


@dataclass(frozen=True)
class Track:
    """Columns of an explorer that share their times.

    `frame` has the explorer's key and time columns and those named here, one row per key and time;
    missing values leave a gap. `bands` are ordered from the outermost to the innermost.
    """

    frame: pl.LazyFrame
    actual: Line | None = None
    expected: Line | None = None
    bands: Sequence[Band] = ()
    marks: Sequence[Mark] = ()


@dataclass(frozen=True)
class Explorer:
    """A chart of one key, which the reader selects on the page.

    `key` maps key columns to their names on the page; each becomes a searchable selector, except
    `panels`, the last of them, whose values are drawn one below the other: those in `order` first,
    then the rest by name. `start` is the key shown first, by default the first one. `about` has the
    key columns and further text columns, named as shown, at most one row per key. With
    `recent`, the chart opens on that many of the last points in time, and a button shows them all.
    `unit` is the title of the value axis; with panels, it is the panel's name. A track with a `shard`
    column is read faster.
    """

    key: Mapping[str, str]
    time: str
    tracks: Sequence[Track]
    unit: str = ""
    panels: str = ""
    order: Sequence[str] = ()
    start: Mapping[str, str] = field(default_factory=dict)
    about: pl.LazyFrame | None = None
    recent: int | None = None
    caption: str = ""


Block = Text | Figures | Grid | Chart | Explorer


@dataclass(frozen=True)
class Section:
    """A heading and the blocks under it."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def number(value: object, form: str) -> str:
    """A number as text, with a real minus sign; a number that rounds to zero has no sign.

    >>> number(-1234.5, "+,.0f"), number(-0.2, "+,.0f"), number(0.0004, ".1%")
    ('−1,234', '0', '0.0%')
    """
    text = format(value, form).replace("-", "−")
    return text if any(digit in text for digit in "123456789") else text.lstrip("+−")


def compact(units: float) -> str:
    """A number to read at a glance: three significant digits.

    >>> compact(950), compact(12_345), compact(5_432_100), compact(0.4)
    ('950', '12,345', '5.43 M', '0.4')
    """
    if abs(units) >= 1e9:
        return f"{units / 1e9:,.2f} bn"
    if abs(units) >= 1e6:
        return f"{units / 1e6:,.2f} M"
    return f"{units:,.0f}" if abs(units) >= 10 or units == int(units) else f"{units:.1f}"
