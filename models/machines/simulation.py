"""A simulated fleet: telemetry, errors, maintenance, failures and machines, in the canonical tables.

Life of a component: it lasts for a Weibull time, shorter on some models and on old
machines, and is replaced when it fails or, sometimes, on a planned visit. Most failures announce
themselves: in the last one to three days, the component's sensor drifts away, faster and faster, by several
of its standard deviations, and its error is reported. A tenth come without warning, and some drifts
and many errors mean nothing. So a model can be good for a day's horizon, less so for a week's, and never
perfect.

Every machine has its own generator (Philox, seeded by `seed` and its number): its rows do not depend
on the other machines of the simulation. They do depend on `days` and `components`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

START = datetime(2024, 1, 1, tzinfo=UTC)
MODELS = ("A", "B", "C", "D")
SENSORS = (
    ("volt", 170.0, 15.0),
    ("rotate", 450.0, 50.0),
    ("pressure", 100.0, 10.0),
    ("vibration", 40.0, 5.0),
)
BEFORE_DAYS = 200
"""Maintenance is on record this long before the telemetry begins."""

Floats = NDArray[np.float64]
_TABLES = ("telemetry", "errors", "maintenance", "failures", "machines")
_VISIT_DAYS = 15
_REPLACED_ON_VISIT = 0.25
_LIFE_DAYS = 95.0
_LIFE_SHAPE = 3.0
_SUDDEN = 0.1
_HARMLESS_DRIFTS_PER_YEAR = 1.0
_STRAY_ERRORS_PER_YEAR = 6.0


@dataclass(frozen=True)
class _Life:
    """The events of one machine, times in hours from the start; `replacements` include those after failures."""

    failures: list[tuple[float, int]]
    replacements: list[tuple[float, int]]
    drifts: list[tuple[float, float, int]]
    errors: list[tuple[float, int]]


def simulate(
    machines: int | range,
    days: int,
    seed: int = 0,
    interval_hours: int = 1,
    start: datetime = START,
    components: int = 4,
) -> dict[str, pl.DataFrame]:
    """The five tables of `machines` over `days`; telemetry every `interval_hours`, its time the end of the interval.

    Component i is `comp<i>`, its error `error<i>`, its sensor the i-th of `SENSORS`, then `sensor<i>`.

    >>> {name: frame.height for name, frame in simulate(2, days=3).items() if name in ("telemetry", "machines")}
    {'telemetry': 144, 'machines': 2}
    """
    numbers = range(machines) if isinstance(machines, int) else machines
    hours = np.arange(interval_hours, days * 24 + 1, interval_hours, dtype=np.float64)
    parts: dict[str, list[pl.DataFrame]] = {name: [] for name in _TABLES}
    for number in numbers:
        for name, frame in _machine(number, hours, days * 24.0, seed, interval_hours, components).items():
            parts[name].append(frame)
    tables = {name: pl.concat(frames) if frames else _empty(name) for name, frames in parts.items()}
    return {name: _dated(frame, start) for name, frame in tables.items()}


def simulate_parts(
    machines: int, days: int, seed: int = 0, machines_per_part: int = 50, interval_hours: int = 1
) -> Iterator[dict[str, pl.DataFrame]]:
    """The same rows as `simulate`, by ranges of machines, for fleets that do not fit into memory."""
    for first in range(0, machines, machines_per_part):
        numbers = range(first, min(first + machines_per_part, machines))
        yield simulate(numbers, days, seed, interval_hours)


def sensor_names(components: int) -> list[tuple[str, float, float]]:
    """Name, usual level and standard deviation of each component's sensor."""
    return [SENSORS[i] if i < len(SENSORS) else (f"sensor{i + 1}", 100.0, 10.0) for i in range(components)]


def _machine(
    number: int, hours: Floats, end: float, seed: int, interval_hours: int, components: int
) -> dict[str, pl.DataFrame]:
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(number,))))
    name = f"M{number:05d}"
    model, age = int(rng.integers(len(MODELS))), float(rng.integers(0, 21))
    life = _live(rng, model, age, end, components)
    telemetry = pl.DataFrame({"machine_id": np.repeat(name, len(hours)), "time": hours}).with_columns(
        _readings(rng, hours, life.drifts, interval_hours, components)
    )
    return {
        "telemetry": telemetry,
        "errors": _events(name, [e for e in life.errors if 0 < e[0] <= end], "error", "error"),
        "maintenance": _events(name, [r for r in life.replacements if r[0] <= end], "component", "comp"),
        "failures": _events(name, [f for f in life.failures if 0 < f[0] <= end], "component", "comp"),
        "machines": pl.DataFrame({"machine_id": [name], "model": [MODELS[model]], "age_years": [age]}),
    }


def _live(rng: np.random.Generator, model: int, age: float, end: float, components: int) -> _Life:
    """The life of a machine's components, from `BEFORE_DAYS` before the start on; times are whole hours."""
    begin = -BEFORE_DAYS * 24.0
    visits = np.round(np.arange(begin + rng.uniform(0, _VISIT_DAYS * 24), end, _VISIT_DAYS * 24.0))
    on_visit = rng.random((components, len(visits))) < _REPLACED_ON_VISIT
    life = _Life([], [], [], [])
    for component in range(components):
        frail = 0.7 if (model + component) % len(MODELS) == 0 else 1.0
        scale = _LIFE_DAYS * 24 * frail * (1.2 - 0.02 * age)
        due = visits[on_visit[component]]
        now = begin - rng.uniform(0, scale)
        while now < end:
            fails = np.ceil(now + max(48.0, scale * rng.weibull(_LIFE_SHAPE)))
            later = due[due > now]
            replacement = float(later[0]) if len(later) else np.inf
            if fails < replacement and fails > begin:
                life.failures.append((fails, component))
                _announce(rng, life, fails, component)
            now = min(fails, replacement)
            if now > begin and now < np.inf:
                life.replacements.append((now, component))
        for _ in range(rng.poisson(_HARMLESS_DRIFTS_PER_YEAR * max(end, 0) / 8760)):
            ends = np.ceil(rng.uniform(0, end))
            life.drifts.append((ends - rng.uniform(12, 36), ends, component))
        strays = rng.uniform(0, end, rng.poisson(_STRAY_ERRORS_PER_YEAR * max(end, 0) / 8760))
        life.errors.extend((float(np.ceil(t)), component) for t in strays)
    return life


def _announce(rng: np.random.Generator, life: _Life, fails: float, component: int) -> None:
    """Add the signs of a failure: a drift and one to three errors, unless it is sudden."""
    if rng.random() < _SUDDEN:
        return
    warning = rng.uniform(24, 72)
    life.drifts.append((fails - warning, fails, component))
    for _ in range(int(rng.integers(1, 4))):
        life.errors.append((float(np.ceil(fails - rng.uniform(1, min(warning, 36)))), component))


def _readings(
    rng: np.random.Generator,
    hours: Floats,
    drifts: list[tuple[float, float, int]],
    interval_hours: int,
    components: int,
) -> list[pl.Series]:
    """Each sensor's means over the intervals: the machine's own level, noise, a daily cycle, drifts."""
    noise = rng.standard_normal((components, len(hours))) / np.sqrt(interval_hours)
    cycle = 0.3 * np.sin(2 * np.pi * hours / 24 + rng.uniform(0, 2 * np.pi)) if interval_hours < 24 else 0.0
    columns = []
    for i, (name, level, deviation) in enumerate(sensor_names(components)):
        values = noise[i] + cycle
        for begin, end, component in drifts:
            if component == i:
                first, last = np.searchsorted(hours, [begin, end], side="right")
                progress = (hours[first:last] - begin) / (end - begin)
                values[first:last] += 4.0 * np.sqrt(progress) * (-1 if i == 1 else 1)
        own = level * (1 + 0.03 * rng.standard_normal())
        columns.append(pl.Series(name, own + deviation * values))
    return columns


def _events(name: str, events: list[tuple[float, int]], column: str, prefix: str) -> pl.DataFrame:
    """Events in order of time, each once."""
    rows = sorted(set(events))
    return pl.DataFrame(
        {
            "machine_id": [name] * len(rows),
            "time": [time for time, _ in rows],
            column: [f"{prefix}{number + 1}" for _, number in rows],
        },
        schema={"machine_id": pl.String, "time": pl.Float64, column: pl.String},
    )


def _dated(frame: pl.DataFrame, start: datetime) -> pl.DataFrame:
    if "time" not in frame.columns:
        return frame
    since = pl.duration(microseconds=(pl.col("time") * 3.6e9).round().cast(pl.Int64))
    return frame.with_columns((pl.lit(start).cast(pl.Datetime("us", "UTC")) + since).alias("time"))


def _empty(name: str) -> pl.DataFrame:
    return _machine(0, np.empty(0), 0.0, 0, 1, 4)[name].clear()


def joined_by(
    tables: dict[str, pl.DataFrame], machines: int, since: datetime, model: str = "E"
) -> dict[str, pl.DataFrame]:
    """`tables` in which the last `machines` machines are of another `model`, without records before `since`."""
    names = tables["machines"]["machine_id"].unique().sort().tail(machines)
    new = pl.col("machine_id").is_in(names.implode())
    fleet = {
        name: frame.filter(~new | (pl.col("time") > since)) if "time" in frame.columns else frame
        for name, frame in tables.items()
    }
    kind = pl.when(new).then(pl.lit(model)).otherwise("model").alias("model")
    return fleet | {"machines": fleet["machines"].with_columns(kind)}
