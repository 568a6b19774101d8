"""CSV: separator, line ends, decimal comma, and text before and beside the table."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from statistics import mode

import polars as pl

from models.contracts import UNKNOWN
from tasks.ingest.contents import HEAD, LINES, DialectError, bytes_of, encoding_of_text, unpacked
from tasks.ingest.numbers import Notation, plain_numbers, where

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_WRAPPED = r"""^(?:="(.*)"|'(\d.*)|\s+(.*))$"""
_TOP = 30
"""The header is among this many lines."""
_MOST_BELOW = 3
"""The most lines of units and the like below a header."""
WEEK = r"(?i)(?:w|kw|cw|wk|week)[ .-]?\d{1,2}"
"""The name of a week without its year."""
_YEAR = r"(?i)\s*(?:year|jahr|fy)?\s*((?:19|20)\d\d)\s*"
_RULE = r"\s*(?:[-+]{2,})?\s*"
"""A cell of the line that SQL consoles and SAP write below a header."""
_DECIMAL = r"[+-]?[\d.,]+"
_NUMBER = r"\s*[+-]?\d+(\.\d*)?\s*"
_TIME = r"\s*(\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ]\S+)?|\d{1,2}:\d\d(:[\d.]+)?)\s*"


@dataclass(frozen=True)
class Text:
    """How the text of a CSV file is written. `names` are the names in its header, unchanged unless `is_renamed`.

    `before` is the number of lines before the header, such as a title or `sep=;`. `wrapped_columns` are the positions
    of columns whose values all begin or end with a blank, are padded with blanks to one length, or look like ="007"
    or '007, which spreadsheets treat as text. With `blanks`, blanks separate the values. In a `headless` file the first
    line holds values; its columns are `column 1`, `column 2`, ... Unless `is_quoted`, quotes in values are marks, for
    example for inches. Rows `overhang` the header if a separator ends each of them. `below` is the number of lines of
    hyphens or units below the header.
    """

    encoding: str
    separator: str
    line_end: str
    is_annotated: bool
    names: tuple[str, ...]
    before: int = 0
    blanks: bool = False
    headless: bool = False
    is_renamed: bool = False
    is_quoted: bool = True
    overhang: bool = False
    below: int = 0
    wrapped_columns: tuple[int, ...] = ()


def dialect_of(head: bytes, encoding: str | None = None) -> Text:
    """How the text that begins with `head` is written.

    Of four separators, it takes the one that splits the first lines most evenly; of equals, the one that gives the
    header the most fields. `encoding` is that of text that is neither UTF-8 nor UTF-16, by default Windows-1252, which
    includes Latin-1.

    >>> dialect_of(b"sku;units\\nA;1,5\\n").separator
    ';'
    """
    encoding, text = _decoded(head, encoding)
    line_end = "\r" if "\r" in text and "\n" not in text else "\n"
    every = _lines(text, complete=len(head) < HEAD)
    before = _before_header(every) if line_end == "\n" else 0
    lines = [line for line in every[before:] if line][:LINES]
    is_annotated = bool(lines) and lines[0].startswith(("#group", "#datatype", "#default"))
    if is_annotated:
        lines = [line for line in lines if not line.startswith("#")]
    separator = max(SEPARATORS, key=lambda one: _fit(lines, one))
    blanks = _has_blanks(lines)
    is_quoted = not _has_stray_quotes(every[before:], separator)
    rows = [line.split() for line in lines] if blanks else _split(lines, separator, is_quoted=is_quoted)
    title = header_of(rows) if line_end == "\n" and not is_annotated else 0
    if title and len(_split(lines[:title], separator)) == title:
        before, rows = every.index(lines[title], before), rows[title:]
    below = lines_below(rows)
    rows = rows[:1] + rows[1 + below :]
    header = tuple(rows[0]) if rows else ()
    names, headless, overhang = _names(header, _split(every[:before], separator), rows[1:])
    is_renamed = names != header or not is_quoted or any('"' in name for name in names)
    return Text(
        encoding,
        separator,
        line_end,
        is_annotated,
        names,
        before,
        blanks,
        headless,
        is_renamed=is_renamed,
        is_quoted=is_quoted,
        overhang=overhang,
        below=below,
        wrapped_columns=_wrapped(_columns(rows[1:], len(names))),
    )


def _decoded(head: bytes, encoding: str | None) -> tuple[str, str]:
    """The encoding of `head`, and its text; see `dialect_of`. Raises `DialectError` if it is no text."""
    encoding = encoding_of_text(head, encoding)
    text = head.decode("utf-8-sig" if encoding == "utf-8" else encoding, "ignore")
    if "\0" in text:
        raise DialectError(
            "this is a binary file. Expected CSV, Parquet, Excel, JSON lines, Arrow, or a zip."
        )
    return encoding, text


def _names(
    header: tuple[str, ...], above: Sequence[Sequence[str]], rows: Sequence[Sequence[str]]
) -> tuple[tuple[str, ...], bool, bool]:
    """The names of the columns, whether the header is a row of data, and whether `rows` end in one more, empty cell.

    `above` are the rows before the header, which may name groups of columns or their years. If all of them begin with #,
    they are comments, and so does the header.
    """
    names = tuple(with_groups(above, with_years(above, header)))
    if above and names and all(row[0].startswith("#") for row in above if row):
        names = (names[0].removeprefix("#"), *names[1:])
    headless = len(names) > 1 and _is_data(names, rows[0] if rows else ())
    overhang = len(rows) > 0 and all(len(row) == len(names) + 1 and not row[-1] for row in rows)
    names = (*names, "") if overhang else names
    if headless:
        names = tuple(f"column {n}" for n in range(1, len(names) + 1))
    return names, headless, overhang


def _lines(text: str, *, complete: bool) -> list[str]:
    """The lines of `text`, without the last one if the text is not `complete`."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if complete or len(lines) == 1 else lines[:-1]


def _columns(rows: Sequence[Sequence[str]], width: int) -> pl.DataFrame:
    """The first `width` cells of each row, as columns named by position."""
    columns = {str(i): [row[i] if len(row) > i else None for row in rows] for i in range(width)}
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def _wrapped(columns: pl.DataFrame) -> tuple[int, ...]:
    """Positions of the `wrapped_columns`; see `Text`."""
    values = pl.all().replace("", None)
    is_padded = (pl.all().str.len_chars().n_unique() == 1) | values.str.ends_with(" ").all()
    is_wrapped = values.str.contains(_WRAPPED).all() | is_padded & pl.all().str.ends_with(" ").any()
    return where(columns, is_wrapped & values.is_not_null().any())


def rows_of_csv(
    source: str | bytes, head: bytes, encoding: str | None = None, *, is_packed: bool
) -> tuple[pl.LazyFrame, Notation]:
    """The rows of a CSV file, all columns text, and the notation of its numbers.

    `source` is an address or the content, which begins with `head`; `encoding` as for `dialect_of`. Raises `DialectError`
    if the text does not fit its encoding, or if a name occurs twice in the header.
    """
    text = dialect_of(head, encoding)
    if text.encoding != "utf-8":
        try:
            source = unpacked(source).decode(text.encoding).encode()
        except UnicodeDecodeError as error:
            raise DialectError(f"this is not text in {text.encoding}: {error.reason}.") from None
    if text.is_annotated and not is_packed:
        content = bytes_of(source) if isinstance(source, str) else source
        blocks = _blocks(content)
        if len(blocks) > 1:
            tables = [rows_of_csv(block, block, is_packed=False) for block in blocks]
            return pl.concat([rows for rows, _ in tables], how="diagonal"), tables[0][1]
    if text.blanks:
        source = b"".join(b",".join(line.split()) + b"\n" for line in unpacked(source).splitlines())
    names = [name.strip().removeprefix("\ufeff") for name in text.names]
    refuse_twice(names)
    frame = pl.scan_csv(
        source,
        separator=text.separator,
        quote_char='"' if text.is_quoted else None,
        eol_char=text.line_end,
        comment_prefix="#" if text.is_annotated else None,
        infer_schema=False,
        glob=False,
        null_values=[""],
        truncate_ragged_lines=False,
        skip_lines=text.before + (1 + text.below if text.overhang else 0),
        skip_rows_after_header=text.below,
        has_header=not (text.headless or text.overhang),
        new_columns=[name or f"column {n}" for n, name in enumerate(text.names)] if text.is_renamed else None,
    )
    rows, has_commas = _tidy(frame, text), text.separator == ","
    return plain_numbers(rows, commas=not has_commas, has_points=has_commas)


def _tidy(frame: pl.LazyFrame, text: Text) -> pl.LazyFrame:
    """`frame` without empty rows, repeated headers and nameless columns, and without blanks around names."""
    names = frame.collect_schema().names()
    blank = {name for name, header in zip(names, text.names, strict=False) if not header.strip()}
    index = {names[0]} if names and names[0].startswith("Unnamed: 0") else set()
    columns = [name for name in names if name not in blank | index]
    frame = frame.select(columns)
    if len(columns) > 1 or text.is_annotated:
        frame = frame.filter(
            ~pl.all_horizontal(pl.col(name).str.strip_chars("\ufeff").eq_missing(name) for name in columns)
        )
    frame = frame.rename({name: name.strip() for name in columns if name != name.strip()})
    frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
    if not text.is_quoted:
        frame = frame.with_columns(pl.all().str.replace('^"(.*)"$', "${1}").str.replace_all('""', '"'))
    wrapped_names = {text.names[i].strip() for i in text.wrapped_columns} & {*frame.collect_schema()}
    return (
        frame.with_columns(pl.col(*wrapped_names).str.replace(_WRAPPED, "${1}${2}${3}").str.strip_chars_end())
        if wrapped_names
        else frame
    )


def refuse_twice(names: Sequence[str]) -> None:
    """Raise `DialectError` if a name occurs twice in a header."""
    twice = [a for a, b in pairwise(sorted(names)) if a == b and a]
    if twice:
        raise DialectError(
            f"column '{twice[0]}' appears twice. Expected each name once. Remove or rename one of the two."
        )


def header_of(rows: Sequence[Sequence[str | None]]) -> int:
    """Index of the header among the first rows of a table: the fullest row above the first one with numbers.

    A row that is mostly empty is a title or a note; a row of years belongs to the weeks below it. The first column does
    not count, because an index has no name. Of comments, which begin with #, the last one counts.
    """
    rows = rows[:_TOP]
    if not rows:
        return 0
    width = mode(len(row) for row in rows)
    full = [sum(bool(cell and cell.strip()) for cell in row[1:]) for row in rows]
    table = [i for i, count in enumerate(full) if 2 * count >= width - 1]
    above = _above_numbers(rows, [i for i in table if full[i] < width]) or _above_numbers(rows, table)
    years = [sum(re.fullmatch(_YEAR, cell or "") is not None for cell in row) for row in rows]
    first = [bool(row and (row[0] or "").strip()) for row in rows]
    comments = [i if row and (row[0] or "").startswith("#") else 0 for i, row in enumerate(rows)]
    return max(above or table[:1] or [0], key=lambda i: (years[i] < 2, full[i], first[i], comments[i]))


def _above_numbers(rows: Sequence[Sequence[str | None]], some: Sequence[int]) -> list[int]:
    """Those of `some` rows, by index, that are above the first one with numbers."""
    first = next((i for i in some if any(_is_number(cell) for cell in rows[i])), 0)
    return [i for i in some if i < first]


def lines_below(rows: Sequence[Sequence[str | None]]) -> int:
    """Number of lines below the header, the first of `rows`, that hold hyphens or units such as mm/s instead of values.

    A line of units has text above numbers, and text without digits above a column such as times, whose values all have
    digits.

    >>> lines_below([["time", "speed"], ["UTC", "mm/s"], ["2024-01-01", "1.5"]])
    1
    """
    count = 0
    while len(rows) > count + 2 and count < _MOST_BELOW and _is_below(rows[count + 1], rows[count + 2 :]):
        count += 1
    return count


def _is_below(row: Sequence[str | None], values: Sequence[Sequence[str | None]]) -> bool:
    cells = [(cell or "").strip() for cell in row]
    if any(cells) and all(re.fullmatch(_RULE, cell) for cell in cells):
        return True
    columns = list(zip_longest(*(values[_MOST_BELOW:] or values[-1:]), fillvalue=""))
    if len(columns) != len(cells):
        return False
    texts = [[value.strip() for value in column if value] for column in columns]
    digits = [bool(column) and all(re.search(r"\d", value) for value in column) for column in texts]
    numbers = [bool(column) and all(re.fullmatch(_DECIMAL, value) for value in column) for column in texts]
    labels = [
        cell
        for cell, is_digits, is_number in zip(cells, digits, numbers, strict=True)
        if is_digits and not is_number
    ]
    units = [cell for cell, is_number in zip(cells, numbers, strict=True) if is_number]
    return (
        bool(labels)
        and not any(re.search(r"\d", cell) for cell in labels)
        and any(units)
        and not any(re.match(r"[+-]?[.,]?\d", cell) or (cell and cell.lower() in UNKNOWN) for cell in units)
    )


def _is_data(names: Sequence[str], row: Sequence[str]) -> bool:
    """Whether the first line holds values: all are numbers or times, or one is a number and the next `row` repeats a
    text."""
    numbers = [re.fullmatch(_NUMBER, name) is not None for name in names]
    if any(numbers) and all(numbers[i] or re.fullmatch(_TIME, name) for i, name in enumerate(names)):
        return True
    repeats = any(
        name == cell and re.search(r"[^\W\d_]", name) for name, cell in zip(names, row, strict=False)
    )
    return repeats and any(_is_number(name) for name in names)


def _is_number(cell: str | None) -> bool:
    """Whether a cell begins like a number. A year does not count: it may stand above a header."""
    return re.match(r"\s*[+-]?\d", cell or "") is not None and re.fullmatch(_YEAR, cell or "") is None


def with_years(above: Sequence[Sequence[str | None]], names: Sequence[str]) -> list[str]:
    """`names` of a header; weeks with the year from a line above them, in a merged cell the next year to the left.

    A column without a name takes the one in the line of years.

    >>> with_years([["sku", "2023", "", "2024"]], ["", "KW51", "KW52", "KW1"])
    ['sku', '2023 KW51', '2023 KW52', '2024 KW1']
    """
    line = next(
        (line for line in reversed(above) if any(re.fullmatch(_YEAR, cell or "") for cell in line)), None
    )
    if line is None:
        return list(names)
    year, result = "", []
    for name, cell in zip_longest(names, line[: len(names)], fillvalue=""):
        match = re.fullmatch(_YEAR, cell or "")
        year = match[1] if match else year
        is_week = year and re.fullmatch(WEEK, name.strip())
        result.append(f"{year} {name}" if is_week else name or ("" if match else cell or ""))
    return result


def with_groups(above: Sequence[Sequence[str | None]], names: Sequence[str]) -> list[str]:
    """`names` of a header; if one occurs twice, each behind the name of its group in the line above, in a merged cell.

    >>> with_groups([["", "Pump 1", "", "Pump 2", ""]], ["time", "speed", "load", "speed", "load"])
    ['time', 'Pump 1 speed', 'Pump 1 load', 'Pump 2 speed', 'Pump 2 load']
    """
    if len({*names}) == len(names) or not above or len(above[-1]) < len(names):
        return list(names)
    group, result = "", []
    for name, cell in zip(names, above[-1], strict=False):
        group = (cell or "").strip() or group
        result.append(f"{group} {name}".strip() if name else name)
    return result


def _has_blanks(lines: Sequence[str]) -> bool:
    """Whether blanks separate the values: all lines have the same number of values, at least two, and no separator."""
    many = {len(line.split()) for line in lines}
    return len(many) == 1 and many != {1} and not any(c in line for line in lines for c in (*SEPARATORS, '"'))


def _before_header(lines: Sequence[str]) -> int:
    """Number of lines before the header of a CSV file: Excel's line that names the separator, or lines without a
    separator above the first line that has one."""
    first = next((n for n, line in enumerate(lines[:LINES]) if line.strip()), 0)
    if lines[first].lower().lstrip('"').startswith("sep="):
        return first + 1
    matches = (n for n, line in enumerate(lines[:LINES]) if any(one in line for one in SEPARATORS))
    return next(matches, 0)


def _fit(lines: Sequence[str], separator: str) -> tuple[bool, float, int]:
    """How well a separator splits lines: whether the header has it, the share of lines with as many fields, and that
    number."""
    rows = _split(lines, separator)
    if not rows or len(rows[0]) < 2:
        return False, 0.0, 0
    return True, sum(len(row) == len(rows[0]) for row in rows) / len(rows), len(rows[0])


def _has_stray_quotes(lines: Sequence[str], separator: str) -> bool:
    """Whether quotes are part of values, such as 12" pan, and enclose none. Raises `DialectError` if they may be both."""
    mark = re.escape(separator)
    if not any(re.search(rf'(?:^|{mark}) *"', line) for line in lines):
        return any('"' in line for line in lines)
    stray = next((line for line in lines if re.search(rf'[^"{mark} ]" *[^"{mark} ]', line)), None)
    if stray is not None and len({line.count(separator) for line in lines if line.strip()}) > 1:
        raise DialectError(
            f"quotes both enclose values and occur inside them: {stray.strip()[:80]}. Expected quotes inside values to be "
            "doubled. Double or remove them."
        )
    return stray is not None


def _split(lines: Sequence[str], separator: str, *, is_quoted: bool = True) -> list[list[str]]:
    if not is_quoted:
        return [[re.sub('^"(.*)"$', r"\1", cell) for cell in line.split(separator)] for line in lines]
    try:
        return list(csv.reader(lines, delimiter=separator))
    except csv.Error:
        return [line.split(separator) for line in lines]


def _blocks(content: bytes) -> list[bytes]:
    """Annotated CSV by header: all rows below each header, wherever they are in the file."""
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
