"""Rows as they came -> rows that keep a contract, typed, and those that break it, each with the rule."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dataframely as dy
import polars as pl

from models.times import utc

MARK = "·"
"""Begins the names of columns that exist only while ingesting, so that they meet no column of a source."""
ROW, RULE, KNOWN = f"{MARK} row", f"{MARK} rule", f"{MARK} known"
QUARANTINE = {"source": pl.String, "row_number": pl.Int64, "row": pl.String, "rule": pl.String}
"""The shape of bad rows: where from, the row as it came, as JSON, and the first rule that it breaks."""
_NUMERIC_SHARE = 0.95
_UNKNOWN = ("", "na", "n/a", "#n/a", "null")
"""Words for an unknown number, in lower case."""
_FLAGS = {"true": "1", "yes": "1", "on": "1", "false": "0", "no": "0", "off": "0"}


@dataclass(frozen=True)
class Accepted:
    """`good` rows, typed; `bad` has `ROW` and `RULE` of the others; `ignored` columns were not looked at."""

    good: pl.DataFrame
    bad: pl.DataFrame
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Folded:
    """What rows make of those that are stored.

    `new` are rows to add, `changed` rows that take the place of stored ones. `repeated` counts rows
    that were stored already. `refused` are rows that cannot be taken any more, with `RULE`. `superseded`
    counts rows that later ones among them replace.
    """

    new: pl.DataFrame
    changed: pl.DataFrame
    repeated: int
    refused: pl.DataFrame
    superseded: int = 0


def accept(
    raw: pl.DataFrame,
    schema: type[dy.Schema],
    unique: Sequence[str],
    *,
    covariates: bool,
    timezone: str | None,
) -> Accepted:
    """`raw`, numbered by `ROW`, split by a contract. Of rows with the same `unique` columns the last is good.

    Times without an offset of their own are in `timezone`; raises `ContractError` where that is None.
    """
    required = schema.column_names()
    if covariates:
        raw = raw.with_columns(_as_numbers(raw[c]) for c in raw.columns if c not in (ROW, *required))
    further = _numeric(raw, exclude=required) if covariates else []
    ignored = tuple(c for c in raw.columns if c not in (ROW, *required, *further))
    schema = _with_covariates(schema, further)
    columns = schema.columns()
    wanted = raw.select(ROW, *schema.column_names())
    typed = wanted.select(
        ROW, *(_cast(wanted[c], columns[c].dtype, timezone).alias(c) for c in schema.column_names())
    )
    broken = _unparsable(wanted, typed)
    good, invalid = _valid(schema, typed.join(broken, on=ROW, how="anti", maintain_order="left"))
    latest = last_of_each(good, unique)
    repeated = good.select(ROW).join(latest, on=ROW, how="anti")
    duplicate = repeated.with_columns(pl.lit(f"{','.join(unique)}|duplicate").alias(RULE))
    return Accepted(latest.drop(ROW), pl.concat([broken, invalid, duplicate]), ignored)


def last_of_each(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """The last row of each combination of `columns`, sorted by them.

    >>> last_of_each(pl.DataFrame({"key": ["b", "a", "b"], "value": [1, 2, 3]}), ["key"]).rows()
    [('a', 2), ('b', 3)]
    """
    ordered = frame.sort(columns, maintain_order=True)
    differs = [pl.col(c).ne_missing(pl.col(c).shift(-1)) for c in columns]
    is_last = pl.int_range(pl.len()) == pl.len() - 1
    return ordered.filter(pl.any_horizontal(is_last, *differs))


def replace(stored: pl.LazyFrame, rows: pl.DataFrame, unique: Sequence[str]) -> Folded:
    """`rows`, each combination of `unique` once, take the place of stored ones where their values differ.

    Columns that `stored` has and `rows` lacks keep their stored values.
    """
    names = stored.collect_schema().names()
    kept = [c for c in names if c not in rows.columns]
    compared = [c for c in rows.columns if c not in (*unique, "shard")]
    before = {c: f"{MARK}{c}" for c in compared if c in names}
    old = stored.select(
        *unique, *kept, *(pl.col(c).alias(name) for c, name in before.items()), pl.lit(True).alias(KNOWN)
    )
    joined = rows.lazy().join(old, on=list(unique), how="left", maintain_order="left")
    differs = [pl.col(c).ne_missing(pl.col(name)) for c, name in before.items()]
    differs += [pl.col(c).is_not_null() for c in compared if c not in names]
    known = pl.col(KNOWN).is_not_null()
    news = joined.filter(pl.any_horizontal(~known, *differs)).select(*rows.columns, *kept, KNOWN).collect()
    new, changed = (news.filter(one).drop(KNOWN) for one in (~known, known))
    return Folded(new, changed, rows.height - news.height, _no_refusals(rows))


def appended(rows: pl.DataFrame) -> Folded:
    """`rows`, all new."""
    return Folded(rows, rows.clear(), 0, _no_refusals(rows))


def _no_refusals(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.clear().with_columns(pl.lit(None, pl.String).alias(RULE))


def _valid(schema: type[dy.Schema], typed: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows that keep the rules of `schema`, and for each other row the first rule that it breaks."""
    contract: type[dy.Schema] = type("Numbered", (schema,), {"row": dy.UInt32(alias=ROW)})
    good, failure = contract.filter(typed, cast=True)
    details = failure.details()
    rules = [pl.when(pl.col(c) == "invalid").then(pl.lit(c)) for c in details.columns if c not in typed]
    first = pl.coalesce(*rules) if rules else pl.lit(None, pl.String)
    return pl.DataFrame(good).sort(ROW), details.select(ROW, first.alias(RULE))


def _with_covariates(schema: type[dy.Schema], covariates: list[str]) -> type[dy.Schema]:
    added = {f"covariate_{i}": dy.Float64(alias=c, nullable=True) for i, c in enumerate(covariates)}
    return type(schema.__name__, (schema,), added)


def _numeric(raw: pl.DataFrame, exclude: list[str]) -> list[str]:
    """Further columns that hold numbers: by type, or, where all is text, by nearly all of their values.

    `shard` is not one of them, nor is a name that a Delta table cannot hold.
    """
    names = []
    for column in raw.drop(ROW, *exclude).iter_columns():
        if column.name == "shard" or "`" in column.name:
            continue
        if column.dtype.is_numeric() or column.dtype == pl.Boolean:
            names.append(column.name)
        elif column.dtype == pl.String and (filled := column.drop_nulls()).len():
            parsed = filled.str.strip_chars().cast(pl.Float64, strict=False)
            if parsed.count() >= _NUMERIC_SHARE * parsed.len():
                names.append(column.name)
    return names


def _as_numbers(values: pl.Series) -> pl.Series:
    """Text of a covariate with null for unknown ones and, where all others are flags, 1 and 0 for those.

    >>> _as_numbers(pl.Series(["TRUE", "no", "NA"])).to_list()
    ['1', '0', None]
    """
    if values.dtype != pl.String:
        return values
    plain = values.str.strip_chars().str.to_lowercase()
    is_known = ~plain.is_in(_UNKNOWN)
    words = plain.filter(is_known).drop_nulls()
    if words.len() and words.is_in([*_FLAGS, "0", "1"]).all():
        values = plain.replace(_FLAGS)
    return values.zip_with(is_known.fill_null(False), pl.Series(values.name, [None], dtype=pl.String))


def _cast(values: pl.Series, dtype: Any, timezone: str | None) -> pl.Series:
    """`values` as `dtype`, null where that is impossible."""
    if values.dtype == pl.String and not isinstance(dtype, pl.String):
        values = values.str.strip_chars()
        if isinstance(dtype, pl.Date):
            days = values.str.to_date("%Y-%m-%d", strict=False)
            moments = values.str.replace("T", " ").str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False)
            return days.fill_null(moments.dt.date())
    try:
        if isinstance(dtype, pl.Datetime) and dtype.time_zone:
            return utc(values, timezone).cast(dtype)
        return values.cast(dtype, strict=False)
    except pl.exceptions.PolarsError:
        return pl.Series(values.name, [None] * values.len(), dtype=dtype)


def _unparsable(raw: pl.DataFrame, typed: pl.DataFrame) -> pl.DataFrame:
    """Rows in which a value is there but not of its column's type, with the first such column as the rule."""
    columns = [c for c in raw.columns if raw[c].dtype != typed[c].dtype]
    if not columns:
        return pl.DataFrame(schema={ROW: pl.UInt32, RULE: pl.String})
    both = raw.select(ROW, *columns).hstack([typed[c].alias(f"{MARK}{c}") for c in columns])
    lost = [
        pl.when(pl.col(c).is_not_null() & pl.col(f"{MARK}{c}").is_null()).then(
            pl.lit(f"{c}|{_type_name(typed[c].dtype)}")
        )
        for c in columns
    ]
    return both.select(ROW, pl.coalesce(*lost).alias(RULE)).drop_nulls(RULE)


def _type_name(dtype: pl.DataType) -> str:
    return "number" if dtype.is_numeric() else str(dtype).split("(")[0].lower()
