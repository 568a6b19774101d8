"""Sheets of Excel files, as rows."""

import io

import polars as pl
from polars import selectors

from tasks.ingest.contents import LINES, DialectError
from tasks.ingest.text import header_of, refuse_twice


def rows_of_excel(content: bytes, sheet: str | None = None) -> pl.LazyFrame:
    """A sheet of an Excel file, or the one with rows. Raises `DialectError` where there is none or several."""
    sheets = _sheets(content)
    filled = {name: frame for name, frame in sheets.items() if any(column.count() for column in frame)}
    matches = [name for name in filled if sheet in (None, name)]
    if len(matches) != 1:
        hint = "one" if sheet is None else f"'{sheet}' among them"
        way = f" Name it behind the file, such as sales.xlsx#{next(iter(filled))}." if filled else ""
        names_in_file = f": {', '.join(filled)}" if filled else ""
        raise DialectError(
            f"this Excel file has {len(filled)} sheets with rows{names_in_file}. Expected {hint}.{way}"
        )
    frame = filled[matches[0]]
    first = frame.head(LINES).with_columns(pl.all().cast(pl.String, strict=False)).rows()
    top = ["" if name.startswith("__UNNAMED__") else name for name in frame.columns]
    if before := header_of([top, *first]):
        frame = _sheets(content, header_row=before)[matches[0]]
    frame = frame.drop(selectors.starts_with("__UNNAMED__") | selectors.starts_with("Unnamed: 0"))
    frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
    names = {name: name.strip() for name in frame.columns}
    refuse_twice(list(names.values()))
    return frame.rename(names).lazy()


def _sheets(content: bytes, **reading: int) -> dict[str, pl.DataFrame]:
    """The sheets of an Excel file by name, with all rows, also empty ones."""
    return pl.read_excel(
        io.BytesIO(content),
        sheet_id=0,
        infer_schema_length=None,
        raise_if_empty=False,
        drop_empty_rows=False,
        read_options=reading,
    )
