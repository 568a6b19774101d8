"""What happened next, or last, on the same machine: joins of rows and events that are each sorted by time."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

import polars as pl

Rows = TypeVar("Rows", pl.DataFrame, pl.LazyFrame)
_MACHINE = ("machine_id",)


def with_next(
    rows: Rows,
    events: Rows,
    by: Sequence[str] = _MACHINE,
    within: timedelta | None = None,
    *,
    later: bool = False,
) -> Rows:
    """`rows` with the columns of the next of the `events`, at most `within` after; with `later`, none at the same time.

    >>> rows = pl.DataFrame({"machine_id": "pump", "time": [1, 3]})
    >>> with_next(rows, rows.tail(1).with_columns(at="time"), later=True)["at"].to_list()
    [3, None]
    """
    return rows.join_asof(
        events,
        on="time",
        by=list(by),
        strategy="forward",
        tolerance=within,
        allow_exact_matches=not later,
        check_sortedness=False,
    )


def with_last(rows: Rows, events: Rows, by: Sequence[str] = _MACHINE, *, earlier: bool = False) -> Rows:
    """`rows` with the columns of the last of the `events`; with `earlier`, none at the same time."""
    return rows.join_asof(
        events, on="time", by=list(by), allow_exact_matches=not earlier, check_sortedness=False
    )
