"""The contents and the freshness of the input tables, and the quarantine; from file statistics if possible."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl

from models.moments import as_moment
from models.scenario import Scenario, Table
from tasks.storage.layout import Layout
from tasks.storage.store import Store

_COMMITS = 50
"""The number of commits searched for the last one that brought rows; compaction brings none."""
_EXAMPLE = 200
_LATE = 2
_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class TableStatus:
    """The contents of one table. `first` and `last` are the range of its times; None if it has no times.

    `keys` counts the scenario's keys, or the part of them that the table has; None if it has no part.
    """

    table: str
    version: int
    rows: int
    keys: int | None
    first: date | None
    last: date | None
    written: datetime


def table_status(scenario: Scenario, store: Store, table: Table) -> TableStatus | None:
    """The contents of a table, None if it does not exist. Only the columns of the key are read, and those lazily."""
    path = Layout(scenario.name).table(table.name)
    version = store.version(path)
    if version is None:
        return None
    log = pl.DataFrame(store.table(path, version).get_add_actions(flatten=True))
    rows = store.scan(path, version)
    key = [column for column in scenario.key if column in table.unique]
    first, last = _range(log, rows, table)
    return TableStatus(
        table=table.name,
        version=version,
        rows=int(log["num_records"].sum()) if log.height else 0,
        keys=rows.select(pl.struct(key).n_unique()).collect(engine="streaming").item() if key else None,
        first=first,
        last=last,
        written=_written(store, path, version),
    )


def _range(log: pl.DataFrame, rows: pl.LazyFrame, table: Table) -> tuple[date | None, date | None]:
    """The first and the last time, from the statistics of the files; from the rows if a file has none."""
    schema = rows.collect_schema()
    times = [column for column in table.unique if schema[column].is_temporal()]
    if not times:
        return None, None
    low, high = f"min.{times[0]}", f"max.{times[0]}"
    some = log.filter(pl.col("num_records") > 0)
    if low in log.columns and not some[low].null_count() and not some[high].null_count():
        ends = some.select(pl.col(low).min(), pl.col(high).max())
    else:
        time = pl.col(times[0])
        ends = rows.select(time.min().alias("first"), time.max().alias("last")).collect(engine="streaming")
    first, last = ends.row(0)
    return first, last


def _written(store: Store, path: str, version: int) -> datetime:
    """When rows were last written to a table."""
    commits = store.table(path, version).history(_COMMITS)
    last_commit = next((commit for commit in commits if "changed" in commit), commits[0])
    return datetime.fromtimestamp(last_commit["timestamp"] / 1000, UTC)


def stored_tables(scenario: Scenario, store: Store) -> dict[str, pl.LazyFrame]:
    """The input tables that exist, by name."""
    paths = {name: Layout(scenario.name).table(name) for name in scenario.tables}
    return {name: rows for name, path in paths.items() if (rows := store.find(path)) is not None}


def paced(scenario: Scenario, store: Store) -> Scenario:
    """The scenario with the cadence that its stored tables show."""
    return scenario.at_pace_of(stored_tables(scenario, store))


def freshness(
    scenario: Scenario, statuses: Sequence[TableStatus], now: datetime
) -> tuple[float | None, bool | None]:
    """Hours since the last time of the scenario's first table, and whether that is at most two of its cadences and the
    time allowed.

    Both are None if the table has no times or does not exist; the second also without a cadence.
    """
    first = next(iter(scenario.tables))
    last = next((status.last for status in statuses if status.table == first), None)
    if last is None:
        return None, None
    fresh = None if scenario.cadence is None else not is_stale(scenario, last, now - time_allowed(scenario))
    return round((now - as_moment(last)) / _HOUR, 1), fresh


def is_stale(scenario: Scenario, last: date, now: datetime) -> bool:
    """Whether data that ends at `last` is more than two of the scenario's cadences old; never without a cadence."""
    return scenario.cadence is not None and now - as_moment(last) > _LATE * scenario.cadence


def time_allowed(scenario: Scenario) -> timedelta:
    """The time that an ingest or a run may take until it counts as overdue: two hours, or a quarter of the cadence.

    Weeks end on Sunday night, and are ingested on Monday morning.
    """
    return max(2 * _HOUR, (scenario.cadence or timedelta(days=1)) / 4)


def quarantined(store: Store, scenario: str) -> list[dict[str, Any]]:
    """Rows in quarantine by table and rule, most first: number of rows and sources, time of the last one, and an
    example."""
    rows = store.find(Layout(scenario).table("quarantine"))
    if rows is None:
        return []
    by_rule = (
        rows.group_by("table", "rule")
        .agg(
            pl.len().alias("rows"),
            pl.col("source").n_unique().alias("sources"),
            pl.col("ingested_at").max().dt.strftime("%Y-%m-%d %H:%M").alias("last"),
            *(
                pl.col(name).sort_by("ingested_at", "source", "row_number").last()
                for name in ("source", "row_number", "row")
            ),
        )
        .sort(["rows", "table", "rule"], descending=[True, False, False])
    )
    return [
        {
            "table": f"{scenario}/{row['table']}",
            **{name: row[name] for name in ("rule", "rows", "sources", "last")},
            "example": _shortened(row),
        }
        for row in by_rule.collect(engine="streaming").iter_rows(named=True)
    ]


def _shortened(example: dict[str, Any]) -> str:
    number = "" if example["row_number"] is None else f", row {example['row_number']}"
    text = f"{example['source']}{number}: {example['row']}"
    return text if len(text) <= _EXAMPLE else f"{text[: _EXAMPLE - 1]}…"
