"""Events that affect sales and are known in advance: public holidays, and those of the table `events`.

The effect of an event on a SKU is learnt from the weeks near its earlier dates. Weeks are compared by the days from
their first day to the event, so that the effect of a movable holiday, such as Easter, moves with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl

from models.errors import ContractError
from models.sales.names import suggestion
from models.sales.panel import OFFSET, Panel, mean, panel_of, sum_of_weeks
from models.scenario import Context, Frames

BEFORE, AFTER = 13, 7
"""An event is near the week before it, its own week and the week after: up to this many days after or before their
first day."""
AROUND_WEEKS, LEAST_WEEKS = 6, 4
"""Effects are relative to the mean of this many weeks without an event before and after; at least `LEAST_WEEKS` of them
must be known."""
LONGEST = 104
"""Weeks of the longest horizon."""
PRIOR_WEEKS = 0.5
"""Number of weeks without an effect that are mixed into each effect."""

NONE = pl.DataFrame(schema={"name": pl.String, "date": pl.Date, "store": pl.String})


def events(tables: Frames, calendars: Sequence[str], first: date, last: date) -> pl.DataFrame:
    """name, date and store (null: all stores) of the events near the weeks from `first` to `last`: `holidays`, and those
    of the table `events`.

    Of consecutive days with the same name, the first one counts.
    """
    since, until = first - timedelta(days=AFTER), last + timedelta(days=BEFORE)
    frames = [holidays(calendars, since, until)]
    if "events" in tables:
        frames.append(tables["events"].select("name", "date", "^store$").collect())
    every = (
        pl.concat([NONE, *frames], how="diagonal")
        .filter(pl.col("date").is_between(since, until))
        .unique()
        .sort("name", "date")
    )
    goes_on = (pl.col("date").diff() == timedelta(days=1)).over("name").fill_null(value=False)
    return every.filter(~goes_on)


def unknown_stores(tables: Frames) -> list[str]:
    """A note for each store that events name but the history lacks."""
    if "events" not in tables or "store" not in tables["events"].collect_schema():
        return []
    stores = tables["history"].select("store").unique().collect()["store"]
    strange = (
        tables["events"].filter(~pl.col("store").is_in(stores.implode())).select("store").unique().collect()
    )
    return [
        f"Events name store '{store}', which the history lacks: they have no effect. {suggestion(store, stores)}"
        for store in strange["store"].drop_nulls().sort()
    ]


def holidays(calendars: Sequence[str], first: date, last: date) -> pl.DataFrame:
    """name and date of the public holidays of `calendars`, such as DE, DE-BY or US, by the package `holidays`.

    Raises `ContractError` for a country or region that the package does not know.
    """
    from holidays import country_holidays

    years, rows = range(first.year, last.year + 1), []
    for calendar in calendars:
        country, _, region = calendar.partition("-")
        try:
            days = country_holidays(country, subdiv=region or None, years=years, observed=False)
        except NotImplementedError as error:
            raise ContractError(
                f"--holidays {calendar}: {error}. Expected the ISO 3166 code of a country, such as DE, or of a "
                "region, such as DE-BY."
            ) from None
        rows += [(name, day) for day in days for name in days.get_list(day)]
    return pl.DataFrame(rows, {"name": pl.String, "date": pl.Date}, orient="row")


@dataclass(frozen=True)
class Events:
    """The events near the weeks of a `panel` of SKUs, and in which of its weeks a SKU `is_promoted`.

    `days` counts the days from the first day of a week to an event near it, NaN if it is not near: (weeks, events).
    The weeks are those of the panel and of the `LONGEST` horizon after it.
    """

    panel: Panel
    is_promoted: np.ndarray
    days: np.ndarray

    @classmethod
    def of(cls, frame: pl.DataFrame, panel: Panel, is_promoted: np.ndarray) -> "Events":
        """The events of a frame of `events`; of an event's dates, the one nearest to the middle of a week counts."""
        first = panel.first_week.toordinal() + 7 * np.arange(panel.weeks + LONGEST)
        columns = []
        for dates in frame.group_by("name", maintain_order=True).agg("date")["date"]:
            days = np.array([day.toordinal() for day in dates]) - first[:, None]
            nearest = np.take_along_axis(days, np.abs(days - 3).argmin(axis=1)[:, None], axis=1)[:, 0]
            columns.append(np.where((nearest >= -AFTER) & (nearest <= BEFORE), nearest, np.nan))
        return cls(panel, is_promoted, np.stack(columns, axis=1))

    def effects(self, ratios: np.ndarray, targets: Sequence[int]) -> np.ndarray:
        """Effects of the events near weeks `targets`, in logarithms of units: (targets, SKUs); zero if none is near.

        The mean of `ratios`, weighted by `likeness` and mixed with `PRIOR_WEEKS` without an effect.
        """
        finite, by_target = np.isfinite(ratios), []
        for weight in self.likeness(targets, range(len(ratios)))[..., None]:
            total = sum_of_weeks(np.where(finite, weight * ratios, 0.0))
            by_target.append(total / (sum_of_weeks(weight * finite) + PRIOR_WEEKS))
        return np.array(by_target)

    def likeness(self, targets: Sequence[int], weeks: Sequence[int]) -> np.ndarray:
        """Similarity of weeks in their distances to events: (targets, weeks), from 0 to 1 (all distances are equal).

        The mean over the events that are near either week; each day of difference costs a seventh.
        """
        one, other = self.days[targets][:, None], self.days[weeks][None]
        alike = np.nan_to_num(np.maximum(1 - np.abs(one - other) / 7, 0.0)).sum(axis=2)
        either = (np.isfinite(one) | np.isfinite(other)).sum(axis=2)
        return np.divide(alike, either, out=np.zeros(alike.shape), where=either > 0)

    def ratios(self, origin: int) -> np.ndarray:
        """The logarithm of the ratio of units to the mean of the weeks around: (weeks up to `origin`, SKUs).

        NaN in weeks far from events, in promoted weeks, and if too little is known.
        """
        units = np.where(self.is_promoted[: origin + 1] == 1, np.nan, self.panel.units[: origin + 1])
        days = self.days[: origin + 1]
        inside = np.any((days >= 0) & (days < 7), axis=1, keepdims=True)
        usual = np.where(inside, np.nan, units)
        logs = np.full(units.shape, np.nan)
        for week in np.flatnonzero(np.isfinite(days).any(axis=1)):
            around = usual[max(0, week - AROUND_WEEKS) : week + AROUND_WEEKS + 1]
            level = mean(around)
            enough = (np.isfinite(around).sum(axis=0) >= LEAST_WEEKS) & (level > 0)
            ratio = np.maximum(units[week], 0.0) / np.where(enough, level, np.nan)
            logs[week] = np.log(ratio + OFFSET) - np.log(1 + OFFSET)
        return logs


@dataclass(frozen=True)
class EventsOfKeys:
    """The events of the keys of a panel: those of all stores by SKU, and those of one store by store.

    The effect of one store's event is the same for all its SKUs, so that a single date is enough to estimate it. `parts`
    are events with the column of their panel for each of the `keys`; -1 for none.
    """

    parts: Sequence[tuple[Events, np.ndarray]]
    keys: int

    @classmethod
    def of(
        cls, panel: Panel, context: Context, of_all: tuple[Panel, np.ndarray, np.ndarray]
    ) -> "EventsOfKeys | None":
        """Those of `context["events"]`; None if there are none. `of_all`: the panel of SKUs, promoted weeks, `of_key`."""
        frame = context.get("events", NONE)
        sku, is_promoted, of_key = of_all
        every, parts = frame.filter(pl.col("store").is_null()), []
        if every.height:
            parts.append((Events.of(every, sku, is_promoted), of_key))
        stores = panel.keys["store"].to_numpy()
        for (store,), days in frame.drop_nulls("store").group_by("store", maintain_order=True):
            if (stores == store).any():
                rows, until = context["store_weeks"].lazy(), panel.week(panel.last)
                one = panel_of(rows, pl.DataFrame({"store": [store]}), (), panel.first_week, until, 0)
                parts.append(
                    (Events.of(days, one, np.zeros(one.units.shape)), np.where(stores == store, 0, -1))
                )
        return cls(parts, panel.keys.height) if frame.height else None

    def ratios(self, origin: int) -> np.ndarray:
        """The ratios of all `parts` side by side; see `Events.ratios`."""
        each = [events.ratios(origin) for events, _ in self.parts]
        return np.concatenate([np.zeros((origin + 1, 0)), *each], axis=1)

    def effects(self, ratios: np.ndarray, targets: Sequence[int]) -> np.ndarray:
        """Effects on each key of the events near weeks `targets`, in logarithms of units: (targets, keys)."""
        total, start = np.zeros((len(targets), self.keys)), 0
        for events, of_key in self.parts:
            end = start + events.panel.keys.height
            each = events.effects(ratios[:, start:end], targets)
            total += np.where(of_key >= 0, each[:, of_key], 0.0)
            start = end
        return total
