"""Metadata of the commits of an ingest: the number of rows and the range of their times.

It is part of the table's log, so that it becomes visible together with the rows.
"""

from datetime import datetime
from typing import Any

import polars as pl

from models.scenario import Table
from tasks.storage.store import Store


def facts(table: Table, rows: pl.LazyFrame) -> dict[str, str]:
    """Metadata of a commit of `rows`: `changed`, and `from` and `to` if the table has times."""
    schema = rows.collect_schema()
    times = [pl.col(c) for c in table.unique if schema[c].is_temporal()][:1]
    ends = [end for time in times for end in (time.min().alias("from"), time.max().alias("to"))]
    row = rows.select(pl.len().alias("changed"), *ends).collect(engine="streaming").row(0, named=True)
    return {
        name: value.isoformat() if hasattr(value, "isoformat") else str(value)
        for name, value in row.items()
        if value is not None
    }


def commit_summary(store: Store, path: str, after: int) -> dict[str, Any]:
    """A summary of the commits of a table after version `after`: `version`, `changed`, `from`, `to`.

    A row that several commits changed is counted by each. `from` and `to` are absent if there are no times.
    """
    table = store.table(path)
    version = table.version()
    entries = [entry for entry in table.history(version - after) if "changed" in entry]
    summary: dict[str, Any] = {"version": version, "changed": sum(int(entry["changed"]) for entry in entries)}
    if begins := [entry["from"] for entry in entries if "from" in entry]:
        summary |= {"from": min(begins), "to": max(entry["to"] for entry in entries if "to" in entry)}
    return summary


def moment_spans(store: Store, path: str, after: int) -> list[tuple[int, datetime, datetime]]:
    """`spans` with the times as moments."""
    return [
        (version, datetime.fromisoformat(begin), datetime.fromisoformat(end))
        for version, begin, end in spans(store, path, after)
    ]


def spans(store: Store, path: str, after: int) -> list[tuple[int, str, str]]:
    """Version, first and last time of the rows, in ISO form, of each commit of a table after version `after`.

    Commits without times are left out: they changed no rows, or rows of a table without times.

    Each commit is a file of the table's log. A file caches what has been read, so that a run reads only the commits
    since the last one. The cache is rebuilt if it does not reach back far enough, or if the table has been replaced.
    """
    table = store.table(path)
    version = table.version()
    scenario, _, name = path.partition("/")
    place = f"{scenario}/commits/{name}.json"
    cache = store.get_json(place) or {}
    if not cache.get("after", version) <= after <= cache.get("through", -1) <= version:
        cache = {"after": after, "through": after, "spans": []}
    result = [(int(number), str(begin), str(end)) for number, begin, end in cache["spans"]]
    if version > cache["through"]:
        entries = table.history(version - cache["through"])
        result += [(int(one["version"]), one["from"], one["to"]) for one in entries if "from" in one]
        store.put_json(place, {"after": cache["after"], "through": version, "spans": result})
    return [span for span in result if span[0] > after]
