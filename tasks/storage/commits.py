"""What the commits of an ingest say of themselves: how many rows they brought, and of what time.

It is kept in the table's log, so that it is known exactly when the rows are.
"""

from datetime import datetime
from typing import Any

import polars as pl

from models.scenario import Table
from tasks.storage.store import Store


def facts(table: Table, rows: pl.LazyFrame) -> dict[str, str]:
    """Metadata of a commit that brings `rows`: `changed`, and `from` and `to` where the table has times."""
    schema = rows.collect_schema()
    times = [pl.col(c) for c in table.unique if schema[c].is_temporal()][:1]
    ends = [end for time in times for end in (time.min().alias("from"), time.max().alias("to"))]
    found = rows.select(pl.len().alias("changed"), *ends).collect(engine="streaming").row(0, named=True)
    return {
        name: value.isoformat() if hasattr(value, "isoformat") else str(value)
        for name, value in found.items()
        if value is not None
    }


def committed(store: Store, path: str, after: int) -> dict[str, Any]:
    """What the commits of a table after version `after` brought together: `version`, `changed`, `from`, `to`.

    A row that several commits changed is counted by each. Without `from` and `to` where there are no times.
    """
    table = store.table(path)
    version = table.version()
    told = [entry for entry in table.history(version - after) if "changed" in entry]
    found: dict[str, Any] = {"version": version, "changed": sum(int(entry["changed"]) for entry in told)}
    if begins := [entry["from"] for entry in told if "from" in entry]:
        found |= {"from": min(begins), "to": max(entry["to"] for entry in told if "to" in entry)}
    return found


def touched(store: Store, path: str, after: int) -> list[tuple[int, datetime, datetime]]:
    """As `spans`, with the times as moments."""
    return [
        (version, datetime.fromisoformat(begin), datetime.fromisoformat(end))
        for version, begin, end in spans(store, path, after)
    ]


def spans(store: Store, path: str, after: int) -> list[tuple[int, str, str]]:
    """Of each commit of a table after version `after`: version, first and last time of its rows, in ISO form.

    Commits that say no times are left out: they changed no rows, or those of a table without times.

    Each commit is a file of the table's log. What was read once is kept in a file, so that a run reads the commits since
    the last one, and not those of a month. That file is made anew where it does not reach back far enough, or where the
    table is another one than then.
    """
    table = store.table(path)
    version = table.version()
    place = _kept(path)
    known = store.get_json(place) or {}
    if not known.get("after", version) <= after <= known.get("through", -1) <= version:
        known = {"after": after, "through": after, "spans": []}
    found = [(int(number), str(begin), str(end)) for number, begin, end in known["spans"]]
    if version > known["through"]:
        entries = table.history(version - known["through"])
        found += [(int(one["version"]), one["from"], one["to"]) for one in entries if "from" in one]
        store.put_json(place, {"after": known["after"], "through": version, "spans": found})
    return [span for span in found if span[0] > after]


def _kept(path: str) -> str:
    scenario, _, name = path.partition("/")
    return f"{scenario}/commits/{name}.json"
