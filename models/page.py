"""The parts of a page, as data. `tasks.reports` renders them into one self-contained HTML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl


@dataclass(frozen=True)
class Text:
    """A paragraph, in Markdown."""

    markdown: str


@dataclass(frozen=True)
class Figures:
    """A few key figures: label -> value as it is to be shown."""

    values: Mapping[str, str]


@dataclass(frozen=True)
class Grid:
    """A table of at most `limit` rows; the rest is counted, not shown."""

    frame: pl.DataFrame
    caption: str = ""
    limit: int = 200


@dataclass(frozen=True)
class Chart:
    """A plotly figure as its JSON-ready dict (`data`, `layout`)."""

    figure: Mapping[str, Any]
    caption: str = ""


Part = Text | Figures | Grid | Chart


@dataclass(frozen=True)
class Section:
    title: str
    parts: Sequence[Part] = field(default_factory=tuple)
