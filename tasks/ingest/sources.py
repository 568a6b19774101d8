"""Reading rows from anywhere: a file of any dialect, a folder or glob of files, or a Delta table."""

import codecs
import fnmatch
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

import obstore
import polars as pl

from models.addresses import refuse_credential
from models.contracts import ROW
from models.date_order import DateOrder
from models.errors import AlmanacError
from models.layouts import SourceFile
from models.time_notations import at_offset, offset_in_name
from models.times import days
from tasks.ingest.contents import DialectError
from tasks.ingest.dialect import SUFFIXES, dialect_in_words, is_table, longest_line, scan
from tasks.ingest.numbers import Notation, plain_numbers
from tasks.storage.faults import first_line
from tasks.storage.tables import Table
from tasks.storage.uris import encoded, is_remote, object_store

_DATED = ("time", "week", "date")
_CALLED = {
    "sku": "item article product material artikel artikelnummer produkt upc ean plu 商品",  # codespell:ignore produkt
    "store": "shop outlet branch location site filiale magasin markt sklep tienda werk 店舗",
    "units": "qty quantity sold volume menge absatz stück quantité ilość cantidad 数量",
    "week": "date day datum woche semaine fecha tydzień 週",
    "time": "timestamp ts date datetime zeit zeitstempel created when t_stamp start begin störungsbeginn",
    "device": "deviceid device_id devicename asset machine equipment gateway thing host instance",
    "tag": "sensor metric measurement topic variable varname tagname tagpath point channel signal field __name__",
    "value": "reading val varvalue floatvalue payload wert mesure",  # codespell:ignore mesure
    "machine_id": "machine equipment asset unit maschine anlage device assetnum equnr",  # codespell:ignore maschine
    "component": "part failuremode failurecode assembly bauteil komponente objektteil",
    "error": "alarm code fault event fehler",
}
"""Words by which sources call a column; an error proposes it if one name contains one of them."""
_FILE, _DAY = "@file", "@date"
_DATE_IN_NAME = (
    r"(?<!\d)(?:(?:19|20)\d\d[-_. ]?(?:W|KW)\d\d|(?:W|KW)[-_ ]?\d\d[-_. ](?:19|20)\d\d|"
    r"(?:19|20)\d\d([-_.]?)\d\d\1\d\d|\d\d([-_.])\d\d\2(?:19|20)\d\d)(?!\d)"
)
_LISTED = 60
_FIRST = 20
"""The number of rows that show what a column holds."""


class SourceError(AlmanacError):
    """The source cannot be found, or lacks something that is needed."""


class UnreadableError(SourceError):
    """The source cannot be read: it is damaged, or the service that holds it does not answer."""

    is_temporary = True


@dataclass(frozen=True)
class Source(SourceFile):
    """Rows of one file or Delta table. `name` is for people, `path` the file's, `notation` that of its numbers in text."""

    notation: Notation | None = None
    path: str | None = None

    def rows(self) -> pl.DataFrame:
        """All rows. Raises `UnreadableError` if a later part of the file cannot be read."""
        try:
            return self.frame.collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UnreadableError(_unreadable(self.name, error, self.path)) from None

    def batches(self, rows: int | None) -> Iterator[pl.DataFrame]:
        """All rows, numbered by `ROW` from 1, about `rows` at a time; None: all at once. Raises the errors of `rows()`."""
        if rows is None:
            yield self.rows().with_row_index(ROW, offset=1)
            return
        try:
            yield from self.frame.with_row_index(ROW, offset=1).collect_batches(chunk_size=rows)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UnreadableError(_unreadable(self.name, error, self.path)) from None


def column_mapping(pairs: Sequence[str]) -> dict[str, str]:
    """`["week=date"]` -> `{"week": "date"}`: column of the table -> column of the source.

    A column may be named with its table, `plan.week=date`; see `of_table`.
    """
    mapping = {}
    for pair in pairs:
        column, separator, name = pair.partition("=")
        if not (separator and column and name.removeprefix("=")):
            raise SourceError(
                f"--column {pair}: expected TABLE_COLUMN=SOURCE_COLUMN, for example --column week=date."
            )
        mapping[column] = name
    return mapping


def of_table(mapping: Mapping[str, str], table: str, tables: Collection[str]) -> dict[str, str]:
    """The part of a mapping that applies to `table`, one of `tables`; an entry that names the table overrides others.

    >>> of_table({"week": "date", "plan.week": "wk", "stores.store": "shop"}, "plan", ["plan", "stores"])
    {'week': 'wk'}
    """
    general = {c: name for c, name in mapping.items() if "." not in c or c.partition(".")[0] not in tables}
    own = {c.removeprefix(f"{table}."): name for c, name in mapping.items() if c.startswith(f"{table}.")}
    return general | own


def with_mapped(source: Source, mapping: Mapping[str, str], targets: Sequence[str]) -> Source:
    """`source` with the columns that a mapping makes: a constant, or several columns joined into one.

    `--column store==main` maps `store` to the column `=main`, which holds `main` in every row; `--column
    time=Date+Time` maps `time` to the column `Date+Time`, which holds both, separated by a blank, or null if one is
    missing. Joined columns are dropped, unless they are also mapped themselves. `@file` and `@date` are columns that hold
    the name of the file and the date in it; on their own, they are for files without the table's column.
    """
    source = _with_name(source, {c: name for c, name in mapping.items() if c in targets})
    available, additions = source.columns, {}
    pieces: set[str] = set()
    for name in (name for column, name in mapping.items() if column in targets and name not in available):
        parts = name.split("+")
        if name.startswith("="):
            additions[name] = pl.lit(name[1:])
        elif len(parts) > 1 and {*parts} <= {*available}:
            additions[name] = pl.concat_str([pl.col(part).cast(pl.String) for part in parts], separator=" ")
            pieces |= {*parts} - {*mapping.values()}
    return replace(source, frame=source.frame.with_columns(**additions).drop(pieces)) if additions else source


def _with_name(source: Source, mapping: Mapping[str, str]) -> Source:
    """`source` with the columns `@file` and `@date`, as far as a mapping uses them for columns that `source` lacks."""
    names = [
        name.split("+") for column, name in mapping.items() if "+" in name or column not in source.columns
    ]
    values = {part: _of_name(source, part) for parts in names for part in parts if part in (_FILE, _DAY)}
    return replace(source, frame=source.frame.with_columns(**{c: pl.lit(v) for c, v in values.items()}))


def _of_name(source: Source, part: str) -> str:
    """The date in the name of a file, or the name without that date and without extensions.

    >>> [_of_name(Source("in/St. Gallen_2024_W05.csv.gz", pl.LazyFrame()), part) for part in ("@file", "@date")]
    ['St. Gallen', '2024-W05']
    """
    date = re.search(_DATE_IN_NAME, source.stem)
    if part == _FILE:
        return source.stem.replace(date[0] if date else "", "").strip(" ._-")
    if date is None:
        raise SourceError(
            f"{source.name}: its name has no date. Expected one such as sales_2024-01-29.csv or sales_2024-W05.csv. Rename "
            "the file, or give all rows one value with --column week==VALUE."
        )
    return date[0].replace("_", "-")


def read(uri: str, encoding: str | None = None) -> Iterator[Source]:
    """The sources at `uri`, in the order of their names.

    Add the name of a sheet of an Excel file, `sales.xlsx#Sheet 1`, or of a member of a zip, `all.zip#sales.csv`.

    `encoding` is that of text that is neither UTF-8 nor UTF-16; by default Windows-1252.
    CSV columns are read as text, so that nothing is lost; the contract sets the types. Raises `SourceError` if nothing
    is there or a file cannot be read.
    """
    check_source(uri)
    _check_encoding(encoding)
    place = uri if is_remote(uri) else str(Path(uri).expanduser())
    if _is_delta(place):
        try:
            rows = plain_numbers(pl.scan_delta(Table(place)), has_points=True)
        except Exception as error:
            raise UnreadableError(_unreadable(uri, error)) from None
        yield Source(uri, *rows)
        return
    place, part = _with_part(uri)
    for path in _files(place):
        name = _name(path, place)
        try:
            tables = [
                (Source(name + member, frame, notation, path), frame.collect_schema())
                for member, frame, notation in scan(path, part, encoding)
            ]
        except pl.exceptions.NoDataError:
            raise SourceError(f"{name}: the file is empty. Expected a header and at least one row.") from None
        except DialectError as error:
            raise SourceError(f"{name}: {error}") from None
        except (Exception, pl.exceptions.PanicException) as error:
            raise UnreadableError(_unreadable(name, error, path)) from None
        for source, columns in tables:
            if not columns:
                raise SourceError(
                    f"{source.name}: the file has no columns. Expected a header and at least one row."
                )
            yield source


def described(uri: str, encoding: str | None = None) -> str:
    """A description of how the first file at `uri` is written."""
    place = uri if is_remote(uri) else str(Path(uri).expanduser())
    return "a Delta table" if _is_delta(place) else dialect_in_words(_files(_with_part(uri)[0])[0], encoding)


def small_table(uri: str) -> pl.DataFrame:
    """All rows of a small source at once. Raises the errors of `read`."""
    return pl.concat([source.rows() for source in read(uri)], how="diagonal_relaxed")


def rename(
    source: Source,
    mapping: Mapping[str, str],
    targets: Sequence[str],
    aliases: Mapping[str, str] = MappingProxyType({}),
    further: Collection[str] = (),
    advice: str = "",
) -> Source:
    """`source` with the table's column names. Raises `SourceError`, with further `advice`, if a needed column is missing.

    A mapping applies if its source column exists, so that one mapping serves several files. A column that neither the
    source nor the mapping has is taken from `aliases`, or else from the only column whose name differs just in case,
    blanks, hyphens, underscores and `#`. The latter also applies to `further` columns, which similar tables have.
    """
    columns_present = source.columns
    renames = renaming(columns_present, mapping, targets, aliases, further)
    uses = {old: [new for new, name in renames.items() if name == old] for old in renames.values()}
    gaps = [c for c in targets if c not in renames and (c not in columns_present or c in uses)]
    if gaps:
        archive, _, member = source.name.partition(".zip/")
        of_zip = (
            f"\nIf the zip has other tables, name the one to read, for example {archive}.zip#NAME.csv."
            if member
            else ""
        )
        raise SourceError(f"{source.name}: {_missing(source, gaps, mapping, targets)}{advice}{of_zip}")
    names = [name for name in columns_present if name in uses or name not in renames]
    columns = [pl.col(name).alias(new) for name in names for new in uses.get(name, [name])]
    return Source(source.name, source.frame.select(columns))


def with_offset_of_name(source: Source, mapping: Mapping[str, str]) -> Source:
    """`source` with the offset of its times that the name of their column gives, such as `Date Time, GMT+01:00`."""
    _, offset = offset_in_name(mapping.get("time", ""))
    if not offset:
        return source
    times = at_offset(pl.col("time"), source.frame.collect_schema()["time"], offset)
    return replace(source, frame=source.frame.with_columns(times))


def _missing(source: Source, gaps: Sequence[str], mapping: Mapping[str, str], targets: Sequence[str]) -> str:
    texts = [f"'{c}'" + (f" (mapped from '{mapping[c]}')" if c in mapping else "") for c in gaps]
    are = (
        f"column {texts[0]} is" if len(texts) == 1 else f"columns {', '.join(texts[:-1])} and {texts[-1]} are"
    )
    columns = [name for name in source.columns if not name.startswith(("=", "@"))]
    others = [name for name in columns if name not in targets]
    is_likely = len(others) == len(gaps) == 1 and not _are_small_numbers(source, others[0])
    likely = others[0] if is_likely else "NAME_IN_THE_FILE"
    dates = _dated(source, others) if {*gaps} & {*_DATED} else []
    of_dates = {c: shlex.quote(dates[0]) for c in gaps if c in _DATED and len(dates) == 1}
    names = {c: of_dates.get(c) or _similar(c, _with_values(source, others)) or likely for c in gaps}
    options = " ".join(f"--column {c}={name}" for c, name in names.items())
    ways = [f"map {'it' if len(texts) == 1 else 'them'} with {options}"] if others else []
    if likely == "NAME_IN_THE_FILE":
        ways.append(f"give all rows one value with --column {gaps[0]}==VALUE")
        if gaps[0] not in _DATED:
            ways.append(f"the name of their file with --column {gaps[0]}={_FILE}")
        elif re.search(_DATE_IN_NAME, source.name):
            ways.append(f"the date in the name of their file with --column {gaps[0]}={_DAY}")
        ways += [f"join several with --column {gaps[0]}=ONE+OTHER"] if len(others) > 1 else []
    way = ", or ".join(ways)
    is_garbled = not all(map(str.isascii, columns)) and any(not mapping.get(c, "").isascii() for c in gaps)
    of_encoding = (
        "\nIf names look wrong, name the encoding of the file with --encoding." if is_garbled else ""
    )
    return f"{are} missing. Found: {_listed(columns)}.\n{way[0].upper()}{way[1:]}.{of_encoding}"


def _similar(column: str, names: Sequence[str]) -> str | None:
    """The name that is `called` like a column, else the most similar one, quoted for a shell; None if none is like it.

    >>> _similar("machine_id", ["Machine", "time"]), _similar("sku", ["Lineitem sku", "skus"]), _similar("sku", ["net"])
    ('Machine', "'Lineitem sku'", None)
    """
    if name := called(column, names):
        return shlex.quote(name)
    by_name = {name.casefold(): name for name in names}
    matches = get_close_matches(column, by_name, n=1, cutoff=0.65)
    return shlex.quote(by_name[matches[0]]) if matches else None


def called(column: str, names: Sequence[str]) -> str | None:
    """The only name that contains a column's name or a word of `_CALLED`; None if none or several do."""
    for words in ({column}, {*_CALLED.get(column, "").split()}):
        named = [
            name for name in names if words & {*re.split(r"[\s._/-]+", name.casefold()), name.casefold()}
        ]
        if len(named) == 1:
            return named[0]
    return None


def _with_values(source: Source, columns: Sequence[str]) -> list[str]:
    """Those of `columns` that have a value in the first rows."""
    rows = replace(source, frame=source.frame.select(columns).head(_FIRST)).rows()
    return [column.name for column in rows if column.count()]


def _listed(names: Sequence[str]) -> str:
    """The first names of a list."""
    return f"{', '.join(names[:_LISTED])}{f', ... ({len(names)} columns)' if len(names) > _LISTED else ''}"


def _dated(source: Source, columns: Sequence[str]) -> list[str]:
    """The names of columns of times, or of text whose first values are all dates or times, and no plain numbers."""
    schema = source.frame.collect_schema()
    times = [name for name in columns if schema[name].is_temporal()]
    names = [name for name in columns if schema[name] == pl.String]
    rows = replace(source, frame=source.frame.select(names).head(_FIRST)).rows()
    texts = [c.drop_nulls() for c in rows if c.count() and not c.str.contains(r"^[\d.]+$").any()]
    orders: tuple[DateOrder, ...] = ("day-first", "month-first")
    return times + [c.name for c in texts if any(days(c, order).is_not_null().all() for order in orders)]


def _are_small_numbers(source: Source, column: str) -> bool:
    """Whether the first values of a column are numbers such as readings, rather than dates or names."""
    values = replace(source, frame=source.frame.select(pl.col(column).cast(pl.String)).head(_FIRST)).rows()
    return bool(values[column].str.contains(r"^-?\d{0,5}(\.\d*)?$").all())


def renaming(
    columns: Sequence[str],
    mapping: Mapping[str, str],
    targets: Sequence[str],
    aliases: Mapping[str, str],
    further: Collection[str] = (),
) -> dict[str, str]:
    """The source column of each table column that has another name there; see `rename`."""
    renames = {new: old for new, old in mapping.items() if old in columns}
    names = {*columns, *renames}
    renames |= {new: old for new, old in aliases.items() if new not in names and old in columns}
    gaps = [c for c in (*targets, *sorted(further)) if c not in {*columns, *renames}]
    return renames | spellings(columns, gaps, {*renames.values(), *targets})


def spellings(columns: Sequence[str], gaps: Sequence[str], in_use: Collection[str]) -> dict[str, str]:
    """The source column of each missing column whose name differs from it only in spelling, or by its time zone."""
    plain = {name: re.sub(r"[\s_#-]", "", offset_in_name(name)[0]).casefold() for name in (*columns, *gaps)}
    alike = {c: [n for n in columns if n not in in_use and plain[n] == plain[c]] for c in gaps}
    return {column: names[0] for column, names in alike.items() if len(names) == 1}


def check_source(uri: str) -> None:
    """Raise `SourceError` for an address of an unsupported kind, `CredentialError` for one with a key."""
    refuse_credential("The address of a source", uri)
    if "://" in uri and not is_remote(uri):
        raise SourceError(
            f"{uri}: {uri.partition('://')[0]}:// is not a kind of source. Expected a local path, az:// or abfss://."
        )


def _check_encoding(name: str | None) -> None:
    try:
        codecs.lookup(name or "utf-8")
    except LookupError:
        raise SourceError(
            f"--encoding {name}: no such encoding. Expected one that Python knows, such as cp1250 or cp1254."
        ) from None


def unlisted(uri: str, error: Exception) -> str:
    """The message for a place in Blob Storage whose files cannot be listed."""
    return (
        f"{uri}: cannot be listed: {first_line(error)}\n"
        "Expected a container that exists and that this user or identity may read."
    )


def _unreadable(name: str, error: Exception, path: str | None = None) -> str:
    if "more fields than defined" in str(error):
        line = longest_line(path) if path else None
        where = f"line {line:,}" if line else "a row"
        return (
            f"{name}: cannot be read: {where} has more fields than the header. Put quotes around text that contains the "
            "separator, or name all columns."
        )
    return f"{name}: cannot be read: {str(error).strip().splitlines()[0][:200]}"


def _name(path: str, uri: str) -> str:
    """`path` relative to the folder that `uri` names, or in which its wildcards begin."""
    literal = re.split(r"[*?\[]", uri)[0]
    if not is_remote(uri) and literal:
        literal = str(Path(literal).expanduser())
    literal = literal.rstrip("/")
    folder = literal if path.startswith(f"{literal}/") else literal.rpartition("/")[0]
    return path.removeprefix(folder).lstrip("/")


def _with_part(uri: str) -> tuple[str, str | None]:
    """A place, and the sheet or the member of a zip that is named after it.

    >>> _with_part("az://raw/sales.xlsx#Sheet 1"), _with_part("a#b.xlsx")
    (('az://raw/sales.xlsx', 'Sheet 1'), ('a#b.xlsx', None))
    """
    place, _, part = uri.rpartition("#")
    return (place, part) if place.lower().endswith((".xlsx", ".xls", ".zip")) else (uri, None)


def _is_delta(uri: str) -> bool:
    if is_remote(uri):
        return not uri.lower().endswith(SUFFIXES) and not _is_glob(uri) and Table.is_deltatable(encoded(uri))
    return (Path(uri) / "_delta_log").is_dir()


def _is_glob(uri: str) -> bool:
    return any(c in uri for c in "*?[")


def _files(uri: str) -> list[str]:
    """The files at a path, folder or glob. Raises `SourceError` if there are none."""
    files = _remote_files(uri) if is_remote(uri) else _local_files(uri)
    if not files:
        other = next((path.suffix for path in Path(uri).expanduser().rglob("*") if path.is_file()), None)
        if other is not None:
            raise SourceError(
                f"{uri}: this folder has no files that end in {', '.join(SUFFIXES)}. Read other files with a glob, such as "
                f"'{uri.rstrip('/')}/*{other}'."
            )
        raise SourceError(
            f"{uri}: no such file, and no folder or glob with files that end in {', '.join(SUFFIXES)}. "
            "Check the path; relative paths start at the working directory."
        )
    return files


def _local_files(uri: str) -> list[str]:
    path = Path(uri).expanduser()
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        return sorted(str(p) for p in path.rglob("*") if is_table(p.name))
    if _is_glob(uri):
        anchor = Path(path.anchor) if path.anchor else Path()
        return sorted(str(p) for p in anchor.glob(str(path.relative_to(path.anchor))) if p.is_file())
    return []


def _remote_files(uri: str) -> list[str]:
    """Files in Blob Storage with that name, in a folder of that name, or matching it as a glob."""
    literal = uri.split("*")[0].split("?")[0]
    folder = uri if literal == uri else literal.rsplit("/", 1)[0]
    scheme, _, rest = folder.partition("://")
    container, _, prefix = rest.partition("/")
    root = f"{scheme}://{container}"
    try:
        listing = obstore.list(object_store(root), prefix or None)
        paths = sorted(str(item["path"]) for batch in listing for item in batch)
        if not paths and prefix:
            obstore.head(object_store(root), prefix)
            paths = [prefix]
    except FileNotFoundError:
        return []
    except obstore.exceptions.BaseError as error:
        raise UnreadableError(unlisted(uri, error)) from None
    pattern = uri.partition("://")[2].partition("/")[2]
    if literal != uri:
        of_that_name = [p for p in paths if p == pattern or (p.startswith(f"{pattern}/") and is_table(p))]
        paths = of_that_name or [p for p in paths if fnmatch.fnmatch(p, pattern)]
    elif paths != [pattern]:
        paths = [p for p in paths if is_table(p)]
    return [f"{root}/{p}" for p in paths]
