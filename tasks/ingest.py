"""Source -> contract -> table. Bad rows go to the scenario's quarantine with the rule they broke."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dataframely as dy
import polars as pl
from deltalake import CommitProperties, write_deltalake
from prefect import task

from models.errors import ContractError
from models.scenario import Scenario, Table
from tasks.sources import Source, SourceError, read, rename
from tasks.store import Store, StoreError, digest, with_shard

ROW, SOURCE = "row_number", "source"
_NUMERIC_SHARE = 0.95


@dataclass(frozen=True)
class Ingested:
    """What became of one source: rows read = accepted + quarantined; `changed` of the accepted were news."""

    table: str
    source: str
    read: int
    quarantined: int
    changed: int
    version: int | None
    rules: Mapping[str, int] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Checked:
    good: pl.DataFrame
    bad: pl.DataFrame
    ignored: tuple[str, ...]


@task(name="ingest", task_run_name="ingest-{name}")
def ingest(
    scenario: Scenario,
    store: Store,
    name: str,
    source: str,
    mapping: Mapping[str, str],
    shards: int,
    max_bad_share: float,
) -> Ingested:
    """Read `source` into the table `name`.

    Nothing is written when more than `max_bad_share` of the rows break the contract, or when the
    rows are wrong as a whole. Rows that the table has already change nothing; a row with other
    values for the same unique columns replaces the earlier one, which stays in the older version.
    """
    table = scenario.tables[name]
    checked = check_sources(table, source, mapping)
    _refuse(table, checked, max_bad_share)
    stored = {
        n: store.scan(path)
        for n in scenario.tables
        if store.version(path := f"{scenario.name}/{n}") is not None
    }
    table.check(checked.good, stored)
    store.check_writable()
    frame = with_shard(checked.good, table.shard_by, shards) if table.shard_by else checked.good
    frame = frame.drop(SOURCE, ROW)
    quarantine(scenario, store, table, checked.bad)
    changed = upsert(store, f"{scenario.name}/{name}", table, frame)
    return Ingested(
        table=name,
        source=source,
        read=checked.good.height + checked.bad.height,
        quarantined=checked.bad.height,
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


def check_sources(table: Table, source: str, mapping: Mapping[str, str]) -> _Checked:
    """All rows at `source`, split into good and bad.

    Of the rows of one file with the same unique columns the last is good, the others are duplicates;
    a row of a later file replaces that of an earlier one.
    """
    checked = [check_rows(table, rename(s, mapping, _required(table))) for s in read(source)]
    good = pl.concat([c.good for c in checked], how="diagonal_relaxed")
    bad = pl.concat([c.bad for c in checked])
    if good.height + bad.height == 0:
        raise SourceError(f"{source}: there is a header but no rows. Expected at least one.")
    if len(checked) > 1:
        good = last_of_each(good, table.unique)
    return _Checked(good, bad, tuple(sorted({name for c in checked for name in c.ignored})))


def check_rows(table: Table, source: Source) -> _Checked:
    """The rows of one source that keep the contract, typed, and those that break it, as they came."""
    raw = source.frame.with_row_index(ROW, offset=1).collect()
    covariates = _numeric(raw, exclude=_required(table)) if table.covariates else []
    ignored = tuple(c for c in raw.columns if c not in (ROW, *_required(table), *covariates))
    schema = _with_covariates(table.schema, covariates)
    raw = raw.select(ROW, *schema.column_names())
    typed = raw.select(
        ROW, *(_cast(raw[c], schema.columns()[c].dtype).alias(c) for c in schema.column_names())
    )
    broken = _unparsable(raw, typed)
    parsed = typed.join(broken, on=ROW, how="anti", maintain_order="left")
    contract: type[dy.Schema] = type("Numbered", (schema,), {ROW: dy.UInt32()})
    good, failure = contract.filter(parsed, cast=True)
    rules = [c for c in failure.details().columns if "|" in c]
    first = (
        pl.coalesce(*(pl.when(pl.col(c) == "invalid").then(pl.lit(c)) for c in rules))
        if rules
        else pl.lit("")
    )
    invalid = failure.details().select(ROW, first.alias("rule")) if rules else broken.clear()
    bad = pl.concat([broken, invalid.cast(broken.schema)])
    bad = raw.join(bad, on=ROW, how="inner", maintain_order="left").with_columns(
        pl.lit(source.name).alias(SOURCE)
    )
    kept = pl.DataFrame(good).sort(ROW).with_columns(pl.lit(source.name).alias(SOURCE))
    latest = last_of_each(kept, table.unique)
    repeated = kept.join(latest, on=ROW, how="anti") if latest.height < kept.height else kept.clear()
    duplicate = pl.lit(f"{','.join(table.unique)}|duplicate")
    return _Checked(latest, pl.concat([_as_bad(bad, pl.col("rule")), _as_bad(repeated, duplicate)]), ignored)


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
    rows = rows.select("table", SOURCE, ROW, "row", "rule", "ingested_at")
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
    old = stored.select(
        *table.unique, *kept, *(pl.col(c).alias(f"{c}|old") for c in compared if c in names), known=True
    )
    joined = frame.lazy().join(old, on=list(table.unique), how="left", maintain_order="left")
    differs = [pl.col(c).ne_missing(pl.col(f"{c}|old")) for c in compared if c in names]
    differs += [pl.col(c).is_not_null() for c in compared if c not in names]
    news = pl.any_horizontal(pl.col("known").is_null(), *differs)
    return joined.filter(news).select(*frame.columns, *kept).collect()


def _refuse(table: Table, checked: _Checked, max_bad_share: float) -> None:
    """Raise `ContractError` where more of the rows are bad than is allowed."""
    total = checked.good.height + checked.bad.height
    share = checked.bad.height / total
    if share <= max_bad_share and checked.good.height:
        return
    rules = "\n".join(f"  {rule}: {count:,}" for rule, count in _by_rule(checked.bad).items())
    examples = "\n".join(
        f"  {row[SOURCE]}, row {row[ROW]:,}: {row['rule']}: {row['row']}"
        for row in checked.bad.sort("rule", SOURCE, ROW)
        .group_by("rule", maintain_order=True)
        .first()
        .iter_rows(named=True)
    )
    raise ContractError(
        f"{table.name}: {checked.bad.height:,} of {total:,} rows ({share:.1%}) break the contract, "
        f"{max_bad_share:.1%} are allowed. Nothing was written.\nRules broken:\n{rules}\nThe first of each:\n{examples}\n"
        "Correct the source, map columns with --column, or allow more with --max-bad-share."
    )


def _required(table: Table) -> list[str]:
    return table.schema.column_names()


def _with_covariates(schema: type[dy.Schema], covariates: list[str]) -> type[dy.Schema]:
    return type(schema.__name__, (schema,), {c: dy.Float64(nullable=True) for c in covariates})


def _numeric(raw: pl.DataFrame, exclude: list[str]) -> list[str]:
    """Further columns that hold numbers: by type, or, where all is text, by nearly all of their values."""
    names = []
    for column in raw.drop(ROW, *exclude).iter_columns():
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
        return pl.DataFrame(schema={ROW: pl.UInt32, "rule": pl.String})
    both = raw.select(ROW, *columns).hstack([typed[c].alias(f"{c}|typed") for c in columns])
    lost = [
        pl.when(pl.col(c).is_not_null() & pl.col(f"{c}|typed").is_null()).then(
            pl.lit(f"{c}|{_type_name(typed[c].dtype)}")
        )
        for c in columns
    ]
    return both.select(ROW, pl.coalesce(*lost).alias("rule")).drop_nulls("rule")


def _type_name(dtype: pl.DataType) -> str:
    return "number" if dtype.is_numeric() else str(dtype).split("(")[0].lower()


def _as_bad(rows: pl.DataFrame, rule: pl.Expr) -> pl.DataFrame:
    """Rows in the shape of the quarantine: source, row number, the row as JSON, the rule."""
    values = pl.struct(pl.exclude(SOURCE, ROW, "rule")).struct.json_encode()
    return rows.select(
        SOURCE, pl.col(ROW).cast(pl.Int64), values.alias("row"), rule.cast(pl.String).alias("rule")
    )


def _by_rule(bad: pl.DataFrame) -> dict[str, int]:
    counts = bad.group_by("rule").len("rows").sort(["rows", "rule"], descending=[True, False])
    return dict(counts.iter_rows())
