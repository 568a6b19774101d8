"""Raw rows -> typed rows that satisfy a contract, and rows that break it, each with the rule."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import polars as pl

from models.date_order import DateOrder
from models.errors import ContractError
from models.far_times import far_from_others
from models.times import days, refuse_midnights_elsewhere, utc

if TYPE_CHECKING:
    from models.schemas import dy

MARK = "·"
"""The prefix of columns that exist only while ingesting, so that they never collide with a column of a source."""
ROW, RULE, KNOWN = f"{MARK} row", f"{MARK} rule", f"{MARK} known"
FILE, COLUMNS = f"{MARK} file", f"{MARK} columns"
QUARANTINE = {"source": pl.String, "row_number": pl.Int64, "row": pl.String, "rule": pl.String}
"""The schema of bad rows: their source, the raw row as JSON, and the first rule that it breaks."""
_NUMERIC_SHARE = 0.95
_FIRST = 200
_ROW_NUMBER, _FEW_ROWS = (
    re.compile(r"#|(?i:no|nr|row|record|index|idx|id|entry_id|row_?(no|nr|number|id)|__index_level_0__)\.?"),
    3,
)
TEXT = (pl.String, pl.Categorical, pl.Enum)
UNKNOWN = ("", "na", "n/a", "#n/a", "nan", "null", "(null)", "none", "<na>", "\\n", "-", "--", ".", "#value!", "#div/0!",
    "#num!", "#ref!", "#name?", "bad", "bad input", "no data", "i/o timeout", "?")  # fmt: skip
"""Words that stand for an unknown number in databases, pandas, Excel, the UCI repository and plant historians, in lower
case."""
Text = TypeVar("Text", pl.Series, pl.Expr)
Decimals = Literal["comma", "point"]
"""The decimal separator."""
Duplicates = Literal["add", "average", "last", "refuse"]
"""What to do with rows of an ingest that have the same unique columns and differ in others."""
ODD_NAMES = {
    "control_characters": r"[\x00-\x1f\x7f]",
    "digits_lost": r"^\d([.,]\d+)?[eE]\+\d+$",
    "no_name": r"(?i)^(nan|null|\(null\)|none|<na>|n/a|\\n|#(n/a|ref!|value!|name\?|div/0!|num!))$",
}
"""Rules for the names of things -> the pattern of names that break them: a spreadsheet turns a long number into
4.01E+12, and pandas writes nan for a missing name. NA may be a name."""
FLAGS = {"true": "1", "yes": "1", "on": "1", "false": "0", "no": "0", "off": "0"}
_YES = ("y", "j", "ja", "wahr", "oui", "vrai", "si", "sí", "sì", "vero",
    "verdadero", "sim", "tak", "да")  # fmt: skip
_NO = ("n", "nein", "nee", "nej", "falsch", "non", "faux", "não", "nie", "нет")
_LETTERS = ("y", "j", "n")
_FLAG_WORDS = FLAGS | dict.fromkeys(_YES, "1") | dict.fromkeys(_NO, "0")
"""Words for 1 and 0 in people's tables, in lower case. S and O are missing: next to N, they may mean south and east."""


@dataclass(frozen=True)
class AcceptResult:
    """`good` has the typed rows, `bad` the `ROW` and `RULE` of the others; `ignored` names columns that were not read."""

    good: pl.DataFrame
    bad: pl.DataFrame
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoldResult:
    """The result of folding rows into the stored ones.

    `new` has the rows to add, `changed` those that replace stored ones, `refused` those that can no longer be
    accepted, with `RULE`. `repeated` counts rows that were already stored.
    """

    new: pl.DataFrame
    changed: pl.DataFrame
    repeated: int
    refused: pl.DataFrame


def accept(
    raw: pl.DataFrame,
    schema: "type[dy.Schema]",
    unique: Sequence[str],
    *,
    covariates: bool,
    timezone: str | None,
    dates: DateOrder | None = None,
    latest: datetime | None = None,
    words: int | None = 0,
    types: Mapping[str, pl.DataType] = MappingProxyType({}),
) -> AcceptResult:
    """`raw`, numbered by `ROW`, split by a contract, of which `unique` columns identify a row.

    With `covariates`, further numeric columns are kept, and text columns with at most `words` distinct values; None: any
    number. `types` are those of columns in earlier rows: a column that was text stays text.

    Times without an offset are in `timezone`; if that is None, they raise `ContractError`. `dates` says whether the
    day, the month or the year comes first in a column that does not show it. Rows whose time is after `latest`, or
    far from all others, are bad.
    """
    numbers, texts = _further(raw, schema.column_names(), words, types) if covariates else ([], [])
    raw = raw.with_columns(*numbers, *texts)
    schema = _with_covariates(schema, [one.name for one in numbers], [one.name for one in texts])
    columns = schema.columns()
    ignored_columns = tuple(c for c in raw.columns if c != ROW and c not in columns)
    cells = raw.select(ROW, *schema.column_names())
    rows = cells.select(
        ROW,
        *(_cast(cells[c], columns[c].dtype, timezone, dates, latest).alias(c) for c in schema.column_names()),
    )
    faults = _unparsable(cells, rows)
    for column in unique:
        odd = _odd(rows.select(ROW, column), latest)
        faults = pl.concat([faults, odd.join(faults, on=ROW, how="anti")])
    good, invalid = _valid(schema, rows.join(faults, on=ROW, how="anti", maintain_order="left"))
    return AcceptResult(good.drop(ROW), pl.concat([faults, invalid]), ignored_columns)


def _further(
    raw: pl.DataFrame, required: Sequence[str], words: int | None, types: Mapping[str, pl.DataType]
) -> tuple[list[pl.Series], list[pl.Series]]:
    """The columns of numbers and those of words, besides the required ones; the options as in `accept`."""
    texts_before = [c for c in raw.columns if types.get(c) == pl.String and raw[c].dtype in TEXT]
    others = [c for c in raw.columns if c not in (ROW, *required, *texts_before)]
    rows = raw.with_columns(_as_numbers(raw[c], alone=words is not None or c in types) for c in others)
    numbers = [c for c in _numeric(rows.select(others)) if not is_row_number(rows, c)]
    return [_without_nan(rows[c]) for c in numbers], _texts(raw.drop(ROW, *required, *numbers), words)


def _without_nan(values: pl.Series) -> pl.Series:
    return values.fill_nan(None) if values.dtype.is_float() else values


def one_of_each(
    rows: pl.DataFrame,
    files: pl.DataFrame,
    unique: Sequence[str],
    duplicates: Duplicates | None,
    amounts: Sequence[str] = (),
) -> pl.DataFrame:
    """`rows`, numbered by `ROW` in their order, with one for each combination of `unique`, sorted by them.

    `files` has the number of the first row of each file (`ROW`), its name (`FILE`) and its columns (`COLUMNS`): a column
    that a file lacks contradicts no other file. If rows differ, `duplicates` says what to do; without it, `ContractError`
    is raised. `add` sums the columns in `amounts` and averages the other numbers; `last` takes the last row.
    """
    last = _last_of_each(rows, unique)
    if last.height == rows.height:
        return last
    values = [c for c in rows.columns if c not in (ROW, *unique)]
    several = rows.filter(pl.struct(unique).is_duplicated()).join_asof(files, on=ROW)
    gaps = [c for c in values if not files[COLUMNS].list.contains(c).all()]
    nearest = {c: pl.col(c).forward_fill().backward_fill().over(unique) for c in gaps}
    several = several.with_columns(
        pl.when(pl.col(COLUMNS).list.contains(c)).then(c).otherwise(value).alias(c)
        for c, value in nearest.items()
    )
    if duplicates in (None, "refuse") or (duplicates == "add" and not amounts):
        _refuse_differing(several, unique, values, duplicates, amounts)
    if duplicates in ("add", "average"):
        sums = [c for c in amounts if duplicates == "add"]
        aggregates = put_together(rows, values, sums)
        unique_rows = several.group_by(unique, maintain_order=True).agg(pl.col(ROW).last(), *aggregates)
    elif gaps:
        unique_rows = _last_of_each(several, unique)
    else:
        return last
    rest = last.join(unique_rows, on=list(unique), how="anti", nulls_equal=True)
    return pl.concat([rest, unique_rows.select(rest.columns)]).sort(unique)


def _refuse_differing(
    several: pl.DataFrame,
    unique: Sequence[str],
    values: Sequence[str],
    duplicates: Duplicates | None,
    amounts: Sequence[str],
) -> None:
    """Raise `ContractError` if rows that have the same unique columns differ in others."""
    rows = several.unique([*unique, *values], maintain_order=True)
    differ = rows.filter(pl.struct(unique).is_duplicated())
    if differ.is_empty():
        return
    if duplicates == "add":
        raise ContractError(
            f"--duplicates add: rows with the same {', '.join(unique)} have no column that can be added up. "
            "Expected --duplicates average or --duplicates last."
        )
    raise ContractError(_differing(differ, unique, values, amounts))


def put_together(rows: pl.DataFrame, columns: Sequence[str], sums: Sequence[str]) -> list[pl.Expr]:
    """One value of each of the `columns` for several `rows`: the sum of those in `sums`, the mean of other numbers, the
    last of text."""
    return [pl.col(c).sum() if c in sums else _mean(rows, c) for c in columns]


def _mean(rows: pl.DataFrame, column: str) -> pl.Expr:
    return pl.col(column).mean() if rows[column].dtype.is_float() else pl.col(column).last()


def _differing(
    differ: pl.DataFrame, unique: Sequence[str], values: Sequence[str], amounts: Sequence[str]
) -> str:
    """The message for rows that have the same unique columns and differ in others."""
    first = differ.filter(pl.struct(unique) == pl.struct(unique).first()).head(2)
    key = ", ".join(f"{c} {first[c][0]}" for c in unique)
    column = next(c for c in values if first[c].n_unique() > 1)
    one, other = ("empty" if value is None else value for value in first[column])
    choices = [*(["add"] if amounts else []), "average", "last"]
    names = first[FILE].unique(maintain_order=True)
    place = f" in {' and '.join(names)}" if len(names) > 1 else ""
    later = ", the row of the later file" if len(names) > 1 else ""
    kinds = [c for c in values if first[c].dtype == pl.String and first[c].n_unique() > 1]
    several = (
        f"\nThey differ in '{kinds[0]}': {' and '.join(map(str, first[kinds[0]]))}. If these are different things, "
        f"read the rows of one, or put it into the name with --column '{unique[0]}=COLUMN+{kinds[0]}'."
        if kinds
        else ""
    )
    return (
        f"{differ.select(unique).n_unique():,} combinations of {', '.join(unique)} have several rows that differ, "
        f"e.g. {key}: {column} is {one} and {other}{place}. "
        f"Choose what to do with them: --duplicates {', '.join(choices[:-1])} or {choices[-1]}{later}.{several}"
    )


def _last_of_each(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """The last row of each combination of `columns`, sorted by them."""
    rows = frame.sort(columns, maintain_order=True)
    differs = [pl.col(c).ne_missing(pl.col(c).shift(-1)) for c in columns]
    is_last = pl.int_range(pl.len()) == pl.len() - 1
    return rows.filter(pl.any_horizontal(is_last, *differs))


def replace(table: pl.LazyFrame, rows: pl.DataFrame, unique: Sequence[str]) -> FoldResult:
    """The result of replacing rows of the stored `table` by `rows` with other values; `unique` is unique in `rows`.

    Columns that `table` has and `rows` lacks keep their stored values.
    """
    names = table.collect_schema().names()
    others = [c for c in names if c not in rows.columns]
    values = [c for c in rows.columns if c not in (*unique, "shard")]
    before = {c: f"{MARK}{c}" for c in values if c in names}
    old = table.select(
        *unique, *others, *(pl.col(c).alias(name) for c, name in before.items()), pl.lit(True).alias(KNOWN)
    )
    pairs = rows.lazy().join(old, on=list(unique), how="left", maintain_order="left")
    differs = [pl.col(c).ne_missing(pl.col(name)) for c, name in before.items()]
    differs += [pl.col(c).is_not_null() for c in values if c not in names]
    is_old = pl.col(KNOWN).is_not_null()
    news = pairs.filter(pl.any_horizontal(~is_old, *differs)).select(*rows.columns, *others, KNOWN).collect()
    new, changes = (news.filter(one).drop(KNOWN) for one in (~is_old, is_old))
    return FoldResult(new, changes, rows.height - news.height, _no_refusals(rows))


def as_new_rows(rows: pl.DataFrame) -> FoldResult:
    """The result of adding all `rows`."""
    return FoldResult(rows, rows.clear(), 0, _no_refusals(rows))


def _no_refusals(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.clear().with_columns(pl.lit(None, pl.String).alias(RULE))


def _valid(schema: "type[dy.Schema]", rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows that satisfy `schema`, and the first rule that each of the others breaks."""
    from models.schemas import dy

    contract: type[dy.Schema] = type("Numbered", (schema,), {"row": dy.UInt32(alias=ROW)})
    good, failure = contract.filter(rows, cast=True)
    details = failure.details()
    rules = [pl.when(pl.col(c) == "invalid").then(pl.lit(c)) for c in details.columns if c not in rows]
    first = pl.coalesce(*rules) if rules else pl.lit(None, pl.String)
    return pl.DataFrame(good).sort(ROW), details.select(ROW, first.alias(RULE))


def _with_covariates(schema: "type[dy.Schema]", numbers: list[str], texts: list[str]) -> "type[dy.Schema]":
    from models.schemas import dy

    fields: dict[str, Any] = {
        f"covariate_{i}": dy.Float64(alias=c, nullable=True) for i, c in enumerate(numbers)
    }
    fields |= {f"text_{i}": dy.String(alias=c, nullable=True) for i, c in enumerate(texts)}
    return type(schema.__name__, (schema,), fields)


def _texts(columns: pl.DataFrame, words: int | None) -> list[pl.Series]:
    """Text columns with at most `words` distinct values, stripped; empty cells are null.

    Not those of which all values are `UNKNOWN`, nor numbers of which only some are percentages. With `words` None, any text
    column that is not empty.
    """
    texts = []
    for column in columns.iter_columns():
        if column.dtype not in TEXT or column.name == "shard" or "`" in column.name:
            continue
        text = column.cast(pl.String).str.strip_chars().replace("", None)
        different = text.drop_nulls().str.to_lowercase().unique()
        has_percentages = all(different.str.contains(rf"^-?[\d.,]+{sign}$").any() for sign in ("", r"\s*%"))
        is_few = words is None or (
            different.len() <= words and not different.is_in(UNKNOWN).all() and not has_percentages
        )
        if different.len() and is_few:
            texts.append(text)
    return texts


def _numeric(columns: pl.DataFrame) -> list[str]:
    """The names of columns of numbers: by their type or, for text, by nearly all of their values.

    Excludes `shard` and columns whose names a Delta table does not allow.
    """
    names = []
    for column in columns.iter_columns():
        if column.name == "shard" or "`" in column.name:
            continue
        if column.dtype.is_numeric() or column.dtype == pl.Boolean:
            names.append(column.name)
        elif column.dtype == pl.String and (values := column.drop_nulls()).len():
            numbers = values.str.strip_chars().cast(pl.Float64, strict=False)
            if numbers.count() >= _NUMERIC_SHARE * numbers.len():
                names.append(column.name)
    return names


def is_row_number(raw: pl.DataFrame, column: str) -> bool:
    """Whether a column, by its name and its values, counts the rows of the source.

    >>> rows = pl.DataFrame({ROW: [1, 2, 3], "#": ["0", "1", "2"], "id": [1, 2, 4], "hours": [1, 2, 3]})
    >>> [column for column in rows.columns if is_row_number(rows, column)]
    ['#']
    """
    if not _ROW_NUMBER.fullmatch(column) or raw.height < _FEW_ROWS:
        return False
    return (raw[column].cast(pl.Float64, strict=False) - raw[ROW]).n_unique() == 1


def is_unknown(text: Text) -> Text:
    """Whether each text is a word for an unknown value; null where it is null."""
    return text.str.strip_chars().str.to_lowercase().is_in(UNKNOWN)


def flags(texts: Text) -> Text:
    """1.0 and 0.0 for numbers and for words such as on and off; null for other words.

    >>> flags(pl.Series(["on", "0.0", "Nein", "pump", None])).to_list()
    [1.0, 0.0, 0.0, None, None]
    """
    plain = texts.cast(pl.String).str.strip_chars().str.to_lowercase()
    return plain.replace(_FLAG_WORDS).cast(pl.Float64, strict=False)


def without_unknown(rows: pl.LazyFrame, columns: Sequence[str]) -> pl.LazyFrame:
    """`rows` with null for words for unknown values in those `columns` of text whose first known values are numbers."""
    schema = rows.collect_schema()
    first = rows.select(c for c in columns if schema[c] == pl.String).head(_FIRST).collect()
    known = {c.name: c.filter(~is_unknown(c)) for c in first}
    numbers = [
        n for n, c in known.items() if c.len() and c.cast(pl.Float64, strict=False).is_not_null().all()
    ]
    return rows.with_columns(pl.when(~is_unknown(pl.col(c))).then(c).alias(c) for c in numbers)


def _as_numbers(values: pl.Series, *, alone: bool = True) -> pl.Series:
    """Text of a covariate with null for unknown values and, if all others are flags, 1 and 0 for them.

    A letter is a flag if there is another one, or `alone`: N in all rows may mean north.

    >>> _as_numbers(pl.Series(["TRUE", "no", "NA", "I/O Timeout"])).to_list()
    ['1', '0', None, None]
    >>> _as_numbers(pl.Series(["ja", "Nein"])).to_list()
    ['1', '0']
    """
    if values.dtype != pl.String:
        return values
    plain, is_known = values.str.strip_chars().str.to_lowercase(), ~is_unknown(values)
    words = plain.filter(is_known).unique().drop_nulls()
    is_letter = words.len() == 1 and words[0] in _LETTERS
    if words.len() and words.is_in([*_FLAG_WORDS, "0", "1"]).all() and (alone or not is_letter):
        values = plain.replace(_FLAG_WORDS)
    return values.zip_with(is_known.fill_null(False), pl.Series(values.name, [None], dtype=pl.String))


def _odd(rows: pl.DataFrame, latest: datetime | None) -> pl.DataFrame:
    """Implausible rows (`ROW` and a unique column) with the rule: odd names, odd times."""
    column = rows.columns[1]
    if rows[column].dtype.is_temporal():
        return _implausible(rows, latest)
    if rows[column].dtype != pl.String:
        return rows.select(ROW, pl.lit(None, pl.String).alias(RULE)).clear()
    rule = pl.coalesce(
        pl.when(pl.col(column).str.contains(odd)).then(pl.lit(f"{column}|{name}"))
        for name, odd in ODD_NAMES.items()
    )
    return rows.select(ROW, rule.alias(RULE)).drop_nulls(RULE)


def _implausible(times: pl.DataFrame, latest: datetime | None) -> pl.DataFrame:
    """Rows (`ROW` and a time) whose time is after `latest` or far from all others, with the rule."""
    column = times.columns[1]
    if latest is None:
        ahead = pl.repeat(False, times.height, eager=True)
    else:
        end = latest.date() if times[column].dtype == pl.Date else latest
        ahead = (times[column] > end).fill_null(False)
    far = far_from_others(times[column].zip_with(~ahead, times[column].clear(1)))
    rule = (
        pl.when(ahead).then(pl.lit(f"{column}|in_future")).when(far).then(pl.lit(f"{column}|far_from_others"))
    )
    return times.select(ROW, rule.alias(RULE)).drop_nulls(RULE)


def _cast(
    values: pl.Series, dtype: Any, timezone: str | None, dates: DateOrder | None, latest: datetime | None
) -> pl.Series:
    """`values` as `dtype`, text without blanks around it; null if they cannot be converted."""
    if values.dtype == pl.String:
        values = values.str.strip_chars()
    try:
        if isinstance(dtype, pl.Date):
            refuse_midnights_elsewhere(values)
            return days(values, dates, latest)
        if isinstance(dtype, pl.Datetime) and dtype.time_zone:
            return utc(values, timezone, dates, latest).cast(dtype)
        return values.cast(dtype, strict=False)
    except pl.exceptions.PolarsError:
        return pl.Series(values.name, [None] * values.len(), dtype=dtype)


def _unparsable(raw: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with a value that is not of its column's type; the rule names the first such column."""
    columns = [c for c in raw.columns if raw[c].dtype != rows[c].dtype]
    if not columns:
        return pl.DataFrame(schema={ROW: pl.UInt32, RULE: pl.String})
    both = raw.select(ROW, *columns).hstack([rows[c].alias(f"{MARK}{c}") for c in columns])
    rules = [
        pl.when(pl.col(c).is_not_null() & pl.col(f"{MARK}{c}").is_null()).then(
            pl.lit(f"{c}|{_type_name(rows[c].dtype)}")
        )
        for c in columns
    ]
    return both.select(ROW, pl.coalesce(*rules).alias(RULE)).drop_nulls(RULE)


def _type_name(dtype: pl.DataType) -> str:
    return "number" if dtype.is_numeric() else str(dtype).split("(")[0].lower()
