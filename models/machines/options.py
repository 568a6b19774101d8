"""The options of the machines scenario, with their defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime
from math import ceil
from typing import Any

from models.moments import end_of, start_of

ESTIMATORS = ("lightgbm", "random_forest", "decision_tree")
WINDOWS_HOURS = (12, 24, 36)
_INTERVALS = (1, 5, 20)
_LEAST_INTERVAL, _LONGEST_INTERVAL, _HALF_DAY = 11.5, 2_400, 12
_WINDOW_SHARE = 15
_NEARLY = 0.05


@dataclass(frozen=True)
class Options:
    """Options of a training or scoring run of `machines`; see `Options.of`."""

    train_from: datetime | None = None
    """First row time to learn from; None for all of the history."""
    score_from: datetime | None = None
    """First row time to score or evaluate; None for `as_of` alone."""
    score_to: datetime | None = None
    """Last row time to evaluate; None for the last one."""
    every_hours: int = 12
    """One row per machine in this many hours, counted back from `as_of`."""
    windows_hours: tuple[int, ...] = WINDOWS_HOURS
    """Lengths of the telemetry windows; see `at_interval`."""
    error_windows_hours: tuple[int, ...] = (24, 168)
    """Lengths of the windows in which errors are counted."""
    normal_days: int = 28
    """Length of the history from which a machine's own normal is computed."""
    normal_gap_hours: int | None = None
    """How long before a row its machine's normal ends; None: the longest window."""
    horizons_hours: tuple[int, ...] = (24, 168)
    estimator: str = "lightgbm"
    learning_rate: float = 0.1
    """This option and the next three are LightGBM's."""
    leaves: int = 7
    leaf_rows: int = 20
    """Minimum number of rows in a leaf."""
    feature_share: float = 0.5
    """Share of the features that each tree sees."""
    depth: int | None = None
    """Maximum depth of a forest's trees (None: 15) or of the single tree (None: 8)."""
    failing_weight: float = 1.0
    """Weight of a row that a failure follows, relative to a healthy row; calibration corrects for it."""
    use_short_windows: bool = True
    """Whether the estimators see telemetry windows that are shorter than the longest."""
    use_spread: bool = True
    """Whether they see deviation, extremes and slope of a window."""
    use_normal: bool = True
    """Whether they see how far a window is from the machine's own normal."""
    use_errors: bool = True
    use_attributes: bool = True
    """Whether they see age and model."""
    missed_failure_cost: float = 10.0
    """The cost of a failure without an inspection before it, of a component that `component_costs` does not name."""
    component_costs: tuple[tuple[str, float], ...] = ()
    """Names of components with the cost of such a failure of each."""
    needless_inspection_cost: float = 1.0
    """The cost of an inspection that no failure would have followed within the horizon."""
    inspect_every_days: int = 14
    """The plan to compare with: every component is inspected once in this many days."""
    machines_per_day: int = 10
    """Machines that can be inspected in a day: an evaluation judges that many at the top of each day's list."""
    lead_hours: int | None = None
    """How long before a failure an alarm must come; see `lead`."""
    inspections_per_day: int | None = None
    """Maximum number of alarms that are opened in 24 hours; None: unlimited. See `alarms`."""
    cooldown_hours: int = 24
    """How long after an alarm was closed the same alarm goes on if the probability rises again."""
    under_work_hours: int = 12
    """A component counts as under work for this long after its replacement or failure."""
    keep_columns: tuple[str, ...] = ()
    """Sensors and errors that are used although they reveal the outcome by themselves, see `leaks`."""
    held_out_share: float = 0.2
    """Share of the time range for calibration, and the same share again for the test."""
    min_failures: int = 3
    """Minimum number of failures in the training range for a component to have its own model."""
    training_rows: int = 60_000
    """Approximate number of training rows, of which a forest or a tree uses a fifth; healthy rows are sampled,
    and weighted to compensate."""
    seed: int = 7
    threads: int = 0
    """Number of LightGBM estimators that are fitted in parallel, each on one thread, because its threads busy-wait for each
    other if cores are shared; number of threads of a forest. 0: two, and all cores. The result does not depend on it."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Options":
        """The options with defaults filled in; names that belong to other stages are ignored.

        >>> Options.of({"horizons_hours": [24], "unknown": 1}).horizons_hours
        (24,)
        """
        names = {field.name for field in fields(cls)}
        values = {name: value for name, value in options.items() if name in names and value is not None}
        for name in ("windows_hours", "error_windows_hours", "horizons_hours"):
            if name in values:
                values[name] = tuple(sorted({int(hours) for hours in values[name]}))
        if "component_costs" in values:
            costs = sorted((str(name), float(cost)) for name, cost in values["component_costs"])
            values["component_costs"] = tuple(costs)
        if "keep_columns" in values:
            values["keep_columns"] = tuple(sorted(values["keep_columns"]))
        for name in ("train_from", "score_from"):
            if name in values:
                values[name] = moment(values[name], start_of_day=True)
        if "score_to" in values:
            values["score_to"] = moment(values["score_to"])
        for name in values.keys() & {field.name for field in fields(cls) if field.type in (int, int | None)}:
            values[name] = int(values[name])
        result = cls(**values)
        result._check()
        return result

    def at_interval(self, interval_hours: float, span_hours: float) -> "Options":
        """The options for telemetry at this interval over `span_hours`.

        The default windows are 1, 5 and 20 intervals, rounded up to half-days, if an interval is half a day to a
        hundred days: windows of hours would hold at most one reading each. Windows longer than a fifteenth of the
        time are left out, because held-out rows begin one longest window after a cut. The normal then covers at least
        three longest windows and ends one interval before the row. Training determines whether more than single
        readings help.

        >>> Options().at_interval(24.0, 24.0 * 120).windows_hours
        (24, 120)
        """
        fits = _LEAST_INTERVAL <= interval_hours <= _LONGEST_INTERVAL
        if self.windows_hours != WINDOWS_HOURS or not fits:
            return self
        length = ceil(interval_hours / _HALF_DAY - _NEARLY) * _HALF_DAY
        hours = [length * many for many in _INTERVALS]
        windows = tuple(h for h in hours if h == hours[0] or h <= span_hours / _WINDOW_SHARE)
        normal_days = max(self.normal_days, 3 * windows[-1] // 24)
        return replace(self, windows_hours=windows, normal_days=normal_days, normal_gap_hours=hours[0])

    def lead(self, horizon_hours: int) -> int:
        """How long before a failure an alarm of this horizon must come: the next shorter horizon, which has its own alarm.

        >>> Options().lead(24), Options().lead(168), Options(lead_hours=12).lead(168)
        (0, 24, 12)
        """
        if self.lead_hours is not None:
            return self.lead_hours if self.lead_hours < horizon_hours else 0
        return max((h for h in self.horizons_hours if h < horizon_hours), default=0)

    def missed_cost(self, component: str) -> float:
        """The cost of a failure of `component` without an inspection before it.

        >>> chosen = Options(component_costs=(("pump", 40.0),))
        >>> chosen.missed_cost("pump"), chosen.missed_cost("valve")
        (40.0, 10.0)
        """
        return dict(self.component_costs).get(component, self.missed_failure_cost)

    @property
    def threshold(self) -> float:
        """The probability from which an inspection is cheaper than doing nothing.

        Doing nothing costs `p * missed`, inspecting `(1 - p) * needless`; they are equal at
        `needless / (needless + missed)`. See `costs.cheapest` for the value of waiting.

        >>> round(Options(missed_failure_cost=9.0, needless_inspection_cost=1.0).threshold, 3)
        0.1
        """
        return self.needless_inspection_cost / (self.needless_inspection_cost + self.missed_failure_cost)

    def _check(self) -> None:
        for name in ("windows_hours", "error_windows_hours", "horizons_hours"):
            hours = getattr(self, name)
            if not hours or hours[0] < 1:
                raise ValueError(
                    f"{name} is {hours}. Expected whole numbers of hours, at least 1, e.g. (24,)."
                )
        for name in (
            "every_hours",
            "normal_days",
            "inspect_every_days",
            "min_failures",
            "training_rows",
            "machines_per_day",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}. Expected at least 1.")
        if self.inspections_per_day is not None and self.inspections_per_day < 1:
            raise ValueError(
                f"inspections_per_day is {self.inspections_per_day}. Expected at least 1, or none for no limit."
            )
        if min(self.cooldown_hours, self.lead_hours or 0) < 0:
            raise ValueError(
                f"cooldown_hours is {self.cooldown_hours}, lead_hours is {self.lead_hours}. Expected 0 or more."
            )
        for name in ("missed_failure_cost", "needless_inspection_cost"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}. Expected an amount above 0.")
        for name, cost in self.component_costs:
            if not 0 < cost < float("inf"):
                raise ValueError(f"the cost of {name} is {cost}. Expected an amount above 0.")
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"estimator is {self.estimator!r}. Expected one of {', '.join(ESTIMATORS)}.")
        if not 0 < self.held_out_share < 0.5:
            raise ValueError(
                f"held_out_share is {self.held_out_share}. Expected between 0 and 0.5, e.g. 0.2."
            )


def moment(when: date | datetime | str, *, start_of_day: bool = False) -> datetime:
    """A moment in UTC: a naive time is in UTC, a date means the end (or start) of that day, see `models.moments`.

    >>> moment(date(2015, 7, 31)).isoformat(), moment("2015-07-31", start_of_day=True).isoformat()
    ('2015-08-01T00:00:00+00:00', '2015-07-31T00:00:00+00:00')
    """
    if isinstance(when, str):
        when = datetime.fromisoformat(when) if len(when) > 10 else date.fromisoformat(when)
    if not isinstance(when, datetime):
        return start_of(when) if start_of_day else end_of(when)
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
