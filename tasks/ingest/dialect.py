"""How a file is written: format, compression, encoding, separator, line ends, decimal comma.

A file is recognised by its first bytes, not by its name. CSV columns stay text, because the contract sets the types; a
plain CSV or Parquet file is still read lazily, some rows at a time.
"""

import csv
import io
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath

import polars as pl

from tasks.ingest.contents import (
    HEAD,
    ZIP,
    DialectError,
    beginning,
    begins,
    bytes_of,
    unpacked,
    unpacked_head,
)
from tasks.ingest.documents import LINE, flat, rows_of_json, rows_of_lines
from tasks.ingest.numbers import Notation, plain_numbers
from tasks.ingest.sheets import rows_of_excel
from tasks.ingest.text import SEPARATORS, dialect_of, rows_of_csv

_PLAIN = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".lp")
_PACKED = (".csv.gz", ".csv.zst", ".tsv.gz", ".tsv.zst", ".jsonl.gz", ".zip")
SUFFIXES = (*_PLAIN, *_PACKED, ".parquet", ".arrow", ".feather", ".xlsx", ".xls")
"""Suffixes of the files that are read from a folder."""
_OLD_EXCEL = b"\xd0\xcf\x11\xe0"
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
"""The name of the stream that holds a workbook with a password."""
_JSON, _PAGE = r"\{|\[\s*[\[{]", r"<[!?\w]|%PDF"


def is_table(path: str) -> bool:
    """Whether a file in a folder or zip is a table, by its name. Hidden files and leftovers of Excel and macOS are not."""
    parts = PurePosixPath(path.lower()).parts
    return (
        path.lower().endswith(SUFFIXES) and not parts[-1].startswith((".", "~$")) and "__macosx" not in parts
    )


def scan(
    path: str, part: str | None = None, encoding: str | None = None
) -> Iterator[tuple[str, pl.LazyFrame, Notation | None]]:
    """The tables in a file, each with a suffix for the file's name, its rows, and the notation of the numbers in its text.

    The suffix is empty, or names the member of a zip. From an Excel file it reads the sheet `part`, or the only one
    with rows; from a zip the member `part`, or all. `encoding` is that of text that is neither UTF-8 nor UTF-16. Raises
    `DialectError` for an unsupported file, and the errors of polars for a damaged one.
    """
    if path.lower().endswith(".parquet"):
        yield "", *_table(path, b"PAR1")
        return
    head = beginning(path)
    if head.startswith((ZIP, _OLD_EXCEL)):
        yield from _packed(bytes_of(path), part, encoding)
    else:
        yield "", *_table(path, head, encoding)


def dialect_in_words(path: str, encoding: str | None = None) -> str:
    """A description of how a file is written, such as `CSV, semicolon, cp1252, decimal comma`."""
    head = beginning(path)
    kinds = {b"PAR1": "Parquet", b"ARROW1": "Arrow", ZIP: "zip or Excel", _OLD_EXCEL: "Excel"}
    for begin, kind in kinds.items():
        if head.startswith(begin):
            return kind
    text = unpacked_head(path, head)
    suffix = "" if text is head else ", compressed"
    if begins(text, _JSON):
        return f"JSON{suffix}"
    if begins(text, LINE):
        return f"InfluxDB line protocol{suffix}"
    dialect = dialect_of(text, encoding)
    ends = ", lines end with CR" if dialect.line_end == "\r" else ""
    comma = (
        ", decimal comma" if rows_of_csv(path, text, encoding, is_packed=text is not head)[1].pointed else ""
    )
    before = f", {dialect.before} lines before the header" if dialect.before else ""
    separator = "blanks" if dialect.blanks else SEPARATORS[dialect.separator]
    return f"CSV{suffix}, {separator}, {dialect.encoding}{comma}{ends}{before}"


def longest_line(path: str) -> int | None:
    """The number of the first line of a CSV file with more fields than the header; None without one, and for a zip."""
    content = unpacked(path)
    if content.startswith(ZIP):
        return None
    text = dialect_of(content[:HEAD], "cp1252")
    lines = io.StringIO(content.decode(text.encoding, "replace"), newline="")
    rows = csv.reader(
        lines, delimiter=text.separator, quoting=csv.QUOTE_MINIMAL if text.is_quoted else csv.QUOTE_NONE
    )
    return next(
        (rows.line_num for row in rows if rows.line_num > text.before and len(row) > len(text.names)), None
    )


def _table(
    source: str | bytes, head: bytes, encoding: str | None = None
) -> tuple[pl.LazyFrame, Notation | None]:
    """The rows of a file and the notation of the numbers in its text. `source` is an address or the content, `head` its
    beginning."""
    if head.startswith(b"PAR1"):
        return plain_numbers(flat(pl.scan_parquet(source, glob=False)), has_points=True)
    if head.startswith(b"ARROW1"):
        return plain_numbers(flat(pl.scan_ipc(source, glob=False)), has_points=True)
    if head.startswith(b"Obj\x01"):
        raise DialectError("this is an Avro file. For Avro, expected the folder of an Event Hubs Capture.")
    text = unpacked_head(source, head)
    if begins(text, _JSON):
        return plain_numbers(rows_of_json(source, text), has_points=True)
    if begins(text, _PAGE):
        raise DialectError("this is HTML, XML or PDF. Expected a table. Save it as CSV or .xlsx.")
    if begins(text, LINE):
        return rows_of_lines(unpacked(source)), None
    return rows_of_csv(source, text, encoding, is_packed=text is not head)


def _packed(
    content: bytes, part: str | None, encoding: str | None
) -> Iterator[tuple[str, pl.LazyFrame, Notation | None]]:
    """The tables in the content of a zip or an Excel file, as `scan` yields them."""
    is_old = content.startswith(_OLD_EXCEL)
    if is_old and _ENCRYPTED in content:
        raise DialectError(
            "this Excel file needs a password. Expected one without. Save it without a password."
        )
    if is_old or "xl/workbook.xml" in _zip(content).namelist():
        yield "", *plain_numbers(rows_of_excel(content, part))
    else:
        yield from _members(content, part, encoding)


def _members(
    content: bytes, part: str | None, encoding: str | None
) -> Iterator[tuple[str, pl.LazyFrame, Notation | None]]:
    """The tables in a zip by name, as `scan` yields them, without members that are not tables by their names."""
    archive = _zip(content)
    tables = sorted(name for name in archive.namelist() if is_table(name))
    names = [name for name in tables if part in (None, name)]
    if not names:
        hint = (
            f"'{part}' among them" if part else f"a file that ends in {', '.join(SUFFIXES[:2])} or the like"
        )
        tables_in_zip = f"the tables {', '.join(tables)}" if tables else "no table"
        raise DialectError(f"this zip holds {tables_in_zip}. Expected {hint}.")
    for name in names:
        member = archive.read(name)
        if not member:
            raise pl.exceptions.NoDataError(name)
        if member.startswith((ZIP, _OLD_EXCEL)):
            for below, rows, notation in _packed(member, None, encoding):
                yield f"/{name}{below}", rows, notation
        else:
            yield f"/{name}", *_table(member, member[:HEAD], encoding)


def _zip(content: bytes) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(content))
    except zipfile.BadZipFile as error:
        raise DialectError(f"this zip is damaged: {error}.") from None
