"""Days of sales or covariates, added up to weeks."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal, get_args

import polars as pl

from models.contracts import put_together
from models.errors import ContractError

Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
"""The weekday on which weeks start."""
_DAY = timedelta(days=1)


def as_weeks(rows: pl.DataFrame, start: Weekday, amounts: Sequence[str], table: str) -> pl.DataFrame:
    """`rows`, whose `week` is a day, with one for each key and whole week, dated by its first day.

    `amounts` are added up, other numbers averaged, and text is that of the last day. A week is whole if it begins and
    ends within the days of all rows; a weekday that never occurs, such as a Sunday, may be missing.
    Raises `ContractError` if no week is whole, and for weeks or months in the place of days; weeks that start on `start`
    stay as they are.
    """
    shift = get_args(Weekday).index(start) * _DAY
    day, week = pl.col("week"), (pl.col("week") - shift).dt.truncate("1w") + shift
    since = rows.select(day - week).to_series()
    dates = rows["week"].unique().sort().to_list()
    first, last = dates[0], dates[-1]
    if since.max() and len(dates) == rows.select(week)["week"].n_unique():
        raise ContractError(
            f"{table}: no week has two dates, such as {first:%A}, {first}. Expected days. For weeks, leave --daily out. "
            f"Weeks beside days start on the weekday of --daily, here {start.capitalize()}."
        )
    keys = [c for c in ("sku", "store") if c in rows.columns]
    values = [c for c in rows.columns if c not in (*keys, "week")]
    weeks = (
        rows.with_columns(week)
        .filter(day + since.min() >= first, day + since.max() <= last)
        .group_by(*keys, "week", maintain_order=True)
        .agg(put_together(rows, values, amounts))
        .select(rows.columns)
    )
    if weeks.is_empty():
        raise ContractError(
            f"{table}: days from {first} to {last} are no whole week from {start.capitalize()}. Expected all days of at "
            "least one week."
        )
    return weeks
