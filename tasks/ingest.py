"""Source -> contract -> table. Bad rows go to the scenario's quarantine with the rule they broke."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dataframely as dy
import polars as pl
from deltalake import CommitProperties, write_deltalake
from polars import selectors
from prefect import task

from models.errors import ContractError
from models.scenario import Scenario, Table
from tasks.sources import Source, SourceError, of_table, read, rename
from tasks.store import Store, StoreError, concat_lazy, digest, with_shard

_MARK = "·"
"""Begins the names of columns that exist only while ingesting, so that they meet no column of a source."""
_ROW, _RULE, _KNOWN = f"{_MARK} row", f"{_MARK} rule", f"{_MARK} known"
_NUMERIC_SHARE = 0.95


@dataclass(frozen=True)
class Ingested:
    """What became of one source: rows read = accepted + quarantined + superseded.

    A row is superseded where a later file of the same source has another one for the same unique
    columns. `changed` of the accepted rows were new to the table, or had other values there.
    """

    table: str
    source: str
    read: int
    accepted: int
    quarantined: int
    superseded: int
    changed: int
    version: int | None
    rules: Mapping[str, int] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """Rows split into good and bad ones; `read` counts also those that a later file has superseded."""

    good: pl.DataFrame
    bad: pl.DataFrame
    read: int
    ignored: tuple[str, ...]
    columns: frozenset[str]


@task(name="ingest")
def ingest(
    scenario: Scenario,
    store: Store,
    sources: Mapping[str, str],
    mapping: Mapping[str, str],
    shards: int | None,
    max_bad_share: float,
) -> list[Ingested]:
    """Read sources into the tables that they are named after, in their order.

    Nothing is written when more than `max_bad_share` of the rows of any source break the contract,
    or when its rows are wrong as a whole. Rows that a table has already change nothing; a row with
    other values for the same unique columns replaces the earlier one, which stays in the older version.
    """
    stored = {
        name: store.scan(path)
        for name in scenario.tables
        if store.version(path := f"{scenario.name}/{name}") is not None
    }
    checked = {}
    for name, source in sources.items():
        table = scenario.tables[name]
        found = check_sources(table, source, of_table(mapping, name, scenario.tables))
        _refuse(table, found, max_bad_share)
        table.check(found.good, stored)
        stored[name] = concat_lazy([*([stored[name]] if name in stored else []), found.good.lazy()])
        _refuse_alike(source, stored[name].collect_schema().names())
        checked[name] = found
    _refuse_unused(mapping, checked)
    store.check_writable()
    number = fixed_shards(scenario, store, shards)
    return [_write(scenario, store, name, sources[name], found, number) for name, found in checked.items()]


def _write(
    scenario: Scenario, store: Store, name: str, source: str, checked: Checked, shards: int
) -> Ingested:
    table = scenario.tables[name]
    quarantine(scenario, store, table, checked.bad)
    frame = with_shard(checked.good, table.shard_by, shards) if table.shard_by else checked.good
    changed = upsert(store, f"{scenario.name}/{name}", table, frame)
    return Ingested(
        table=name,
        source=source,
        read=checked.read,
        accepted=frame.height,
        quarantined=checked.bad.height,
        superseded=checked.read - frame.height - checked.bad.height,
        changed=changed,
        version=store.version(f"{scenario.name}/{name}"),
        rules=_by_rule(checked.bad),
        ignored=checked.ignored,
    )


def fixed_shards(scenario: Scenario, store: Store, wanted: int | None, default: int = 32) -> int:
    """The number of shards of a scenario in this store, settled at its first ingest.

    Raises `StoreError` where another number is wanted later: it is part of every stored row.
    """
    path = f"{scenario.name}/scenario.json"
    if not store.create(path, f'{{"shards": {wanted or default}}}'.encode()):
        settled = int((store.get_json(path) or {})["shards"])
        if wanted not in (None, settled):
            raise StoreError(
                f"{store.uri}: {scenario.name} was ingested with {settled} shards; {wanted} were asked for. "
                "Leave --shards out, or ingest into a new --store."
            )
        return settled
    return wanted or default


def check_sources(table: Table, source: str, mapping: Mapping[str, str]) -> Checked:
    """All rows at `source`, split into good and bad.

    Of the rows of one file with the same unique columns the last is good, the others are duplicates;
    a row of a later file replaces that of an earlier one.
    """
    found = [(one.columns, rename(one, mapping, _required(table), table.aliases)) for one in read(source)]
    checked = [check_rows(table, one, frozenset(columns)) for columns, one in found]
    good = pl.concat([c.good for c in checked], how="diagonal_relaxed")
    bad = pl.concat([c.bad for c in checked])
    total = sum(c.read for c in checked)
    if total == 0:
        raise SourceError(f"{source}: there is a header but no rows. Expected at least one.")
    if len(checked) > 1:
        good = last_of_each(good, table.unique)
    ignored = {name for c in checked for name in c.ignored} - set(good.columns)
    return Checked(good, bad, total, tuple(sorted(ignored)), frozenset().union(*(c.columns for c in checked)))


def check_rows(table: Table, source: Source, columns: frozenset[str] = frozenset()) -> Checked:
    """The rows of one source that keep the contract, typed, and those that break it, as they came."""
    raw = source.rows().with_row_index(_ROW, offset=1)
    covariates = _numeric(raw, exclude=_required(table)) if table.covariates else []
    ignored = tuple(c for c in raw.columns if c not in (_ROW, *_required(table), *covariates))
    schema = _with_covariates(table.schema, covariates)
    wanted = raw.select(_ROW, *schema.column_names())
    typed = wanted.select(
        _ROW, *(_cast(wanted[c], schema.columns()[c].dtype).alias(c) for c in schema.column_names())
    )
    broken = _unparsable(wanted, typed)
    good, invalid = _valid(schema, typed.join(broken, on=_ROW, how="anti", maintain_order="left"))
    latest = last_of_each(good, table.unique)
    repeated = good.select(_ROW).join(latest, on=_ROW, how="anti")
    duplicate = repeated.with_columns(pl.lit(f"{','.join(table.unique)}|duplicate").alias(_RULE))
    bad = raw.join(pl.concat([broken, invalid, duplicate]), on=_ROW, how="inner", maintain_order="left")
    return Checked(latest.drop(_ROW), _as_bad(bad, source.name), raw.height, ignored, columns)


def _valid(schema: type[dy.Schema], typed: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows that keep the rules of `schema`, and for each other row the first rule that it breaks."""
    contract: type[dy.Schema] = type("Numbered", (schema,), {"row": dy.UInt32(alias=_ROW)})
    good, failure = contract.filter(typed, cast=True)
    details = failure.details()
    rules = [pl.when(pl.col(c) == "invalid").then(pl.lit(c)) for c in details.columns if c not in typed]
    first = pl.coalesce(*rules) if rules else pl.lit(None, pl.String)
    return pl.DataFrame(good).sort(_ROW), details.select(_ROW, first.alias(_RULE))


def last_of_each(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """The last row of each combination of `columns`, sorted by them.

    >>> last_of_each(pl.DataFrame({"key": ["b", "a", "b"], "value": [1, 2, 3]}), ["key"]).rows()
    [('a', 2), ('b', 3)]
    """
    ordered = frame.sort(columns, maintain_order=True)
    differs = [pl.col(c).ne_missing(pl.col(c).shift(-1)) for c in columns]
    is_last = pl.int_range(pl.len()) == pl.len() - 1
    return ordered.filter(pl.any_horizontal(is_last, *differs))


def quarantine(scenario: Scenario, store: Store, table: Table, bad: pl.DataFrame) -> None:
    """Append bad rows to the scenario's quarantine; rows that are there already are not repeated."""
    if bad.is_empty():
        return
    path = f"{scenario.name}/quarantine"
    rows = bad.with_columns(pl.lit(table.name).alias("table"))
    if store.version(path) is not None:
        known = store.scan(path).select(rows.columns).collect()
        rows = rows.join(known, on=rows.columns, how="anti", nulls_equal=True)
    if rows.is_empty():
        return
    rows = rows.with_columns(pl.lit(datetime.now(UTC)).alias("ingested_at"))
    rows = rows.select("table", "source", "row_number", "row", "rule", "ingested_at")
    fingerprint = digest(rows.drop("ingested_at").hash_rows(seed=1).to_list())
    store.append(path, rows, once=f"quarantine-{fingerprint}")


def upsert(store: Store, path: str, table: Table, frame: pl.DataFrame) -> int:
    """Bring `frame` into a table in one commit; the number of rows that were new or different.

    Columns that the table has and `frame` lacks keep their stored values. No commit where nothing changes.
    """
    partition = "shard" if table.shard_by else None

    def attempt() -> int:
        if store.version(path) is None:
            write_deltalake(store.uri_of(path), frame, partition_by=partition)
            return frame.height
        target = store.table(path)
        changed = _changed(store.scan(path), frame, table)
        if changed.is_empty():
            return 0
        on = " AND ".join(f"t.{c} = s.{c}" for c in (*(["shard"] if partition else []), *table.unique))
        if partition:
            inside = ", ".join(str(n) for n in sorted(changed["shard"].unique()))
            on = f"t.shard IN ({inside}) AND {on}"
        target.merge(
            changed,
            predicate=on,
            source_alias="s",
            target_alias="t",
            merge_schema=True,
            commit_properties=CommitProperties(max_commit_retries=0),
        ).when_matched_update_all().when_not_matched_insert_all().execute()
        return changed.height

    return int(store.retrying(path, attempt))


def _changed(stored: pl.LazyFrame, frame: pl.DataFrame, table: Table) -> pl.DataFrame:
    """The rows of `frame` that `stored` lacks or holds with other values."""
    names = stored.collect_schema().names()
    kept = [c for c in names if c not in frame.columns]
    compared = [c for c in frame.columns if c not in (*table.unique, "shard")]
    before = {c: f"{_MARK}{c}" for c in compared if c in names}
    old = stored.select(
        *table.unique,
        *kept,
        *(pl.col(c).alias(name) for c, name in before.items()),
        pl.lit(True).alias(_KNOWN),
    )
    joined = frame.lazy().join(old, on=list(table.unique), how="left", maintain_order="left")
    differs = [pl.col(c).ne_missing(pl.col(name)) for c, name in before.items()]
    differs += [pl.col(c).is_not_null() for c in compared if c not in names]
    news = pl.any_horizontal(pl.col(_KNOWN).is_null(), *differs)
    return joined.filter(news).select(*frame.columns, *kept).collect()


def _refuse(table: Table, checked: Checked, max_bad_share: float) -> None:
    """Raise `ContractError` where more of the rows are bad than is allowed."""
    total = checked.read
    share = checked.bad.height / total
    if share <= max_bad_share and checked.good.height:
        return
    rules = "\n".join(f"  {rule}: {count:,}" for rule, count in _by_rule(checked.bad).items())
    examples = "\n".join(
        f"  {row['source']}, row {row['row_number']:,}: {row['rule']}: {row['row']}"
        for row in checked.bad.sort("rule", "source", "row_number")
        .group_by("rule", maintain_order=True)
        .first()
        .iter_rows(named=True)
    )
    raise ContractError(
        f"{table.name}: {checked.bad.height:,} of {total:,} rows ({share:.1%}) break the contract, "
        f"{max_bad_share:.1%} are allowed. Nothing was written.\nRules broken:\n{rules}\nThe first of each:\n{examples}\n"
        "Correct the source, map columns with --column, or allow more with --max-bad-share."
    )


def _refuse_unused(mapping: Mapping[str, str], checked: Mapping[str, Checked]) -> None:
    """Raise `SourceError` where a column is mapped from one that no source has."""
    for column, source in mapping.items():
        table, dot, _ = column.partition(".")
        of = [checked[table]] if dot and table in checked else checked.values()
        found = sorted({name for c in of for name in c.columns})
        if source not in found:
            raise SourceError(
                f"--column {column}={source}: no source has a column '{source}'. Found: {', '.join(found)}."
            )


def _refuse_alike(source: str, columns: Sequence[str]) -> None:
    """Raise `SourceError` where names differ only in upper and lower case: a table cannot hold both."""
    first: dict[str, str] = {}
    for column in columns:
        known = first.setdefault(column.lower(), column)
        if known != column:
            raise SourceError(
                f"{source}: columns '{known}' and '{column}' differ only in upper and lower case. "
                f"Map one to the other with --column {known}={column}."
            )


def _required(table: Table) -> list[str]:
    return table.schema.column_names()


def _with_covariates(schema: type[dy.Schema], covariates: list[str]) -> type[dy.Schema]:
    added = {f"covariate_{i}": dy.Float64(alias=c, nullable=True) for i, c in enumerate(covariates)}
    return type(schema.__name__, (schema,), added)


def _numeric(raw: pl.DataFrame, exclude: list[str]) -> list[str]:
    """Further columns that hold numbers: by type, or, where all is text, by nearly all of their values.

    `shard` is not one of them, nor is a name that a Delta table cannot hold.
    """
    names = []
    for column in raw.drop(_ROW, *exclude).iter_columns():
        if column.name == "shard" or "`" in column.name:
            continue
        if column.dtype.is_numeric() or column.dtype == pl.Boolean:
            names.append(column.name)
        elif column.dtype == pl.String and (filled := column.drop_nulls()).len():
            parsed = filled.str.strip_chars().cast(pl.Float64, strict=False)
            if parsed.count() >= _NUMERIC_SHARE * parsed.len():
                names.append(column.name)
    return names


def _cast(values: pl.Series, dtype: Any) -> pl.Series:
    """`values` as `dtype`, null where that is impossible."""
    if values.dtype == pl.String and not isinstance(dtype, pl.String):
        values = values.str.strip_chars()
        if isinstance(dtype, pl.Date):
            days = values.str.to_date("%Y-%m-%d", strict=False)
            moments = values.str.replace("T", " ").str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False)
            return days.fill_null(moments.dt.date())
    try:
        return values.cast(dtype, strict=False)
    except pl.exceptions.PolarsError:
        return pl.Series(values.name, [None] * values.len(), dtype=dtype)


def _unparsable(raw: pl.DataFrame, typed: pl.DataFrame) -> pl.DataFrame:
    """Rows in which a value is there but not of its column's type, with the first such column as the rule."""
    columns = [c for c in raw.columns if raw[c].dtype != typed[c].dtype]
    if not columns:
        return pl.DataFrame(schema={_ROW: pl.UInt32, _RULE: pl.String})
    both = raw.select(_ROW, *columns).hstack([typed[c].alias(f"{_MARK}{c}") for c in columns])
    lost = [
        pl.when(pl.col(c).is_not_null() & pl.col(f"{_MARK}{c}").is_null()).then(
            pl.lit(f"{c}|{_type_name(typed[c].dtype)}")
        )
        for c in columns
    ]
    return both.select(_ROW, pl.coalesce(*lost).alias(_RULE)).drop_nulls(_RULE)


def _type_name(dtype: pl.DataType) -> str:
    return "number" if dtype.is_numeric() else str(dtype).split("(")[0].lower()


def _as_bad(rows: pl.DataFrame, source: str) -> pl.DataFrame:
    """Rows in the shape of the quarantine: source, row number, the row as JSON, the rule."""
    rows = rows.with_columns(selectors.binary().bin.encode("base64"))
    return rows.select(
        pl.lit(source).alias("source"),
        pl.col(_ROW).cast(pl.Int64).alias("row_number"),
        pl.struct(pl.exclude(_ROW, _RULE)).struct.json_encode().alias("row"),
        pl.col(_RULE).alias("rule"),
    )


def _by_rule(bad: pl.DataFrame) -> dict[str, int]:
    counts = bad.group_by("rule").len("rows").sort(["rows", "rule"], descending=[True, False])
    return dict(counts.iter_rows())
