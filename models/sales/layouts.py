"""Layouts of sales files of other products: Nixtla, Amazon Forecast, the competitions of M5 and Walmart."""

import re
from collections.abc import Sequence
from datetime import date, timedelta

import polars as pl

from models.errors import ContractError
from models.layouts import Asked, Layout, Part, beside, day

ONE_STORE = {"store": "all"}
_TARGETS = ("target_value", "demand", "workforce_demand", "metric_value", "number_of_instances")
_ITEMS = ("item_id", "workforce_type", "metric_name", "instance_type")
_PLACES = ("location", "store_id", "store", "location_id", "region")
_M5_BEGINS = date(2011, 1, 29)
_DAY_COLUMN = re.compile(r"d_(\d+)")


def _item_and_store(parts: Sequence[Part], _: Asked) -> list[Part]:
    """`unique_id` split at its slash, else at its last underscore."""
    name = "unique_id"
    there = r"^(.+)/([^/]+)$|^([^/]+)_([^_/]+)$"
    groups = pl.col(name).cast(pl.String).str.extract_groups(there)
    split = [
        pl.coalesce(groups.struct[a], groups.struct[b]).alias(column)
        for column, a, b in (("sku", 0, 2), ("store", 1, 3))
    ]
    return [Part(p.name, p.frame.with_columns(split)) if name in p.columns else p for p in parts]


def _forecast(parts: Sequence[Part], request: Asked) -> list[Part]:
    """The target series with the related ones beside it; for the plan, the related ones. Item metadata is left out."""
    timed = [part for part in parts if "timestamp" in part.columns]
    targets = [part for part in timed if {*_TARGETS} & {*part.columns}]
    related = [part for part in timed if part not in targets]
    if request.table == "plan":
        return related or list(parts)
    on = (*_ITEMS, *_PLACES)
    series = []
    for target in targets:
        for side in related:
            keys = [c for c in on if c in target.columns and c in side.columns]
            target = beside(target, side, keys, {"timestamp": "timestamp"}, request.dates)
        series.append(target)
    return series or list(parts)


def _walmart(parts: Sequence[Part], request: Asked) -> list[Part]:
    """The files of the table in a folder of the competition, with each week's features, by its first day."""
    if request.table == "stores":
        return [part for part in parts if "Date" not in part.columns] or list(parts)
    dated = [part for part in parts if "Date" in part.columns]
    sales = [part for part in dated if "Weekly_Sales" in part.columns]
    coming = [part for part in dated if part not in sales and "Dept" in part.columns]
    features = [part for part in dated if part not in (*sales, *coming)]
    files = []
    for part in (coming if request.table == "plan" else sales) or dated:
        for side in features if part not in features else []:
            part = beside(part, side, ["Store"], {"Date": "Date"}, request.dates)
        begin = (day("Date", request.dates) - timedelta(days=6)).cast(pl.String)
        weeks = pl.coalesce(begin, pl.col("Date").cast(pl.String)).alias("Date")
        files.append(Part(part.name, part.frame.with_columns(weeks)))
    return files or list(parts)


def _m5(parts: Sequence[Part], request: Asked) -> list[Part]:
    """Units of a day in columns d_1, d_2, ... summed to weeks that begin with d_1; incomplete weeks are left out.

    With the calendar its dates count, and prices that are in the same folder are a covariate: a week without a price
    and without a sale is one in which the item was not for sale. Without it d_1 is 29 January 2011.
    """
    sales = [part for part in parts if any(_DAY_COLUMN.fullmatch(c) for c in part.columns)]
    calendar = next((part for part in parts if {"d", "date"} <= {*part.columns}), None)
    prices = next((part for part in parts if {"sell_price", "wm_yr_wk"} <= {*part.columns}), None)
    begin = _M5_BEGINS if calendar is None else _first_day(calendar, request)
    weekly = [_weekly(part, begin) for part in sales]
    if prices is None or calendar is None:
        return weekly or list(parts)
    weeks = (
        calendar.frame.select("wm_yr_wk", day("date", request.dates).alias("week")).group_by("wm_yr_wk").min()
    )
    priced = prices.frame.join(weeks, on="wm_yr_wk").select(
        "item_id", "store_id", pl.col("week").cast(pl.String), "sell_price"
    )
    keys = ["item_id", "store_id", "week"]
    on_sale = pl.col("sell_price").is_not_null() | (pl.col("units") > 0)
    return [Part(p.name, p.frame.join(priced, on=keys, how="left").filter(on_sale)) for p in weekly]


def _first_day(calendar: Part, request: Asked) -> date:
    rows = calendar.frame.filter(pl.col("d") == "d_1").select(day("date", request.dates)).collect()
    if rows.height != 1 or rows.item() is None:
        raise ContractError(
            f"{calendar.name}: d_1 has {rows.height} dates. Expected one, such as 2011-01-29."
        )
    first: date = rows.item()
    return first


def _weekly(part: Part, begin: date) -> Part:
    numbers = {int(match[1]): c for c in part.columns if (match := _DAY_COLUMN.fullmatch(c))}
    starts = [n for n in range(1, max(numbers) + 1, 7) if all(n + i in numbers for i in range(7))]
    if not starts:
        raise ContractError(
            f"{part.name}: {len(numbers)} columns of days. Expected d_1 to d_7 at least: a whole week."
        )
    units = [
        pl.sum_horizontal(
            *(pl.col(numbers[n + i]).cast(pl.Float64) for i in range(7)), ignore_nulls=False
        ).alias(str(begin + timedelta(days=n - 1)))
        for n in starts
    ]
    names = [c for c in ("item_id", "store_id") if c in part.columns]
    wide = part.frame.select(*names, *units)
    return Part(part.name, wide.unpivot(index=names, variable_name="week", value_name="units"))


DATED_BY_LAST_DAY = ("walmart",)
"""Layouts whose dates are the last days of weeks."""
_NIXTLA = {"sku": ("unique_id",), "week": ("ds",), "units": ("y",)}

LAYOUTS = {
    "nixtla": Layout(
        "Nixtla and MMF: unique_id, ds, y, and covariates. unique_id is the SKU; a file without a store is of one, 'all'",
        _NIXTLA,
        ONE_STORE,
    ),
    "nixtla-stores": Layout(
        "Nixtla and MMF: unique_id, ds, y. unique_id is SKU and store, split at its slash, else at its last underscore",
        {"week": ("ds",), "units": ("y",)},
        arrange=_item_and_store,
    ),
    "amazon-forecast": Layout(
        "Amazon Forecast: target series (item_id, timestamp, demand or target_value, location) and, in the same folder, "
        "related series as covariates; as a plan, the related series",
        {"sku": _ITEMS, "week": ("timestamp",), "units": _TARGETS, "store": _PLACES},
        ONE_STORE,
        _forecast,
    ),
    "m5": Layout(
        "M5: item_id, store_id and a column per day, d_1, d_2, ..., summed to weeks; in the same folder the calendar and "
        "prices",
        {"sku": ("item_id",), "store": ("store_id",)},
        arrange=_m5,
    ),
    "walmart": Layout(
        "Walmart: Store, Dept, Date (the last day of a week), Weekly_Sales; in the same folder features, test (as a plan) "
        "and stores",
        {"sku": ("Dept",), "store": ("Store",), "week": ("Date",), "units": ("Weekly_Sales",)},
        {"sku": "all"},
        _walmart,
    ),
}
