"""The ground truth of verdicts, compared with loops over the published rows and the labels."""

import random
import statistics
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from models.contracts import ROW
from models.devices.scenario import DEVICES
from models.devices.tables import TABLES

AS_OF = datetime(2026, 3, 2, 9, tzinfo=UTC)
BEGIN, MINUTE = AS_OF - timedelta(hours=1), timedelta(minutes=1)
SENSORS = [("a", "flow"), ("a", "heat"), ("a", "*"), ("b", "flow"), ("c", "flow")]
LABELS = [
    ("a", "flow", -20, 10, "spike"),
    ("a", "*", 5, 25, "shift"),
    ("b", "flow", 50, 80, "drift"),
    ("c", "heat", 0, 60, "other tag"),
    ("d", "flow", 0, 60, "other device"),
]


def published(seed: int = 1, as_of: datetime = AS_OF) -> pl.DataFrame:
    draw = random.Random(seed)
    rows = []
    for device, tag in SENSORS:
        for minute in range(60):
            p = draw.random() ** 6
            rung = "joint" if tag == "*" else draw.choice(["robust_level", "missing"])
            rows.append(
                (device, tag, as_of - timedelta(hours=1) + minute * MINUTE, p, p <= 0.05, rung, as_of, 3, "r")
            )
    schema = ["device", "tag", "time", "p_value", "is_anomaly", "rung", "as_of", "bundle", "run_id"]
    return pl.DataFrame(rows, schema=schema, orient="row")


def labels(rows=LABELS) -> pl.LazyFrame:
    records = [(d, t, BEGIN + a * MINUTE, BEGIN + b * MINUTE, fault) for d, t, a, b, fault in rows]
    return pl.DataFrame(records, schema=["device", "tag", "start", "end", "fault"], orient="row").lazy()


def judge(rows: pl.DataFrame, tables) -> pl.DataFrame:
    return DEVICES.judge(rows.lazy(), tables, AS_OF, {"interval": "1m"})


def place(row) -> tuple[str | None, str | None]:
    """Phase and fault of a published row, by the definition: during before after, then the one that began first."""
    near = []
    for device, tag, start, end, fault in labels().collect().iter_rows():
        concerned = device == row["device"] and (tag in ("*", row["tag"]) or row["tag"] == "*")
        if concerned and start <= row["time"] < end + 30 * MINUTE:
            near.append((0 if row["time"] < end else 1, start, fault))
    if not near:
        return None, None
    late, _, fault = min(near)
    return ("after" if late else "during"), fault


def test_each_published_row_counts_once_in_the_fault_that_it_lies_in():
    rows = published()
    verdicts = judge(rows, {"labels": labels()})
    by_place: dict = {}
    for row in rows.iter_rows(named=True):
        key = (row["device"], row["tag"], row["rung"], *place(row))
        counts = by_place.setdefault(key, {"readings": 0, "anomalies": 0, "at_0.01": 0, "first": None})
        counts["readings"] += 1
        counts["at_0.01"] += row["p_value"] <= 0.01
        if row["is_anomaly"]:
            counts["anomalies"] += 1
            counts["first"] = counts["first"] or row["time"]
    assert verdicts.height == len(by_place)
    assert {None, "during", "after"} == set(verdicts["phase"])
    for row in verdicts.iter_rows(named=True):
        counts = by_place[row["device"], row["tag"], row["rung"], row["phase"], row["fault"]]
        counts_of_row = {
            "readings": row["readings"],
            "anomalies": row["anomalies"],
            "at_0.01": row["at_0.01"],
        }
        assert {**counts_of_row, "first": row["first_anomaly"]} == counts
    assert not verdicts["pending"].any()
    assert set(verdicts["bundle"]) == {3}


def test_labels_are_complete_up_to_the_end_of_the_last_one():
    assert judge(published(), {"labels": labels()})["labelled"].all()
    assert not judge(published(), {"labels": labels(LABELS[:2])})["labelled"].any()
    assert not judge(published(), {})["labelled"].any()


def test_precision_recall_delay_and_the_alarm_rate_are_those_of_their_definitions():
    rows = published()
    tables = {"labels": labels()}
    table = DEVICES.measures(judge(rows, tables).with_columns(as_of=pl.lit(AS_OF)).lazy(), {})
    values = dict(table.filter(slice="all").select("metric", "value").iter_rows())
    placed = [(row, *place(row)) for row in rows.iter_rows(named=True)]
    calls = [(row, phase, fault) for row, phase, fault in placed if row["is_anomaly"]]
    assert values["precision"] == pytest.approx(sum(phase is not None for _, phase, _ in calls) / len(calls))
    during = {fault for _, phase, fault in placed if phase == "during"}
    first: dict = {}
    for row, phase, fault in calls:
        if phase == "during":
            first[fault] = min(first.get(fault, row["time"]), row["time"])
    assert values["faults"] == len(during) == 3
    assert values["recall"] == pytest.approx(len(first) / len(during))
    starts = {row["fault"]: row["start"] for row in labels().collect().iter_rows(named=True)}
    delays = [(time - starts[fault]).total_seconds() / 60 for fault, time in first.items()]
    assert values["delay_minutes"] == pytest.approx(statistics.median(delays))
    normal = [row for row, phase, _ in placed if phase is None and row["rung"] == "robust_level"]
    assert values["readings"] == len(normal)
    assert values["alarm_rate"] == pytest.approx(sum(row["is_anomaly"] for row in normal) / len(normal))
    assert values["alarm_rate_at_0.01"] == pytest.approx(
        sum(r["p_value"] <= 0.01 for r in normal) / len(normal)
    )
    (tally,) = DEVICES.tallies(judge(rows, tables), {}).iter_rows(named=True)
    assert tally["rows"] == tally["denominator"] == len(normal)
    assert tally["numerator"] == sum(row["p_value"] <= 0.01 for row in normal)
    assert tally["period"] == AS_OF.date()


def test_a_fault_over_two_hours_is_one_fault():
    rows = [published(seed, AS_OF + timedelta(hours=seed)) for seed in (0, 1)]
    long = {"labels": labels([("b", "flow", 30, 90, "drift")])}
    verdicts = pl.concat([judge(one, long).with_columns(as_of=one["as_of"][0]) for one in rows])
    table = DEVICES.measures(verdicts.lazy(), {})
    assert table.filter(slice="all", metric="faults")["value"].item() == 1
    one = table.filter(slice="fault", value_of_slice="drift", metric="recall")["value"].item()
    assert one == 1.0


def test_without_labels_there_is_an_alarm_rate_and_nothing_else():
    table = DEVICES.measures(judge(published(), {}).with_columns(as_of=pl.lit(AS_OF)).lazy(), {})
    assert {"readings", "alarm_rate", "alarm_rate_at_0.01", "alarm_rate_at_0.001"} == set(table["metric"])


# the table of labels


def accept(rows: dict):
    raw = pl.DataFrame(rows).with_row_index(ROW)
    return TABLES["labels"].accept(raw, {"timezone": "UTC"})


def test_a_label_without_tag_is_of_all_tags():
    rows = {"device": ["a"], "start": ["2026-03-02 08:00"], "end": ["2026-03-02 09:00"], "fault": ["spike"]}
    assert accept(rows).good["tag"].to_list() == ["*"]
    assert accept({**rows, "tag": [""]}).good["tag"].to_list() == ["*"]
    assert accept({**rows, "tag": ["flow"]}).good["tag"].to_list() == ["flow"]
    assert "tag" not in TABLES["labels"].required_columns


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("2026-03-02", "2026-03-03T00:00"),
        ("2.3.2026", "2026-03-03T00:00"),
        ("2026-03-02T00:00", "2026-03-02T00:00"),
    ],
)
def test_a_label_that_ends_on_a_date_ends_with_that_day(end, expected):
    raw = pl.DataFrame({"device": ["d"], "start": ["2026-03-01"], "end": [end], "fault": ["f"]})
    accepted = TABLES["labels"].accept(raw.with_row_index(ROW), {"timezone": "UTC"})
    assert accepted.good["end"].dt.strftime("%Y-%m-%dT%H:%M").to_list() == [expected]


def test_a_label_that_ends_before_its_start_is_bad():
    moment = ["2026-03-02 08:00"] * 2
    ends = ["2026-03-02 07:00", "2026-03-02 10:00"]
    result = accept({"device": ["a", "b"], "start": moment, "end": ends, "fault": ["x"] * 2})
    assert result.good["end"].to_list() == [datetime(2026, 3, 2, 10, tzinfo=UTC)]
    assert result.bad.height == 1
