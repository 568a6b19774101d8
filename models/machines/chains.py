"""Failures that are logged again and again until they are repaired: each such chain is one failure.

A record of a component that has already failed, within `WITHIN` of the previous record and without a
replacement in between, belongs to the same failure. A chain may be of any length.
"""

from datetime import timedelta

import polars as pl

from models.machines.next_in_time import with_last

WITHIN = timedelta(hours=24)
_COMPONENT = ("machine_id", "component")


def first_of_chains(failures: pl.LazyFrame, maintenance: pl.LazyFrame | None) -> pl.LazyFrame:
    """`failures` without the records that repeat an earlier one; the columns are unchanged."""
    before = pl.col("time").shift().over(_COMPONENT)
    records = failures.sort("time", *_COMPONENT).with_columns(before.alias("|before"))
    repair = pl.lit(None, dtype=pl.Datetime("us", "UTC")).alias("|repaired")
    if maintenance is None:
        records = records.with_columns(repair)
    else:
        repairs = maintenance.select(*_COMPONENT, "time", pl.col("time").alias("|repaired")).sort("time")
        records = with_last(records, repairs, _COMPONENT, earlier=True)
    close = pl.col("time") - pl.col("|before") <= WITHIN
    again = close & ~(pl.col("|repaired") >= pl.col("|before")).fill_null(value=False)
    return records.filter(~again.fill_null(value=False)).drop("|before", "|repaired")
