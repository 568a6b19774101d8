"""Layouts of sales files of other products: Nixtla, Amazon Forecast, the competitions of M5 and Walmart."""

import re
from collections.abc import Sequence
from datetime import date, timedelta

import polars as pl

from models.errors import ContractError
from models.layouts import Layout, LayoutRequest, SourceFile, beside, day, with_header
from models.times import days

ONE_STORE = {"store": "all"}
_TARGETS = ("target_value", "demand", "workforce_demand", "metric_value", "number_of_instances")
_ITEMS = ("item_id", "workforce_type", "metric_name", "instance_type")
_PLACES = ("location", "store_id", "store", "location_id", "region")
_FIRST = 200
_M5_BEGINS = date(2011, 1, 29)
_DAY_COLUMN = re.compile(r"d_(\d+)", re.IGNORECASE)


def _item_and_store(files: Sequence[SourceFile], _: LayoutRequest) -> list[SourceFile]:
    """Files with `unique_id` split at its slash, or else at its last underscore."""
    name = "unique_id"
    there = r"^(.+)/([^/]+)$|^([^/]+)_([^_/]+)$"
    groups = pl.col(name).cast(pl.String).str.extract_groups(there)
    columns = [
        pl.coalesce(groups.struct[a], groups.struct[b]).alias(column)
        for column, a, b in (("sku", 0, 2), ("store", 1, 3))
    ]
    return [
        SourceFile(p.name, p.frame.with_columns(columns).drop(name)) if name in p.columns else p
        for p in files
    ]


def _forecast(files: Sequence[SourceFile], request: LayoutRequest) -> list[SourceFile]:
    """The target series joined with the related series; for the plan, the related series. Item metadata is left out."""
    files = [_with_names(file) for file in files]
    dated_files = [file for file in files if "timestamp" in file.columns]
    targets = [file for file in dated_files if {*_TARGETS} & {*file.columns}]
    sides = [file for file in dated_files if file not in targets]
    if request.table == "plan":
        return sides or list(files)
    on = (*_ITEMS, *_PLACES)
    series = []
    for target in targets:
        for side in sides:
            keys = [c for c in on if c in target.columns and c in side.columns]
            target = beside(target, side, keys, {"timestamp": "timestamp"}, request.dates)
        series.append(target)
    return series or list(files)


def _with_names(file: SourceFile) -> SourceFile:
    """A target series without a header, which Amazon Forecast did not need, with names after what its columns hold.

    Raises `ContractError` if they are not a time, a number and a text.
    """
    rows = with_header(file, [f"column {n}" for n in range(1, len(file.columns) + 1)])
    if "timestamp" in file.columns or "column 1" not in rows.columns:
        return file
    sample = rows.frame.head(_FIRST).select(pl.all().cast(pl.String)).collect()
    kinds = [
        "target_value"
        if c.cast(pl.Float64, strict=False).is_not_null().all()
        else "timestamp"
        if days(c).is_not_null().all()
        else "item_id"
        for c in sample
    ]
    if "timestamp" not in kinds:
        return file
    if sorted(kinds) != ["item_id", "target_value", "timestamp"]:
        raise ContractError(
            f"{file.name}: the first line has no names. Expected names such as item_id, timestamp and target_value, in the "
            "order of the schema. Add them as the first line."
        )
    return SourceFile(file.name, rows.frame.rename(dict(zip(sample.columns, kinds, strict=True))))


def _walmart(files: Sequence[SourceFile], request: LayoutRequest) -> list[SourceFile]:
    """The files of the table in a folder of the competition, with the features of each week, dated by its first day."""
    if request.table == "stores":
        return [file for file in files if "Store" in file.columns and "Date" not in file.columns] or list(
            files
        )
    dated_files = [file for file in files if "Date" in file.columns]
    sales = [file for file in dated_files if "Weekly_Sales" in file.columns]
    plans = [file for file in dated_files if file not in sales and "Dept" in file.columns]
    features = [file for file in dated_files if file not in (*sales, *plans)]
    result = []
    for file in (plans if request.table == "plan" else sales) or dated_files:
        for side in features if file not in features else []:
            file = beside(file, side, ["Store"], {"Date": "Date"}, request.dates)
        begin = (day("Date", request.dates) - timedelta(days=6)).cast(pl.String)
        weeks = pl.coalesce(begin, pl.col("Date").cast(pl.String)).alias("Date")
        result.append(SourceFile(file.name, file.frame.with_columns(weeks)))
    return result or list(files)


def _m5(files: Sequence[SourceFile], request: LayoutRequest) -> list[SourceFile]:
    """Daily units in columns d_1, d_2, ... summed to weeks, the first of which starts on d_1; incomplete weeks are left out.

    A calendar in the same folder gives the dates, and then prices in the folder are a covariate: in a week without a price
    or a sale, the item was not for sale. Without a calendar, d_1 is 29 January 2011.
    """
    sales = [file for file in files if any(_DAY_COLUMN.fullmatch(c) for c in file.columns)]
    calendar = next((file for file in files if {"d", "date"} <= {*file.columns}), None)
    prices = next((file for file in files if {"sell_price", "wm_yr_wk"} <= {*file.columns}), None)
    begin = _M5_BEGINS if calendar is None else _first_day(calendar, request)
    weekly = [_weekly(file, begin) for file in sales]
    if prices is None or calendar is None:
        return weekly or list(files)
    weeks = (
        calendar.frame.select("wm_yr_wk", day("date", request.dates).alias("week")).group_by("wm_yr_wk").min()
    )
    by_week = prices.frame.join(weeks, on="wm_yr_wk").select(
        "item_id", "store_id", pl.col("week").cast(pl.String), "sell_price"
    )
    keys = ["item_id", "store_id", "week"]
    on_sale = pl.col("sell_price").is_not_null() | (pl.col("units") > 0)
    return [SourceFile(p.name, p.frame.join(by_week, on=keys, how="left").filter(on_sale)) for p in weekly]


def _first_day(calendar: SourceFile, request: LayoutRequest) -> date:
    rows = calendar.frame.filter(pl.col("d") == "d_1").select(day("date", request.dates)).collect()
    if rows.height != 1 or rows.item() is None:
        raise ContractError(
            f"{calendar.name}: d_1 has {rows.height} dates. Expected one, such as 2011-01-29."
        )
    first: date = rows.item()
    return first


def _weekly(file: SourceFile, begin: date) -> SourceFile:
    numbers = {int(match[1]): c for c in file.columns if (match := _DAY_COLUMN.fullmatch(c))}
    starts = [n for n in range(1, max(numbers) + 1, 7) if all(n + i in numbers for i in range(7))]
    if not starts:
        raise ContractError(
            f"{file.name}: {len(numbers)} columns of days. Expected at least d_1 to d_7, a whole week."
        )
    units = [
        pl.sum_horizontal(
            *(pl.col(numbers[n + i]).cast(pl.Float64) for i in range(7)), ignore_nulls=False
        ).alias(str(begin + timedelta(days=n - 1)))
        for n in starts
    ]
    names = [c for c in ("item_id", "store_id") if c in file.columns]
    wide = file.frame.select(*names, *units)
    return SourceFile(file.name, wide.unpivot(index=names, variable_name="week", value_name="units"))


DATED_BY_LAST_DAY = ("walmart",)
"""Layouts whose dates are the last days of weeks."""
_NIXTLA = {"sku": ("unique_id",), "week": ("ds",), "units": ("y",)}

LAYOUTS = {
    "nixtla": Layout(
        "Nixtla and MMF: unique_id (the SKU), ds, y and covariates; a file without a store column counts as one store, "
        "'all'",
        _NIXTLA,
        ONE_STORE,
    ),
    "nixtla-stores": Layout(
        "Nixtla and MMF: unique_id, ds, y; unique_id is the SKU and the store, separated by a slash or, without a slash, by "
        "the last underscore",
        {"week": ("ds",), "units": ("y",)},
        arrange=_item_and_store,
        names=("unique_id",),
    ),
    "amazon-forecast": Layout(
        "Amazon Forecast: the target series (item_id, timestamp, demand or target_value, location) and, in the same "
        "folder, related series as covariates; for --plan, only the related series",
        {"sku": _ITEMS, "week": ("timestamp",), "units": _TARGETS, "store": _PLACES},
        ONE_STORE,
        _forecast,
    ),
    "m5": Layout(
        "M5: item_id, store_id and a column per day (d_1, d_2, ...), which are summed to weeks; the calendar and prices "
        "are in the same folder",
        {"sku": ("item_id",), "store": ("store_id",)},
        arrange=_m5,
        names=("d", "date", "wm_yr_wk", "sell_price"),
    ),
    "walmart": Layout(
        "Walmart: Store, Dept, Date (the last day of a week) and Weekly_Sales; features, stores and test (the plan) are "
        "in the same folder",
        {"sku": ("Dept",), "store": ("Store",), "week": ("Date",), "units": ("Weekly_Sales",)},
        {"sku": "all"},
        _walmart,
    ),
}
