"""Rules on the dates of weeks: how they are written, and on which weekday they start."""

import re
from datetime import date

import polars as pl

from models.errors import ContractError
from models.time_notations import LONG_PERIOD, is_week, is_week_end

KEY_AND_WEEK = ("sku", "store", "week")
MOST_ANCHORS = 2
"""If the weeks of one file start on more weekdays, they are days or months."""
_NOT_WEEKLY = (
    "If they are days, add --daily monday, or the weekday on which your weeks start: whole weeks are added up. "
    "Months are not read."
)
_OTHER_ANCHOR = (
    "Date every row by the first day of its week, or all of them by the last day and add --week-ending."
)
_WEEK_ALONE = r"(?i)^(w|kw|cw|wk|week|semaine|s)?[ .-]?([1-9]|[0-4]\d|5[0-3])$"
_FIRST_OR_LAST = r"^(19|20)\d\d\D{0,9}(00|53)$|^(19|20)\d\d\D{1,9}0$|^\D{0,9}(0?0|53)\D{1,3}(19|20)\d\d$"
"""A week 0 or 53 with its year, such as 2021-W53 or 2021 53."""
_LONG_YEAR = 53
_FIRST = 200


def anchors_of(frame: pl.LazyFrame, origin: str) -> pl.DataFrame:
    """Weekdays on which weeks start, most frequent first, each with an example."""
    names = frame.collect_schema().names()
    example = [name for name in ("week", "sku", "store") if name in names]
    return (
        frame.group_by(pl.col("week").dt.strftime("%A").alias("weekday"))
        .agg(pl.len().alias("rows"), pl.col(example).sort_by(example).first())
        .sort(["rows", "weekday"], descending=[True, False])
        .with_columns(pl.lit(origin).alias("origin"))
        .collect()
    )


def refuse_other_times(weeks: pl.Series, table: str) -> None:
    """Raise `ContractError` if `weeks` are weeks without a year, or months."""
    text = weeks.drop_nulls().head(_FIRST).cast(pl.String).str.strip_chars()
    if text.is_empty():
        return
    if text.str.contains(_WEEK_ALONE).all():
        raise ContractError(
            f"{table}: week is '{text[0]}', which has no year. Expected weeks such as 2024-W05. If another column has the "
            "year, join them with --column week=YEAR_COLUMN+WEEK_COLUMN."
        )
    if text.str.contains(LONG_PERIOD).all():
        raise ContractError(
            f"{table}: week is '{text[0]}', a month or a quarter. Expected weeks, or days with --daily."
        )
    _refuse_other_numbering(weeks, table)


def _refuse_other_numbering(weeks: pl.Series, table: str) -> None:
    """Raise `ContractError` if `weeks` have a week 0, or a week 53 of a year with 52: they are numbered from 1 January on,
    so that the others are not ISO weeks, either."""
    text = weeks.drop_nulls().cast(pl.String).str.strip_chars().unique(maintain_order=True)
    for week in text.filter(text.str.contains(_FIRST_OR_LAST)):
        year = int(re.findall(r"(?:19|20)\d\d", week)[0])
        if (
            re.search(r"53", week.replace(str(year), "", 1))
            and date(year, 12, 28).isocalendar().week == _LONG_YEAR
        ):
            continue
        raise ContractError(
            f"{table}: week is '{week}', but {year} has no such ISO week, so all weeks are numbered in another way. "
            "Expected ISO weeks, or the first day of each week."
        )


def check_days(weeks: pl.Series, table: str, *, are_last: bool) -> None:
    """Raise `ContractError` for whole weeks where last days are expected, and for last days where first ones are."""
    wrong = weeks.filter(is_week(weeks) if are_last else is_week_end(weeks))
    if wrong.is_empty():
        return
    if are_last:
        raise ContractError(
            f"{table}: week is '{wrong[0]}', which names a whole week. With --week-ending, expected the last "
            "day of each week. Leave --week-ending out, or ingest files with such days by themselves."
        )
    raise ContractError(
        f"{table}: week is '{wrong[0]}', the last day of a week. Expected first days. Add --week-ending."
    )


def check_anchors(anchors: pl.DataFrame, table: str, most: int = 1) -> None:
    """Raise `ContractError` if weeks start on more than `most` weekdays; `anchors` as `anchors_of` returns them."""
    if anchors["weekday"].n_unique() <= most:
        return
    lines = [
        f"  {row['origin']}: {row['rows']:,} rows start on {row['weekday']}, e.g. "
        + ", ".join(f"{name} {row[name]}" for name in KEY_AND_WEEK if row.get(name) is not None)
        for row in anchors.iter_rows(named=True)
    ]
    are_days = anchors.filter(pl.col("origin") == table).height > MOST_ANCHORS
    raise ContractError(
        f"{table}: weeks start on different weekdays.\n"
        + "\n".join(lines)
        + "\nExpected one week anchor in all files. "
        + (_NOT_WEEKLY if are_days else _OTHER_ANCHOR)
    )
