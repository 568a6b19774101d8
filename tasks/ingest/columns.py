"""The columns of sources: which of them are those of a table, by a mapping, by their names, or by what an error proposes."""

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from types import MappingProxyType

import polars as pl

from models.date_order import DateOrder
from models.time_notations import at_offset, offset_in_name
from models.times import days
from tasks.ingest.sources import Source, SourceError

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
