"""The page of a run: one self-contained HTML file.

Scripts, styles, charts and data are inside the file. Its Content-Security-Policy allows no network access and only two
scripts, identified by their hashes, so that text from the data cannot be executed.
"""

import base64
import hashlib
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime
from functools import cache
from importlib.resources import files
from itertools import count
from typing import Any
from urllib.parse import urlencode

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from models.moments import time_text
from models.page.blocks import Block, Chart, Explorer, Figures, Grid, Section, Text, number
from models.page.explorer import pack
from tasks.scoring.runs import Run

SCRIPTS = ("page.js", "series.js", "traces.js", "explorer.js", "picker.js", "start.js")
SHORT = 20
POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


def render(
    title: str, subtitle: str, sections: Sequence[Section], facts: Mapping[str, str] | None = None
) -> str:
    """The page as HTML, including a few MB of the chart library.

    `facts` are the small print at the end: run, bundle, table versions. Text from the data is escaped everywhere. The
    same input gives the same page.
    """
    numbers = count()
    names: set[str] = set()
    body = [
        {
            "id": _anchor(section.title, names),
            "title": section.title,
            "blocks": [_block(block, next(numbers)) for block in section.blocks],
        }
        for section in sections
        if section.blocks
    ]
    plotly, app = _plotly(), _app()
    scripts = f"{_hash(plotly)} {_hash(app)}"
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            title=title,
            subtitle=subtitle,
            sections=body,
            facts=facts or {},
            policy=POLICY.format(scripts=scripts),
            style=_trusted(_packaged("page.css")),
            app=_trusted(app),
            plotly=_plotly_packed(),
        )
    )


def render_run(run: Run, what: str, sections: Sequence[Section], facts: Mapping[str, str]) -> bytes:
    """The page of a run, titled with `what` it did; the small print is `facts`, the store and the table versions."""
    versions = {f"Table {name}": f"version {number}" for name, number in run.versions.items()}
    small_print = {**facts, "Store": run.store.uri, **versions}
    return render(
        f"{run.scenario.name.capitalize()}: {what}", f"As of {time_text(run.as_of)}", sections, small_print
    ).encode()


def _block(block: Block, number: int) -> Markup:
    """A page block as HTML."""
    macros = _templates().get_template("blocks.html.j2").module
    renderers: dict[type, Callable[[Any], dict[str, Any]]] = {
        Text: lambda p: {"html": _trusted(_markdown().render(p.markdown))},
        Figures: _figures,
        Grid: _grid,
        Chart: lambda p: {"caption": p.caption, "figure": _json(_plain(p.figure))},
        Explorer: _explorer,
    }
    name = type(block).__name__.lower()
    return _trusted(getattr(macros, name)(number=number, **renderers[type(block)](block)))


def _figures(figures: Figures) -> dict[str, Any]:
    """Values with a real minus sign, in rows of nearly equal length with at most six values."""
    values = {label: re.sub(r"^-(?=[\d.])", "−", value) for label, value in figures.values.items()}
    rows = math.ceil(len(values) / 6) or 1
    return {"values": values, "columns": math.ceil(len(values) / rows)}


def _grid(grid: Grid) -> dict[str, Any]:
    frame = grid.frame.head(grid.limit)
    cells = [_cells(frame[c], grid.formats.get(c)) for c in frame.columns]
    links: list[str] = [""] * frame.height
    if grid.key:
        keys = frame.select(pl.col(column).cast(pl.String).alias(k) for k, column in grid.key.items())
        links = ["#" + urlencode(row) for row in keys.to_dicts()]
    return {
        "caption": grid.caption,
        "heads": [(c, _kind(frame[c])) for c in frame.columns],
        "rows": list(zip(links, zip(*cells, strict=True), strict=True)) if cells else [],
        "left": grid.frame.height - frame.height,
        "opening": next(iter(grid.key.values()), ""),
    }


def _kind(values: pl.Series) -> str:
    """The CSS class of a column's cells: a number, short text, which does not wrap, or text."""
    if values.dtype.is_numeric():
        return "n"
    longest = max(map(len, values.cast(pl.String).drop_nulls()), default=0)
    return "t" if longest <= SHORT else "s"


def _cells(values: pl.Series, form: str | None) -> list[str]:
    """A column's values as text; null is a dash. Numbers of a column share their decimals."""
    if form is None and values.dtype.is_float():
        form = f",.{_decimals(values)}f"
    elif form is None and values.dtype.is_integer():
        form = ",d"

    def cell(value: object) -> str:
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return "–"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, datetime):
            return value.strftime("%Y-%m-%d %H:%M")
        if isinstance(value, date):
            return value.isoformat()
        return number(value, form) if form else str(value)

    return [cell(value) for value in values.to_list()]


def _decimals(values: pl.Series) -> int:
    """The number of decimals that gives the column's median size about three digits; none from 100 on.

    >>> _decimals(pl.Series([1234.5, 80.25])), _decimals(pl.Series([0.164, 0.473]))
    (0, 3)
    """
    sizes = values.abs().drop_nulls().drop_nans()
    middle = sizes.filter(sizes > 0).median()
    if not isinstance(middle, float) or not math.isfinite(middle):
        return 0
    return min(6, max(0, 2 - math.floor(math.log10(middle))))


def _explorer(explorer: Explorer) -> dict[str, Any]:
    data = pack(explorer)
    return {
        "caption": explorer.caption,
        "header": _json(data.header),
        "index": _base64(data.index),
        "chunks": [_base64(chunk) for chunk in data.chunks],
        "selectors": [label for column, label in explorer.key.items() if column != explorer.panels],
        "empty": data.series == 0,
    }


def _plain(value: Any, name: str = "") -> Any:
    """A figure whose text plotly shows literally; hover and text templates keep their markup."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v, str(k)) for k, v in value.items()}
    if isinstance(value, str):
        return value if name.endswith("template") else value.replace("&", "&amp;").replace("<", "&lt;")
    if isinstance(value, pl.Series | Sequence):
        return [_plain(v, name) for v in value]
    if isinstance(value, date):
        return value.isoformat(" ") if isinstance(value, datetime) else value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _json(value: Any) -> Markup:
    """JSON that cannot close the script element that contains it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return _trusted(text)


def _base64(data: bytes) -> Markup:
    return _trusted(base64.b64encode(data).decode())


def _trusted(html: str) -> Markup:
    """Text that goes into the page unchanged: packaged, encoded above, or escaped by its renderer."""
    return Markup(html)  # noqa: S704


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _anchor(title: str, names: set[str]) -> str:
    """A section's id: the title's letters and digits, with a number if that name is in use."""
    stem = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"

    def candidates() -> Iterator[str]:
        yield stem
        yield from (f"{stem}-{i}" for i in count(2))

    name = next(n for n in candidates() if n not in names)
    names.add(name)
    return name


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("tasks", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


@cache
def _packaged(name: str) -> str:
    return files("tasks").joinpath("page", name).read_text(encoding="utf-8")


@cache
def _app() -> str:
    """The page's own scripts as one script, which defines no global names."""
    body = "\n".join(_packaged(name) for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{body}\n}})();\n'


@cache
def _plotly() -> str:
    return files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")


@cache
def _plotly_packed() -> Markup:
    return _base64(zlib.compress(_plotly().encode()))
