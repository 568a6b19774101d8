"""The contracts of the inputs: sales history, marketing plan, attributes of stores and SKUs, covariates, events."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

import polars as pl

from models.contracts import ROW, RULE, AcceptResult, is_unknown
from models.errors import ContractError
from models.marked_rows import CANCELLED, is_cancelled, is_return
from models.sales.categories import MOST_CATEGORIES
from models.sales.covariates import EVERY_STORE
from models.sales.days import as_weeks
from models.sales.gaps import changes_of_scale
from models.sales.neighbours import PRICE
from models.sales.panel import END, IN_STOCK
from models.sales.successors import PREDECESSOR
from models.sales.week_dates import (
    KEY_AND_WEEK,
    MOST_ANCHORS,
    anchors_of,
    check_anchors,
    check_days,
    refuse_other_times,
)
from models.scenario import Frames, Table
from models.schemas import dy
from models.time_notations import is_range
from models.times import days

Returns = Literal["net", "zero"]
"""How returns, that is, negative units, count."""


class Plan(dy.Schema):
    """Covariates of the weeks to come, per SKU, store and week."""

    sku = dy.String(min_length=1)
    store = dy.String(min_length=1)
    week = dy.Date()


class History(Plan):
    """Units sold per SKU, store and week; further columns of numbers, or of a few different words, are covariates."""

    units = dy.Float64(min=0)


class WithReturns(History):
    """History before returns are settled: units may be negative."""

    units = dy.Float64()


class Stores(dy.Schema):
    """Attributes of each store, numbers or text; the optional `end` is the last day on which it sells."""

    store = dy.String(min_length=1)


class Skus(dy.Schema):
    """Attributes of each SKU, numbers or text; the optional `end` is the last day on which it is sold.

    `predecessor` is the SKU that it replaces.
    """

    sku = dy.String(min_length=1)


class WithPredecessors(Skus):
    """SKUs with a column for the SKU that each replaces."""

    predecessor = dy.String(nullable=True)


class Covariates(dy.Schema):
    """Covariates of a week in a store or, if the store is `EVERY_STORE`, in all stores."""

    store = dy.String(min_length=1)
    week = dy.Date()


class Events(dy.Schema):
    """Days that affect sales, such as a fair: a row for each date of an event."""

    name = dy.String(min_length=1)
    date = dy.Date()


class EventsOfStores(Events):
    """Events with a column for the store that they affect; null: all stores."""

    store = dy.String(nullable=True)


@dataclass(frozen=True)
class Weekly(Table):
    """A table whose rows are weeks, all starting on the same weekday: the week anchor."""

    words: int | None = MOST_CATEGORIES

    def check_names(self, mapping: Mapping[str, str], options: Mapping[str, Any]) -> None:
        """Raises `ContractError` if first days are expected and the name of their column says that they are last ones."""
        name = mapping.get("week", "")
        if re.search(_ENDING, name) and not (options.get("week_ending") or options.get("daily")):
            raise ContractError(
                f"{self.name}: by its name, the column '{name}' has the last days of weeks. Expected first days. Add "
                "--week-ending, or rename the column if they are the first ones."
            )

    def accept(self, raw: pl.DataFrame, options: Mapping[str, Any]) -> AcceptResult:
        """As for every table; with the option `week_ending`, the dates of a source are the last days of its weeks.

        Text is neither a price nor a share of a week in stock, and the numbers of orders are no covariate. Raises
        `ContractError` with that option for whole weeks.
        """
        refuse_other_times(raw["week"], self.name)
        if raw["week"].dtype == pl.String:
            check_days(raw["week"], self.name, are_last=bool(options.get("week_ending")))
        result = super().accept(raw, options)
        no_numbers = [c for c in NUMBERS if result.good.schema.get(c) == pl.String]
        no_numbers += [c for c in result.good.columns if _is_identifier(result.good[c])]
        result = replace(result, good=result.good.drop(no_numbers), ignored=(*result.ignored, *no_numbers))
        if not options.get("week_ending"):
            return result
        return replace(result, good=result.good.with_columns(pl.col("week") - timedelta(days=6)))

    def one_of_each(
        self, rows: pl.DataFrame, files: pl.DataFrame, options: Mapping[str, Any]
    ) -> pl.DataFrame:
        """As for every table; with the option `daily`, days are then added up to weeks that start on that weekday.

        Without it, the error for rows that are of days says that first.
        """
        start = options.get("daily")
        try:
            result = super().one_of_each(rows, files, options)
        except ContractError:
            if start is None:
                check_anchors(anchors_of(rows.lazy(), self.name), self.name, most=MOST_ANCHORS)
            raise
        return result if start is None else as_weeks(result, start, self.amounts, self.name)

    def notes(
        self,
        frame: pl.DataFrame,
        stored_tables: Frames,  # noqa: ARG002
        options: Mapping[str, Any],
    ) -> tuple[str, ...]:
        """A note on the weeks to which days were added up."""
        if options.get("daily") is None:
            return ()
        weeks = frame["week"].unique().sort()
        return (
            f"{self.name}: days are added up to weeks, of which the first starts on {weeks[0]}, the last on {weeks[-1]}. "
            "Weeks before and after them are left out: not all of their days are here.",
        )

    def check(self, frame: pl.DataFrame, stored_tables: Frames) -> None:
        """Raise `ContractError` if weeks start on different weekdays across all tables, or `in_stock` is not a share."""
        _check_in_stock(frame, self.name)
        anchors = anchors_of(frame.lazy(), self.name)
        stored_anchors = [
            anchors_of(stored_tables[name].head(1), f"stored {name}")
            for name in ("history", "plan")
            if name in stored_tables
        ]
        check_anchors(pl.concat([anchors, *stored_anchors], how="diagonal"), self.name)


@dataclass(frozen=True)
class Sold(Weekly):
    """Units sold; negative units are returns."""

    def accept(self, raw: pl.DataFrame, options: Mapping[str, Any]) -> AcceptResult:
        """As for every table of weeks. With the option `returns`, negative units count as zero (`zero`), or stay (`net`).
        Without it, their rows break the contract.

        Rows of cancelled orders are bad. Rows that are called returns have negative units, whatever their sign is; without
        the option, `ContractError` is raised for positive ones.
        """
        cancelled = raw.filter(is_cancelled(raw)).select(ROW, pl.lit(CANCELLED).alias(RULE))
        result = self._accept_valid(raw.join(cancelled, on=ROW, how="anti", maintain_order="left"), options)
        return replace(result, bad=pl.concat([result.bad, cancelled]))

    def _accept_valid(self, raw: pl.DataFrame, options: Mapping[str, Any]) -> AcceptResult:
        """The result of `accept` for rows without cancelled orders."""
        returns = options.get("returns")
        raw = _with_negative_returns(raw, self.name, is_allowed=returns is not None)
        if returns is None:
            return super().accept(raw, options)
        if returns == "zero":
            units = raw["units"].cast(pl.Float64, strict=False)
            raw = raw.with_columns(
                pl.when(units.is_finite() & (units < 0))
                .then(pl.lit("0"))
                .otherwise(pl.col("units").cast(pl.String))
                .alias("units")
            )
        return super(Sold, replace(self, schema=WithReturns)).accept(raw, options)

    def one_of_each(
        self, rows: pl.DataFrame, files: pl.DataFrame, options: Mapping[str, Any]
    ) -> pl.DataFrame:
        """As for every table. Returns reduce the units sold in the same week, but not below zero."""
        result = super().one_of_each(rows, files, options)
        return result.with_columns(pl.col("units").clip(lower_bound=0.0))

    def notes(
        self,
        frame: pl.DataFrame,
        stored_tables: Frames,
        options: Mapping[str, Any],
    ) -> tuple[str, ...]:
        """As for every table of weeks, and notes on columns that are on another scale than in earlier files, such as cents
        for euros."""
        notes = super().notes(frame, stored_tables, options)
        if self.name not in stored_tables:
            return notes
        places, stored_rows = "these rows than in earlier ones", stored_tables[self.name]
        lines = changes_of_scale(frame.lazy(), stored_rows, places, "now")
        return (*notes, *(f"{self.name}: {line}" for line in lines))


def _with_negative_returns(raw: pl.DataFrame, table: str, *, is_allowed: bool) -> pl.DataFrame:
    """`raw` with negative units in rows that are called returns. Raises `ContractError` unless that `is_allowed`."""
    units = raw["units"].cast(pl.Float64, strict=False)
    wrong = is_return(raw) & (units > 0).fill_null(False)
    if not wrong.any():
        return raw
    if not is_allowed:
        raise ContractError(
            f"{table}: {wrong.sum():,} of {raw.height:,} rows are called returns, but have positive units. Choose how they "
            "count: --returns net subtracts them, --returns zero leaves them out."
        )
    return raw.with_columns(raw["units"].cast(pl.String).zip_with(~wrong, (-units).cast(pl.String)))


@dataclass(frozen=True)
class Attributes(Table):
    """Attributes that do not change from week to week; any text is kept."""

    words: int | None = None

    def accept(self, raw: pl.DataFrame, options: Mapping[str, Any]) -> AcceptResult:
        (key,) = self.unique
        if END in raw.columns:
            raw = raw.with_columns(_ends(raw, key, options))
        if key == "sku" and PREDECESSOR in raw.columns:
            raw = raw.with_columns(_known(raw[PREDECESSOR].cast(pl.String)))
            return super(Attributes, replace(self, schema=WithPredecessors)).accept(raw, options)
        return super().accept(raw, options)


def _ends(raw: pl.DataFrame, key: str, options: Mapping[str, Any]) -> pl.Series:
    """The column `end` as text such as 2024-03-31; `ContractError` for text that is not a date."""
    values = _known(raw[END]) if raw[END].dtype == pl.String else raw[END]
    dates = days(values, options.get("dates"))
    wrong = raw.filter(values.is_not_null() & dates.is_null()).head(1)
    if wrong.height:
        raise ContractError(
            f"{END} is {wrong[END][0]!r} for {key} {wrong[key][0]}. Expected the last day of sales, such as 2024-03-31."
        )
    return dates.dt.to_string("%Y-%m-%d").alias(END)


def _known(text: pl.Series) -> pl.Series:
    """Text with null for words that stand for an unknown value, such as NA."""
    return text.str.strip_chars().set(is_unknown(text), None)


@dataclass(frozen=True)
class OfStores(Weekly):
    """Weeks of stores. A row without a store applies to all stores, and so does a source without such a column."""

    def accept(self, raw: pl.DataFrame, options: Mapping[str, Any]) -> AcceptResult:
        column = next((name for name in raw.columns if name.strip().casefold() == "store"), "store")
        store = pl.col(column) if column in raw.columns else pl.lit(None)
        stores = store.cast(pl.String).replace("", None).fill_null(EVERY_STORE).alias("store")
        return super().accept(raw.with_columns(stores).drop({column} - {"store"}), options)


@dataclass(frozen=True)
class Days(Table):
    """Days of events. The name of a single store's event includes the store, so that each store has its own dates."""

    def accept(self, raw: pl.DataFrame, options: Mapping[str, Any]) -> AcceptResult:
        if raw["date"].dtype == pl.String and (ranges := raw.filter(is_range(raw["date"]))).height:
            raise ContractError(
                f"{self.name}: date is {ranges['date'][0]!r} for {ranges['name'][0]}. Expected one day: give each day of "
                "the event a row of its own."
            )
        end = next((name for name in raw.columns if re.fullmatch(_LAST_DAY, name)), None)
        if end and (longer := raw.filter(raw["date"].cast(pl.String) != raw[end].cast(pl.String))).height:
            raise ContractError(
                f"{self.name}: date is {longer['date'][0]} and '{end}' {longer[end][0]} for {longer['name'][0]}. Expected "
                "one day: give each day of the event a row of its own."
            )
        column = next((name for name in raw.columns if name.strip().casefold() == "store"), None)
        if column is None:
            return super().accept(raw, options)
        raw = raw.rename({column: "store"})
        store = pl.col("store").cast(pl.String).str.strip_chars().replace(["", EVERY_STORE], None)
        name = pl.concat_str(
            pl.col("name").cast(pl.String), pl.format(" in store {}", store), ignore_nulls=True
        )
        raw = raw.with_columns(
            store.alias("store"), pl.when(pl.col("name").is_not_null()).then(name).alias("name")
        )
        return super(Days, replace(self, schema=EventsOfStores)).accept(raw, options)


def _is_identifier(values: pl.Series) -> bool:
    """Whether a column of numbers identifies rows, such as those of orders, by its name and its different whole values."""
    return (
        values.dtype.is_float()
        and re.search(_IDENTIFIER, values.name) is not None
        and 2 * values.n_unique() > len(values) > _FEW_ROWS
        and bool((values.round() == values).all())
    )


def _check_in_stock(frame: pl.DataFrame, table: str) -> None:
    """Raise `ContractError` if `in_stock` is not a share but, for example, a percentage or the pieces on hand."""
    if IN_STOCK not in frame.columns:
        return
    wrong = frame.filter(~pl.col(IN_STOCK).is_between(0, 1))
    if wrong.height:
        row = wrong.row(0, named=True)
        raise ContractError(
            f"{table}: {IN_STOCK} is {row[IN_STOCK]:g} for sku {row['sku']}, store {row['store']}, week {row['week']} "
            f"({wrong.height:,} such rows). Expected the share of the week in which it could be bought, 0 to 1. "
            "Divide percentages by 100; replace pieces on hand by 1 if there were any, else by 0."
        )


NUMBERS = (PRICE, IN_STOCK)
"""Further columns that have a meaning; they hold only numbers."""
_IDENTIFIER = r"(?i:\w[\W_](id|nr|no|number|nummer)\.?$)|[a-z](ID|Id|Nr|No)$"
_ENDING = r"(?i)\bw/?e\b|week[ _-]?end"
_FEW_ROWS = 10
_LAST_DAY = r"(?i)\s*(end[e]?|bis|until|fin|to|(end|last)[ _-]?(date|day)|enddatum)\s*"
_YEARS = timedelta(days=5 * 366)

TABLES: dict[str, Table] = {
    "history": Sold(
        "history",
        History,
        unique=KEY_AND_WEEK,
        shard_by=("sku",),
        covariates=True,
        ahead=timedelta(days=7),
        amounts=("units",),
        harmless=(CANCELLED,),
        wide=("week", "units"),
        advice={
            "units|min": "Negative units are returns: choose how they count with --returns net or --returns zero.",
            "units|nullability": "Future weeks belong in --plan. Write 0 if nothing was sold, and leave out rows of "
            "weeks whose sales are not known.",
        },
    ),
    "plan": Weekly(
        "plan",
        Plan,
        unique=KEY_AND_WEEK,
        shard_by=("sku",),
        covariates=True,
        required=False,
        ahead=_YEARS,
    ),
    "stores": Attributes("stores", Stores, unique=("store",), covariates=True, required=False),
    "skus": Attributes("skus", Skus, unique=("sku",), covariates=True, required=False),
    "covariates": OfStores(
        "covariates",
        Covariates,
        unique=("store", "week"),
        optional=("store",),
        covariates=True,
        required=False,
        ahead=_YEARS,
    ),
    "events": Days("events", Events, unique=("name", "date"), required=False, ahead=_YEARS),
}
