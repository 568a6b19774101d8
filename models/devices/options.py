"""The options of the devices scenario, with their defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, time, timedelta
from typing import Any

from models.devices.aggregation import interval_of
from models.devices.detectors import DETECTORS
from models.devices.isolation_forest import TREES
from models.devices.one_class_svm import NU
from models.errors import ContractError
from models.scenario import AsOf

AUTO = "auto"
HIGHEST_ALPHA = 0.05


@dataclass(frozen=True)
class Options:
    """The options of a training or scoring run of `devices`; see `Options.of`."""

    interval: str = "1m"
    """Length of an interval: a number and s, m or h that divides an hour."""
    timezone: str = "UTC"
    """The time zone whose days the cycles of devices without a site follow in training; scoring uses the bundle's."""
    detector: str = AUTO
    """`auto`: robust channels, chosen by the history of each sensor; or one detector for all sensors that vary."""
    nu: float = NU
    """Share of the readings that the one-class SVM may leave outside."""
    forest_trees: int = TREES
    """Number of trees of the isolation forest."""
    alpha: float = 0.001
    """Share of normal readings that may be called anomalies, chosen at scoring."""
    alarms_per_day: float | None = None
    """Acceptable false alarms per day of all devices together; None: one for 100 devices."""
    seed: int = 7
    history_days: float = 14.0
    """Maximum number of days before `as_of` to train on."""
    fewest_readings: int = 60
    """A sensor with fewer readings in the history gets a fallback instead of a detector of its own."""
    requested_hours: int = 24
    """A sensor without a reading for this many hours is no longer requested."""
    hold_hours: int = 24
    """A sensor that has been different for this long is also judged by these hours (`new_normal`); 0: never."""
    backtest_devices: int = 500
    """Approximate number of devices in the backtest."""
    cells: int = 250_000
    """Number of readings that are processed at a time, on which memory depends and the result does not."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Options":
        """The options with defaults filled in; names that belong to other stages are ignored.

        >>> Options.of({"alpha": 0.01, "shards": 4}).alpha
        0.01
        """
        names = {field.name for field in fields(cls)}
        result = cls(**{name: v for name, v in options.items() if name in names and v is not None})
        interval_of(result.interval)
        if not 0 < result.alpha <= HIGHEST_ALPHA:
            raise ContractError(f"alpha is {result.alpha}. Expected more than 0 and at most {HIGHEST_ALPHA}.")
        if result.detector not in (AUTO, *DETECTORS):
            raise ContractError(
                f"detector is '{result.detector}'. Expected one of {', '.join((AUTO, *DETECTORS))}."
            )
        return result

    @property
    def of_detector(self) -> dict[str, Any]:
        """The keyword arguments of the chosen detector's `fit`, besides the seed."""
        numbers: dict[str, dict[str, Any]] = {
            "one_class_svm": {"nu": self.nu},
            "isolation_forest": {"trees": self.forest_trees},
        }
        return numbers.get(self.detector, {})

    @property
    def step(self) -> timedelta:
        """The interval as a duration."""
        return interval_of(self.interval)


def moment_of(as_of: AsOf) -> datetime:
    """`as_of` as a time in UTC; a date means its midnight, a time without an offset is in UTC."""
    if not isinstance(as_of, datetime):
        return datetime.combine(as_of, time(), UTC)
    return as_of.astimezone(UTC) if as_of.tzinfo else as_of.replace(tzinfo=UTC)
