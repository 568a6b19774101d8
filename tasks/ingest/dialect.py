"""What a file is, before what it says: format, compression, encoding, separator, line ends, decimal comma.

A file is known by its first bytes, not by its name. CSV columns stay text, since types are the
contract's business; a plain CSV or Parquet file is still read lazily, some rows at a time.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import obstore
import polars as pl
from polars import selectors

from models.contracts import Decimals
from models.errors import AlmanacError
from tasks.storage.uris import is_remote, object_store

_PLAIN = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
_PACKED = (".csv.gz", ".csv.zst", ".tsv.gz", ".tsv.zst", ".jsonl.gz", ".zip")
SUFFIXES = (*_PLAIN, *_PACKED, ".parquet", ".arrow", ".feather", ".xlsx", ".xls")
"""Ends of the names of files that are read from a folder."""
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_HEAD = 1 << 20
_LINES = 200
_ZIP, _GZIP, _ZSTD = b"PK\x03\x04", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_OLD_EXCEL = b"\xd0\xcf\x11\xe0"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_JSON, _PAGE = r"\{|\[\s*[\[{]", r"<[!?\w]|%PDF"
_THOUSANDS = r"[. '\x{a0}\x{202f}]"
_DECIMAL_COMMA = rf"^\s*[+-]?(\d+|\d{{1,3}}({_THOUSANDS}\d{{3}})+),\d+\s*$"
_WHOLE = rf"^\s*[+-]?\d{{1,3}}({_THOUSANDS}\d{{3}})+\s*$"
_EITHER = r"^\s*[+-]?[1-9]\d{0,2}\.\d{3}\s*$"
_NUMBER = r"\s*[+-]?\d+(\.\d*)?\s*"
_POINTS = r"^\s*[+-]?\d*\.\d+\s*$"

Encoding = Literal["utf-8", "utf-16", "cp1252"]


class DialectError(AlmanacError):
    """The file is of a kind that is not read, or could be read in more than one way."""


@dataclass(frozen=True)
class Text:
    """How the text of a CSV file is written. `names` are those of its header, as they stand there.

    `before` are lines before the header, such as a title or `sep=;`. `decimals` are the positions of columns with
    decimal commas, `either` of those with numbers such as 1.234 that show neither a decimal comma nor a decimal point;
    `points` is whether other columns show decimal points. `blanks` divide the values where no separator does. A file
    whose first line is all numbers is `headless`: its columns are `column 1`, `column 2`, ...
    """

    encoding: Encoding
    separator: str
    line_end: str
    decimals: tuple[int, ...]
    annotated: bool
    names: tuple[str, ...]
    before: int = 0
    either: tuple[int, ...] = ()
    points: bool = False
    blanks: bool = False
    headless: bool = False

    @property
    def decimal_comma(self) -> bool:
        return bool(self.decimals)

    @property
    def pointed(self) -> frozenset[str]:
        """Names of the columns with decimal commas, whose rows have decimal points."""
        return frozenset(self.names[i].strip() for i in self.decimals)

    @property
    def shown(self) -> Decimals | None:
        """What the file shows of how its decimals are written."""
        return "comma" if self.decimal_comma else "point" if self.points or self.separator == "," else None


def scan(path: str, sheet: str | None = None) -> Iterator[tuple[str, pl.LazyFrame, Text | None]]:
    """The tables in a file: what to add to the file's name (nothing, or the member of a zip), the rows, how text is written.

    Of an Excel file the `sheet`, or the one that has rows. Raises `DialectError` for what is not read, and what polars
    raises for a damaged file.
    """
    if path.lower().endswith(".parquet"):
        yield "", pl.scan_parquet(path, glob=False), None
        return
    head = _beginning(path)
    if head.startswith((_ZIP, _OLD_EXCEL)):
        content = _content(path)
        if head.startswith(_OLD_EXCEL) or "xl/workbook.xml" in _zip(content).namelist():
            yield "", _excel(content, sheet), None
            return
        yield from _members(content)
        return
    yield "", *_table(path, head)


def _table(source: str | bytes, head: bytes) -> tuple[pl.LazyFrame, Text | None]:
    """The rows of a file, an address or its content, that begins with `head`; and how its text is written."""
    if head.startswith(b"PAR1"):
        return pl.scan_parquet(source, glob=False), None
    if head.startswith(b"ARROW1"):
        return pl.scan_ipc(source, glob=False), None
    if head.startswith(b"Obj\x01"):
        raise DialectError("this is an Avro file. Expected the folder of an Event Hubs Capture for Avro.")
    text = _unpacked(source, head)
    if _begins(text, _JSON):
        return _json(source, text), None
    if _begins(text, _PAGE):
        raise DialectError("this is HTML, XML or PDF. Expected a table. Save it as CSV or .xlsx.")
    return _csv(source, text, packed=text is not head)


def dialect_of(head: bytes) -> Text:
    """How the text that begins with `head` is written.

    The separator is the one of four that gives the header the most fields among those that split
    the first lines most evenly. A file has decimal commas where it has another separator and a value
    such as 1,5. Text that is no UTF-8 is Windows-1252, of which Latin-1 is a part.

    >>> dialect_of(b"sku;units\\nA;1,5\\n").separator
    ';'
    """
    encoding = _encoding(head)
    text = head.decode("utf-8-sig" if encoding == "utf-8" else encoding, "ignore")
    if "\0" in text:
        raise DialectError(
            "this is a binary file. Expected CSV, Parquet, Excel, JSON lines, Arrow, or a zip."
        )
    line_end = "\r" if "\r" in text and "\n" not in text else "\n"
    cut = len(head) >= _HEAD
    written = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    before = _before_header(written) if line_end == "\n" else 0
    lines = [line for line in written[before:] if line]
    lines = lines[: -1 if cut and len(lines) > 1 else None][:_LINES]
    annotated = bool(lines) and lines[0].startswith(("#group", "#datatype", "#default"))
    if annotated:
        lines = [line for line in lines if not line.startswith("#")]
    separator = max(SEPARATORS, key=lambda one: _fit(lines, one))
    blanks = _has_blanks(lines)
    rows = [line.split() for line in lines] if blanks else _split(lines, separator)
    names = tuple(rows[0]) if rows else ()
    headless = len(names) > 1 and all(re.fullmatch(_NUMBER, name) for name in names)
    if headless:
        names = tuple(f"column {n}" for n in range(1, len(names) + 1))
    columns = [
        pl.Series([row[i] for row in rows[1:] if len(row) > i], dtype=pl.String) for i in range(len(names))
    ]
    decimals = [i for i, values in enumerate(columns) if values.str.contains(_DECIMAL_COMMA).any()]
    commas = tuple(decimals) if separator != "," else ()
    pointed = [i for i, values in enumerate(columns) if values.str.contains(_POINTS).any()]
    either = tuple(i for i in pointed if columns[i].str.contains(rf"{_EITHER}|^\s*[+-]?\d{{0,3}}\s*$").all())
    points = len(pointed) > len(either)
    return Text(
        encoding, separator, line_end, commas, annotated, names, before, either, points, blanks, headless
    )


def _has_blanks(lines: Sequence[str]) -> bool:
    """Whether blanks divide the values: all lines have as many of them, two or more, and no separator."""
    many = {len(line.split()) for line in lines}
    return len(many) == 1 and many != {1} and not any(c in line for line in lines for c in (*SEPARATORS, '"'))


def _before_header(lines: Sequence[str]) -> int:
    """How many lines of a CSV file stand before its header: the line of Excel that names the separator, and such as have
    no separator where a later one has."""
    first = next((n for n, line in enumerate(lines[:_LINES]) if line.strip()), 0)
    if lines[first].lower().startswith("sep="):
        return first + 1
    split = (n for n, line in enumerate(lines[:_LINES]) if any(one in line for one in SEPARATORS))
    return next(split, 0)


def dialect_in_words(path: str) -> str:
    """How a file is written, for people, such as `CSV, semicolon, cp1252, decimal comma`."""
    head = _beginning(path)
    kinds = {b"PAR1": "Parquet", b"ARROW1": "Arrow", _ZIP: "zip or Excel", _OLD_EXCEL: "Excel"}
    for begin, kind in kinds.items():
        if head.startswith(begin):
            return kind
    text = _unpacked(path, head)
    packed = "" if text is head else ", compressed"
    if _begins(text, _JSON):
        return f"JSON{packed}"
    found = dialect_of(text)
    ends = ", lines end with CR" if found.line_end == "\r" else ""
    comma = ", decimal comma" if found.decimal_comma else ""
    before = f", {found.before} lines before the header" if found.before else ""
    separator = "blanks" if found.blanks else SEPARATORS[found.separator]
    return f"CSV{packed}, {separator}, {found.encoding}{comma}{ends}{before}"


def _begins(head: bytes, pattern: str) -> bool:
    """Whether text begins with `pattern`, in whatever encoding."""
    return bool(re.match(rf"\ufeff?\s*(?:{pattern})", head[:1000].decode(_encoding(head), "ignore")))


def _fit(lines: Sequence[str], separator: str) -> tuple[bool, float, int]:
    """How well a separator splits lines: whether the header has it, the share of lines alike, and its fields."""
    rows = _split(lines, separator)
    if not rows or len(rows[0]) < 2:
        return False, 0.0, 0
    return True, sum(len(row) == len(rows[0]) for row in rows) / len(rows), len(rows[0])


def _split(lines: Sequence[str], separator: str) -> list[list[str]]:
    try:
        return list(csv.reader(lines, delimiter=separator))
    except csv.Error:
        return [line.split(separator) for line in lines]


def _encoding(head: bytes) -> Encoding:
    if head.startswith(_UTF16):
        return "utf-16"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        cut = len(head) >= _HEAD and error.start >= len(head) - 4
        return "utf-8" if cut else "cp1252"
    return "utf-8"


def _csv(source: str | bytes, head: bytes, *, packed: bool) -> tuple[pl.LazyFrame, Text]:
    text = dialect_of(head)
    if text.encoding != "utf-8":
        try:
            source = _plain(source).decode(text.encoding).encode()
        except UnicodeDecodeError as error:
            raise DialectError(f"this is no text in {text.encoding}: {error.reason}.") from None
    if text.annotated and not packed:
        content = _content(source) if isinstance(source, str) else source
        blocks = _blocks(content)
        if len(blocks) > 1:
            return pl.concat([_csv(block, block, packed=False)[0] for block in blocks], how="diagonal"), text
    if text.blanks:
        source = b"".join(b",".join(line.split()) + b"\n" for line in _plain(source).splitlines())
    names = [name.strip().removeprefix("\ufeff") for name in text.names]
    _refuse_twice(names)
    frame = pl.scan_csv(
        source,
        separator=text.separator,
        eol_char=text.line_end,
        comment_prefix="#" if text.annotated else None,
        infer_schema=False,
        glob=False,
        null_values=[""],
        truncate_ragged_lines=False,
        skip_lines=text.before,
        has_header=not text.headless,
        new_columns=text.names if text.headless else None,
    )
    return _tidy(frame, text), text


def _tidy(frame: pl.LazyFrame, text: Text) -> pl.LazyFrame:
    """Without empty rows and columns that have no name; names without blanks at their ends, decimal points for commas."""
    found = frame.collect_schema().names()
    blank = {name for name, stated in zip(found, text.names, strict=False) if not stated.strip()}
    index = {found[0]} if found and found[0].startswith("Unnamed: 0") else set()
    kept = [name for name in found if name not in blank | index]
    frame = frame.select(kept).rename({name: name.strip() for name in kept if name != name.strip()})
    frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
    if text.annotated and kept:
        frame = frame.filter(pl.col(kept[0].strip()).ne_missing(kept[0].strip()))
    return frame.with_columns(pointed(name) for name in frame.collect_schema() if name in text.pointed)


def pointed(name: str) -> pl.Expr:
    """A column of numbers as text with decimal points in the place of commas; 1.234 is a thousand and more.

    Not to be called again on what it returns: 1,234 is 1.234 by then.
    """
    column = pl.col(name)
    plain = column.str.strip_chars().str.replace_all(_THOUSANDS, "").str.replace(",", ".", literal=True)
    return (
        pl.when(column.str.contains(f"{_DECIMAL_COMMA}|{_WHOLE}")).then(plain).otherwise(column).alias(name)
    )


def _blocks(content: bytes) -> list[bytes]:
    """Annotated CSV by its headers: what stands below each of them, wherever it is in the file."""
    blocks: dict[bytes, list[bytes]] = {}
    header, below = b"", False
    for line in content.removeprefix(b"\xef\xbb\xbf").splitlines():
        if line.startswith(b"#"):
            below = False
        elif line.strip() and not below:
            header, below = line, True
            blocks.setdefault(header, [])
        elif line.strip():
            blocks[header].append(line)
    return [b"\n".join([header, *lines, b""]) for header, lines in blocks.items()]


def _refuse_twice(names: Sequence[str]) -> None:
    """Raise `DialectError` where a header has a name twice."""
    twice = [a for a, b in pairwise(sorted(names)) if a == b and a]
    if twice:
        raise DialectError(
            f"column '{twice[0]}' is there twice. Expected each name once. Remove or rename one of the two."
        )


def _json(source: str | bytes, head: bytes) -> pl.LazyFrame:
    """JSON, one object a line, a list of them or of lists of them, or one document.

    Members of members are named `outer.inner`. The rows of a document are the objects of its one list of objects, each
    beside its other members.
    """
    encoding = _encoding(head)
    if encoding != "utf-8" or head.startswith(codecs.BOM_UTF8):
        source = head = _plain(source).decode(encoding).removeprefix("\ufeff").encode()
    if _begins(head, r"\[") or _is_document(head):
        frame = _of_document(pl.read_json(_rows_of(_plain(source)), infer_schema_length=None)).lazy()
    else:
        frame = pl.scan_ndjson(source, infer_schema_length=None)
    while nested := [n for n, dtype in frame.collect_schema().items() if isinstance(dtype, pl.Struct)]:
        frame = frame.unnest(nested, separator=".")
    return frame


def _is_document(head: bytes) -> bool:
    """Whether JSON that begins with an object is that object alone, written over several lines or on one."""
    lines = [line for line in head.splitlines() if line.strip()]
    if len(lines) == 1:
        return True
    try:
        json.loads(lines[0])
    except ValueError:
        return True
    return False


def _rows_of(content: bytes) -> io.BytesIO:
    """A document of JSON, of lists in a list their objects, of columns by row number, as pandas writes them, the rows."""
    if _begins(content, r"\[\s*\["):
        content = json.dumps([row for rows in json.loads(content) for row in rows]).encode()
    elif _begins(content, r'\{\s*"[^"]*"\s*:\s*\{\s*"0"\s*:'):
        columns = json.loads(content)
        rows = [{name: cells.get(n) for name, cells in columns.items()} for n in next(iter(columns.values()))]
        content = json.dumps(rows).encode()
    return io.BytesIO(content)


def _of_document(rows: pl.DataFrame) -> pl.DataFrame:
    if rows.height != 1:
        return rows
    lists = [n for n, d in rows.schema.items() if isinstance(d, pl.List) and isinstance(d.inner, pl.Struct)]
    if len(lists) != 1:
        return rows
    inner = rows.explode(lists[0])
    names = {*inner[lists[0]].struct.fields}
    return inner.drop(names & {*rows.columns} - {lists[0]}).unnest(lists[0])


def _excel(content: bytes, sheet: str | None = None) -> pl.LazyFrame:
    """A sheet of an Excel file, or the one with rows. Raises `DialectError` where there is none or several."""
    sheets = _sheets(content)
    filled = {name: frame for name, frame in sheets.items() if any(column.count() for column in frame)}
    chosen = [name for name in filled if sheet in (None, name)]
    if len(chosen) != 1:
        wanted = "one" if sheet is None else f"'{sheet}' among them"
        way = f" Name it behind the file, such as sales.xlsx#{next(iter(filled))}." if filled else ""
        listed = f": {', '.join(filled)}" if filled else ""
        raise DialectError(
            f"this Excel file has {len(filled)} sheets with rows{listed}. Expected {wanted}.{way}"
        )
    frame = filled[chosen[0]]
    if before := _rows_before_header(frame):
        frame = _sheets(content, header_row=before)[chosen[0]]
    frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
    frame = frame.drop(selectors.starts_with("__UNNAMED__") | selectors.starts_with("Unnamed: 0"))
    names = {name: name.strip() for name in frame.columns}
    _refuse_twice(list(names.values()))
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


def _rows_before_header(sheet: pl.DataFrame) -> int:
    """How many rows of a sheet, such as a title, stand before the first that has a value in most of its columns."""
    full = (
        sheet.with_columns(pl.all().cast(pl.String))
        .select(pl.sum_horizontal(pl.all().is_not_null()))
        .to_series()
    )
    named = sum(not name.startswith("__UNNAMED__") for name in sheet.columns)
    if 2 * named > sheet.width or sheet.width < 3:
        return 0
    return int((2 * full > sheet.width).arg_max() or 0) + 1


def _members(content: bytes) -> Iterator[tuple[str, pl.LazyFrame, Text | None]]:
    """The tables in a zip, by name, as of `scan`; what is not a table by its name is left out."""
    archive = _zip(content)
    names = sorted(
        n for n in archive.namelist() if n.lower().endswith(SUFFIXES) and not n.startswith("__MACOSX")
    )
    if not names:
        raise DialectError(
            f"this zip holds no table. Expected a file that ends in {', '.join(SUFFIXES[:3])} or so."
        )
    for name in names:
        member = archive.read(name)
        if not member:
            raise pl.exceptions.NoDataError(name)
        if member.startswith(_ZIP):
            yield f"/{name}", _excel(member), None
        else:
            yield f"/{name}", *_table(member, member[:_HEAD])


def _zip(content: bytes) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(content))
    except zipfile.BadZipFile as error:
        raise DialectError(f"this zip is damaged: {error}.") from None


def _unpacked(source: str | bytes, head: bytes) -> bytes:
    """The beginning of what is compressed in a file; of a plain one, `head`."""
    if head.startswith(_GZIP):
        return zlib.decompressobj(wbits=31).decompress(head, _HEAD)
    if not head.startswith(_ZSTD):
        return head
    lines = pl.scan_csv(
        source, has_header=False, separator="\x01", quote_char=None, infer_schema=False, glob=False
    ).head(_LINES)
    return "\n".join(lines.collect().to_series().fill_null("").to_list()).encode()


def _plain(source: str | bytes) -> bytes:
    """The whole content of a file, unpacked. Raises `DialectError` for what is compressed with zstd."""
    content = _content(source) if isinstance(source, str) else source
    if content.startswith(_ZSTD):
        raise DialectError(
            "this is compressed with zstd. Expected CSV in UTF-8 or JSON lines inside, or gzip."
        )
    return gzip.decompress(content) if content.startswith(_GZIP) else content


def _beginning(path: str) -> bytes:
    if not is_remote(path):
        with Path(path).open("rb") as file:
            return file.read(_HEAD)
    folder, _, name = path.rpartition("/")
    size = int(obstore.head(object_store(folder), name)["size"])
    return (
        bytes(obstore.get_range(object_store(folder), name, start=0, end=min(size, _HEAD))) if size else b""
    )


def _content(path: str) -> bytes:
    if not is_remote(path):
        return Path(path).read_bytes()
    folder, _, name = path.rpartition("/")
    return bytes(obstore.get(object_store(folder), name).bytes())
