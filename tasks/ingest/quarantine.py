"""Rows that broke a rule, kept in the scenario's quarantine with their source and the rule."""

from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl
from deltalake import CommitProperties, DeltaTable
from polars import selectors

from models.contracts import ROW, RULE
from models.scenario import Scenario, Table
from tasks.storage.layout import Layout
from tasks.storage.store import Store, digest

FOOTER, SUBTOTAL = "footer", "subtotal"
"""The rules of rows at the end of a file that lack a key or a time, and of sums. They never stop an ingest."""


def quarantine(scenario: Scenario, store: Store, table: Table, bad: pl.DataFrame) -> None:
    """Append bad rows to the scenario's quarantine, except those that it already holds."""
    if bad.is_empty():
        return
    path = _path(scenario)
    rows = bad.with_columns(pl.lit(table.name).alias("table"))
    if (before := store.find(path)) is not None:
        sources = bad["source"].unique().implode()
        previous = before.filter(pl.col("source").is_in(sources)).select(rows.columns).collect()
        rows = rows.join(previous, on=rows.columns, how="anti", nulls_equal=True)
    if rows.is_empty():
        return
    rows = rows.with_columns(pl.lit(datetime.now(UTC)).alias("ingested_at"))
    rows = rows.select("table", "source", "row_number", "row", "rule", "ingested_at")
    fingerprint = digest(rows.drop("ingested_at").hash_rows(seed=1).to_list())
    store.append(path, rows, once=f"quarantine-{fingerprint}")


def held(scenario: Scenario, store: Store, table: Table) -> dict[str, set[int | None]]:
    """The row numbers of a table in quarantine, by source; None stands for a source as a whole, or a row without a
    number."""
    if (every := store.find(_path(scenario))) is None:
        return {}
    rows = every.filter(table=table.name).group_by("source").agg("row_number").collect()
    return {source: {*numbers} for source, numbers in rows.iter_rows()}


def release(scenario: Scenario, store: Store, table: Table, sources: Sequence[str], bad: pl.DataFrame) -> int:
    """Remove from quarantine the rows of reread sources that are no longer among `bad`, and return how many."""
    path = _path(scenario)
    if (every := store.find(path)) is None:
        return 0
    place = pl.col("source").is_in(sources)
    there = every.filter(pl.col("table") == table.name, place).collect()
    well = there.join(bad, on=["source", "row_number"], how="anti", nulls_equal=True)
    if well.height:
        rows = well.select("source", "row_number").unique(maintain_order=True)
        store.retrying(path, lambda: _delete(store.table(path), table.name, rows))
    return well.height


def _path(scenario: Scenario) -> str:
    return Layout(scenario.name).table("quarantine")


def _delete(table: DeltaTable, name: str, rows: pl.DataFrame) -> None:
    same = "held.row_number = well.row_number or held.row_number is null and well.row_number is null"
    merge = table.merge(
        rows.to_arrow(),
        f"held.\"table\" = '{name}' and held.source = well.source and ({same})",
        source_alias="well",
        target_alias="held",
        commit_properties=CommitProperties(max_commit_retries=0),
    )
    merge.when_matched_delete().execute()


def as_bad(rows: pl.DataFrame, source: str, number: str | None) -> pl.DataFrame:
    """Rows with the columns of the quarantine: source, row number, the row as JSON, the rule."""
    rows = rows.with_columns(selectors.binary().bin.encode("base64"))
    apart = [c for c in (ROW, RULE, number) if c in rows.columns]
    return rows.select(
        pl.lit(source).alias("source"),
        (pl.col(number) if number else pl.lit(None)).cast(pl.Int64).alias("row_number"),
        pl.struct(pl.exclude(apart)).struct.json_encode().alias("row"),
        pl.col(RULE).alias("rule"),
    )


def by_rule(bad: pl.DataFrame) -> dict[str, int]:
    counts = bad.group_by("rule").len("rows").sort(["rows", "rule"], descending=[True, False])
    return dict(counts.iter_rows())
