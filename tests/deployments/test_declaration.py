"""`prefect.yaml` and the environment, without a server."""

import importlib
import inspect
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from prefect.flows import load_flow_from_entrypoint
from prefect.server.schemas.schedules import CronSchedule

from deployments.declarations import PREFECT_FILE, declaration
from deployments.environment import VARIABLES, VariableError, environment
from models.errors import AlmanacError
from tests.conftest import ROOT

SERVER = {"PREFECT_API_URL": "http://127.0.0.1:4200/api", "ALMANAC_STORE": "az://almanac/store"}
TABLE = {
    "sales-forecast/weekly": "0 6 * * 1 Europe/Zurich",
    "sales-ingest/weekly": "0 5 * * 1 Europe/Zurich",
    "sales-evaluate/weekly": "30 5 * * 1 Europe/Zurich",
    "sales-train/monthly": "0 4 1 * * Europe/Zurich",
    "sales-train/on-drift": None,
    "sales-tune/by-hand": None,
    "sales-whatif/by-hand": None,
    "sales-promote/by-hand": None,
    "sales-rollback/by-hand": None,
    "devices-ingest/hourly": "2 * * * * UTC",
    "devices-score/hourly": "5 * * * * UTC",
    "devices-evaluate/daily": "15 5 * * * Europe/Zurich",
    "devices-train/weekly": "0 4 * * 0 Europe/Zurich",
    "devices-train/on-drift": None,
    "devices-tune/by-hand": None,
    "devices-promote/by-hand": None,
    "devices-rollback/by-hand": None,
    "devices-label/by-hand": None,
    "devices-mute/by-hand": None,
    "machines-ingest/daily": "0 5 * * * Europe/Zurich",
    "machines-score/on-new-data": None,
    "machines-score/daily": "0 6 * * * Europe/Zurich",
    "machines-evaluate/daily": "30 5 * * * Europe/Zurich",
    "machines-train/monthly": "30 4 1 * * Europe/Zurich",
    "machines-train/on-drift": None,
    "machines-tune/by-hand": None,
    "machines-promote/by-hand": None,
    "machines-rollback/by-hand": None,
    "housekeeping/daily": "45 4 * * * Europe/Zurich",
    "health-watch/hourly": "25 * * * * UTC",
}


def the_file(**variables: str) -> dict[str, dict]:
    """The declared deployments by flow and name."""
    content = declaration(environment({**SERVER, **variables}))
    return {f"{flow_of(one).name}/{one['name']}": one for one in content["deployments"]}


def flow_of(deployment):
    path, _, name = deployment["entrypoint"].partition(":")
    return getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)


@pytest.fixture(scope="module")
def zurich() -> dict[str, dict]:
    return the_file(ALMANAC_TIMEZONE="Europe/Zurich")


def test_every_deployment_of_the_table_is_there_at_its_time(zurich):
    declarations = {
        name: next((f"{s['cron']} {s['timezone']}" for s in one.get("schedules", [])), None)
        for name, one in zurich.items()
    }
    assert declarations == TABLE


def test_every_deployment_says_what_it_reads_and_writes_and_what_happens_when_it_is_started_again(zurich):
    for name, one in zurich.items():
        for heading in ("Reads:", "Writes:", "Started again:"):
            assert heading in one["description"], name
        assert one["enforce_parameter_schema"] is True
        assert one["concurrency_limit"]["limit"] == 1
        assert "almanac" in one["tags"]
        assert one["work_pool"]["job_variables"]["env"]["ALMANAC_STORE"] == "az://almanac/store"


def test_parameters_and_those_of_triggers_are_parameters_of_the_flow(zurich):
    for name, one in zurich.items():
        parameters = set(inspect.signature(flow_of(one).fn).parameters)
        names = {*one["parameters"], *(p for t in one.get("triggers", []) for p in t["parameters"])}
        assert names <= parameters, name


@pytest.mark.slow
def test_every_flow_can_be_loaded_from_its_entrypoint_as_a_worker_does_it(zurich, monkeypatch):
    monkeypatch.chdir(ROOT)
    for name, one in zurich.items():
        assert load_flow_from_entrypoint(one["entrypoint"]).name == name.partition("/")[0]


def test_an_hourly_run_does_not_pile_up_and_an_event_is_never_skipped(zurich):
    strategies = {name: one["concurrency_limit"]["collision_strategy"] for name, one in zurich.items()}
    assert strategies["devices-score/hourly"] == "CANCEL_NEW"
    assert strategies["machines-score/on-new-data"] == "ENQUEUE"


@pytest.mark.parametrize(
    ("flow", "source", "schedule"),
    [
        ("sales-ingest/weekly", {"ALMANAC_SALES_SOURCE": "az://in/sales"}, {"source": "az://in/sales"}),
        ("devices-ingest/hourly", {"ALMANAC_DEVICES_SOURCE": "az://in/iot"}, {"source": "az://in/iot"}),
    ],
)
def test_an_ingest_is_scheduled_where_it_has_a_source_and_else_by_hand(flow, source, schedule):
    without, with_source = the_file()[flow], the_file(**source)[flow]
    assert [s["active"] for s in without["schedules"]] == [False]
    assert without["parameters"] == {}
    assert [s["active"] for s in with_source["schedules"]] == [True]
    assert with_source["parameters"] == schedule


def test_no_schedule_of_a_scenario_is_on_that_has_no_source():
    def scheduled(**variables):
        active = [
            name
            for name, one in the_file(**variables).items()
            for s in one.get("schedules", [])
            if s["active"]
        ]
        return {name.partition("-")[0] for name in active}

    assert scheduled() == {"housekeeping/daily", "health"}
    assert scheduled(ALMANAC_SALES_SOURCE="az://in/sales") == {"housekeeping/daily", "health", "sales"}


def test_a_run_knows_the_time_zone_in_which_its_days_end(zurich):
    zones = {one["work_pool"]["job_variables"]["env"]["ALMANAC_TIMEZONE"] for one in zurich.values()}
    assert zones == {"Europe/Zurich"}


def test_an_ingest_comes_before_its_scoring(zurich):
    for ingest, score in (
        ("sales-ingest/weekly", "sales-forecast/weekly"),
        ("devices-ingest/hourly", "devices-score/hourly"),
        ("machines-ingest/daily", "machines-score/daily"),
    ):
        minutes = [int(zurich[n]["schedules"][0]["cron"].split()[0]) for n in (ingest, score)]
        hours = [zurich[n]["schedules"][0]["cron"].split()[1] for n in (ingest, score)]
        assert (hours[0], minutes[0]) < (hours[1], minutes[1])


# missing and wrong


def test_all_that_is_missing_is_named_at_once_with_what_it_is_for():
    with pytest.raises(VariableError) as error:
        environment(
            {
                "ALMANAC_POOL_TYPE": "azure-container-instance",
                "PREFECT_API_URL": "",
                "ALMANAC_TIMEZONE": "Mars/Base",
            }
        )
    message = str(error.value)
    for name in ("ALMANAC_STORE", "ALMANAC_IMAGE", "ALMANAC_TIMEZONE=Mars/Base"):
        assert name in message
    assert "store of all runs" in message


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ALMANAC_STORE": "s3://bucket"}, "ALMANAC_STORE: s3:// is not a kind of store"),
        ({"ALMANAC_STORE": "az://c/f?sig=SECRET"}, "carries a credential"),
        ({"ALMANAC_SALES_SOURCE": "az://c/f?sig=SECRET"}, "ALMANAC_SALES_SOURCE"),
        ({"PREFECT_API_URL": "http://u:SECRET@host/api"}, "PREFECT_API_URL carries a credential"),
        ({"ALMANAC_TIMEZONE": "https://u:SECRET@host"}, "ALMANAC_TIMEZONE carries a credential"),
        ({"ALMANAC_MACHINES_TELEMETRY": "az://in/t"}, "ALMANAC_MACHINES_MAINTENANCE is not set"),
        ({"ALMANAC_POOL_TYPE": "kubernets"}, "Expected one of: "),
    ],
)
def test_a_value_that_cannot_be_is_refused_and_no_secret_is_repeated(variables, message):
    with pytest.raises(AlmanacError) as error:
        environment({**SERVER, **variables})
    assert message in str(error.value)
    assert "SECRET" not in str(error.value)


def test_a_variable_that_the_file_asks_for_and_nobody_knows_is_named(tmp_path):
    path = tmp_path / "prefect.yaml"
    path.write_text(PREFECT_FILE.read_text().replace("$ALMANAC_TIMEZONE", "$ALMANAC_TIMEZON"))
    with pytest.raises(VariableError, match="ALMANAC_TIMEZON"):
        declaration(environment(SERVER), path)


def test_every_variable_is_in_the_operations_page():
    page = (ROOT / "docs" / "operations.md").read_text()
    assert [one.name for one in VARIABLES if f"`{one.name}`" not in page] == []


# the next ten times


def ten(schedule: dict, start: datetime) -> list[datetime]:
    import asyncio

    cron = CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    return asyncio.run(cron.get_dates(n=10, start=start))


ACROSS = [
    ("Europe/Zurich", datetime(2026, 3, 26, tzinfo=UTC)),
    ("Europe/Zurich", datetime(2026, 10, 22, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 5, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 10, 29, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 2, tzinfo=UTC)),
    ("UTC", datetime(2026, 6, 1, tzinfo=UTC)),
]


@pytest.mark.parametrize(("zone", "start"), ACROSS)
def test_the_next_ten_times_are_those_of_the_calendar_also_where_the_clocks_change(zone, start):
    """The oracle goes through the wall time of every minute and does not use cron expressions."""
    for name, one in the_file(ALMANAC_TIMEZONE=zone).items():
        for schedule in one.get("schedules", []):
            moments = [moment.astimezone(UTC).replace(tzinfo=UTC) for moment in ten(schedule, start)]
            assert moments == by_hand(name, schedule["timezone"], start), name


def by_hand(name: str, zone: str, start: datetime) -> list[datetime]:
    due = {
        "sales-ingest/weekly": lambda t: t.weekday() == 0 and (t.hour, t.minute) == (5, 0),
        "sales-forecast/weekly": lambda t: t.weekday() == 0 and (t.hour, t.minute) == (6, 0),
        "sales-evaluate/weekly": lambda t: t.weekday() == 0 and (t.hour, t.minute) == (5, 30),
        "sales-train/monthly": lambda t: t.day == 1 and (t.hour, t.minute) == (4, 0),
        "devices-ingest/hourly": lambda t: t.minute == 2,
        "devices-score/hourly": lambda t: t.minute == 5,
        "devices-evaluate/daily": lambda t: (t.hour, t.minute) == (5, 15),
        "devices-train/weekly": lambda t: t.weekday() == 6 and (t.hour, t.minute) == (4, 0),
        "machines-ingest/daily": lambda t: (t.hour, t.minute) == (5, 0),
        "machines-score/daily": lambda t: (t.hour, t.minute) == (6, 0),
        "machines-evaluate/daily": lambda t: (t.hour, t.minute) == (5, 30),
        "machines-train/monthly": lambda t: t.day == 1 and (t.hour, t.minute) == (4, 30),
        "housekeeping/daily": lambda t: (t.hour, t.minute) == (4, 45),
        "health-watch/hourly": lambda t: t.minute == 25,
    }[name]
    moments, moment = [], start
    step = timedelta(minutes=1 if "hourly" in name else 15)
    where = ZoneInfo(zone)
    while len(moments) < 10:
        if due(moment.astimezone(where)):
            moments.append(moment)
        moment += step
    return moments
