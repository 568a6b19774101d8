"""The health of a scenario: whether what is due has been published, how fresh its data is, and which bundle it uses."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any

import polars as pl

from models.moments import as_moment, in_words, shortened
from models.scenario import AsOf, EmitsEvents, Scenario
from tasks.ingest.status import is_stale, stored_tables, time_allowed
from tasks.registry import bundles, ledger
from tasks.storage.layout import DRIFT, Layout
from tasks.storage.store import Store

_HOUR, _WEEK = timedelta(hours=1), timedelta(days=7)


@dataclass(frozen=True)
class Health:
    """The health of a scenario. `late`: the last complete `as_of` is overdue; `stale`: new data is overdue.

    Fields are None if nothing is known yet.
    """

    scenario: str
    late: bool | None
    stale: bool | None
    published: str | None
    due: str
    data_age_hours: float
    published_age_hours: float | None
    champion: int | None
    champion_age_days: float | None
    fallback_share: float | None
    failed_keys: int | None
    alarms_per_day: float | None
    quarantined_rows: int
    quarantined_share: float
    drifted_features: int | None

    @property
    def ok(self) -> bool:
        return not self.late and not self.stale

    def __str__(self) -> str:
        """The health in one line."""
        verdict = " and ".join(word for word in ("late", "stale") if getattr(self, word)) or "ok"
        facts = [
            f"{self.scenario}: {verdict}",
            f"published {self.published or 'nothing'}, due {self.due}",
            f"data {in_words(timedelta(hours=self.data_age_hours))} old",
            "no champion"
            if self.champion is None
            else f"champion {self.champion}, {self.champion_age_days} days old",
            None if self.fallback_share is None else f"fallbacks {self.fallback_share:.1%}",
            f"failed keys {self.failed_keys:,}" if self.failed_keys else None,
            None if self.alarms_per_day is None else f"{self.alarms_per_day:,} alarms a day",
            f"quarantine {self.quarantined_share:.1%}",
            None if self.drifted_features is None else f"drifted features {self.drifted_features}",
        ]
        return shortened("; ".join(fact for fact in facts if fact))


def health(scenario: Scenario, store: Store, now: datetime) -> Health | None:
    """The health of a scenario; None if nothing has been ingested for it."""
    tables = stored_tables(scenario, store)
    if next(iter(scenario.tables)) not in tables:
        return None
    scenario = scenario.at_pace_of(tables)
    due = scenario.resolve_as_of(tables, None, now)
    run = _last_run(scenario, store)
    last = None if run is None else type(due).fromisoformat(str(run["as_of"]))
    champion = bundles.champion(store, scenario.name)
    quarantined = store.rows(Layout(scenario.name).table("quarantine"))
    row_count = sum(store.rows(Layout(scenario.name).table(name)) for name in tables)
    return Health(
        scenario=scenario.name,
        late=None if champion is None else _late(scenario, last, due, now),
        stale=None if scenario.cadence is None else is_stale(scenario, due, now - time_allowed(scenario)),
        published=None if last is None else last.isoformat(),
        due=due.isoformat(),
        data_age_hours=round((now - as_moment(due)) / _HOUR, 1),
        published_age_hours=None if run is None else round((now - run["ended"]) / _HOUR, 1),
        champion=champion,
        champion_age_days=None if champion is None else _age_days(store, scenario.name, champion, now),
        fallback_share=None if run is None else round(run["fallback"] / max(run["requested"], 1), 4),
        failed_keys=None if run is None else int(run["failed"]),
        alarms_per_day=None if last is None else _alarms_per_day(scenario, store, last),
        quarantined_rows=quarantined,
        quarantined_share=round(quarantined / max(quarantined + row_count, 1), 4),
        drifted_features=_drifted_features(store, scenario.name),
    )


def prometheus(reports: list[Health]) -> str:
    """The figures in Prometheus's text format; unknown figures are left out.

    >>> prometheus([]) == chr(10)
    True
    """
    lines = []
    for name in sorted({name for one in reports for name in _numbers(one)}):
        lines.append(f"# TYPE almanac_{name} gauge")
        lines += [
            f'almanac_{name}{{scenario="{one.scenario}"}} {value:g}'
            for one in reports
            if (value := _numbers(one).get(name)) is not None
        ]
    return "\n".join(lines) + "\n"


def _numbers(one: Health) -> Mapping[str, float]:
    fields = asdict(one) | {"ok": one.ok}
    return {name: float(value) for name, value in fields.items() if isinstance(value, int | float)}


def _late(scenario: Scenario, last: AsOf | None, due: AsOf, now: datetime) -> bool:
    if last is not None and last >= due:
        return False
    cadence = scenario.cadence or timedelta(days=1)
    complete = as_moment(due) if isinstance(due, datetime) else as_moment(due) + cadence
    return now - complete > time_allowed(scenario)


def _last_run(scenario: Scenario, store: Store) -> dict[str, Any] | None:
    """The row of the newest published `as_of`; ISO text sorts as the times do."""
    rows = ledger.rows(store)
    if rows is None:
        return None
    newest = rows.filter(scenario=scenario.name).sort("as_of", "ended").tail(1).collect().to_dicts()
    return newest[0] if newest else None


def _age_days(store: Store, scenario: str, champion: int, now: datetime) -> float | None:
    events = bundles.events(store, scenario)
    registration = None if events is None else events.filter(bundle=champion)["at"].min()
    return (
        round((now - as_moment(registration)) / timedelta(days=1), 1)
        if isinstance(registration, date)
        else None
    )


def _alarms_per_day(scenario: Scenario, store: Store, last: AsOf) -> float | None:
    """New alarms per day in the runs of the week up to `last`; None for a scenario without alarms."""
    if not isinstance(scenario, EmitsEvents) or scenario.alarms is None or scenario.cadence is None:
        return None
    name, is_alarm = scenario.alarms
    path = Layout(scenario.name).table(name)
    as_ofs = [one for one in store.as_ofs(path) if last - _WEEK < one <= last]
    if not as_ofs:
        return None
    week = store.scan(path).filter(pl.col("as_of").is_in(as_ofs), is_alarm)
    count = int(week.select(pl.len()).collect().item())
    return round(count / (len(as_ofs) * (scenario.cadence / timedelta(days=1))), 2)


def _drifted_features(store: Store, scenario: str) -> int | None:
    """The number of drifted features in the last comparison."""
    path = Layout(scenario).table(DRIFT)
    if not (as_ofs := store.as_ofs(path)):
        return None
    last = store.scan(path).filter(pl.col("as_of") == as_ofs[-1])
    return int(last.select(pl.col("drifted").sum()).collect().item())
