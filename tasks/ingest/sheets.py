"""Sheets of Excel files, as rows."""

import io
from typing import Any

import fastexcel
import polars as pl

from tasks.ingest.contents import LINES, DialectError
from tasks.ingest.text import header_of, lines_below, refuse_twice, with_groups, with_years


def rows_of_excel(content: bytes, sheet: str | None = None) -> pl.LazyFrame:
    """The rows of a sheet of an Excel file, by default the only one with rows that is not hidden.

    Raises `DialectError` without a match.
    """
    tops = {name: frame.rows() for name, frame in _sheets(content, n_rows=LINES, dtypes="string").items()}
    sheets = {name: rows for name, rows in tops.items() if sum(any(row) for row in rows) > 1}
    matches = [name for name in sheets if sheet in (None, name)]
    if sheet is None and len(matches) > 1:
        book = fastexcel.read_excel(content)
        matches = [name for name in matches if book.load_sheet(name, n_rows=0).visible == "visible"]
    if len(matches) != 1:
        hint = "one" if sheet is None else f"'{sheet}' among them"
        way = f" Name it after the file, for example sales.xlsx#{next(iter(sheets))}." if sheets else ""
        names_in_file = f": {', '.join(sheets)}" if sheets else ""
        raise DialectError(
            f"this Excel file has {len(sheets)} sheets with rows{names_in_file}. Expected {hint}.{way}"
        )
    rows = sheets[matches[0]]
    before = header_of(rows)
    names = with_years(rows[:before], [(name or "").strip() for name in rows[before]])
    names = with_groups(rows[:before], names)
    refuse_twice(names)
    frame = _sheets(content, skip_rows=before + 1 + lines_below(rows[before:]))[matches[0]]
    new = {c: n for c, n in zip(frame.columns, names, strict=False) if n and not n.startswith("Unnamed: 0")}
    frame = frame.select(*new).rename(new)
    return frame.filter(~pl.all_horizontal(pl.all().is_null())).lazy()


def _sheets(content: bytes, **reading: Any) -> dict[str, pl.DataFrame]:
    """The sheets of an Excel file by name, with all rows and columns, including empty ones, and no header."""
    return pl.read_excel(
        io.BytesIO(content),
        sheet_id=0,
        has_header=False,
        infer_schema_length=None,
        raise_if_empty=False,
        drop_empty_rows=False,
        drop_empty_cols=False,
        read_options=reading,
    )
