"""How the bodies of devices' messages are read."""

import base64
import gzip
import json

import pytest

from tasks.ingest.messages import readings

COLUMNS = {name: name for name in ("device", "tag", "time", "value")}
HUB = {
    "EnqueuedTimeUtc": "3/2/2026 08:00:00 PM",
    "SystemProperties": {"iothub-connection-device-id": "pump-1"},
}
DEVICE = "SystemProperties.iothub-connection-device-id"
ONE = {"device": "d", "tag": "t", "time": "2026-03-02T00:00:00Z", "value": 1.5}


def found(body, columns=COLUMNS, **around) -> tuple[list[tuple], str | None]:
    content = body if isinstance(body, bytes | str) else json.dumps(body).encode()
    rows, rule = readings({"Body": content, **around}, columns)
    return sorted(tuple(row[name] for name in COLUMNS) for row in rows), rule


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(json.dumps(ONE).encode(), mtime=0),
        base64.b64encode(json.dumps(ONE).encode()).decode(),
        json.dumps(ONE),
        [ONE],
    ],
)
def test_a_body_may_be_compressed_encoded_text_or_a_list(body):
    assert found(body) == ([("d", "t", "2026-03-02T00:00:00Z", 1.5)], None)


def test_members_of_a_message_of_iot_hub_are_its_sensors_and_the_hub_names_the_device():
    rows, rule = found({"temperature": 20, "state": {"open": True, "note": None}, "axis": [1.0, 2.0]}, **HUB)
    assert rule is None
    time = "2026-03-02T20:00:00+00:00"
    assert rows == [
        ("pump-1", "axis.0", time, 1.0),
        ("pump-1", "axis.1", time, 2.0),
        ("pump-1", "state.open", time, True),
        ("pump-1", "temperature", time, 20),
    ]


def test_text_that_names_the_device_names_no_sensor():
    reading = ("pump-1", "t", "2026-03-02T20:00:00+00:00", 5)
    columns = {**COLUMNS, "device": DEVICE}
    for body in ({"deviceId": "Kitchen", "t": 5}, {"id": "pump-1", "t": 5}):
        assert found(body, columns, **HUB) == ([reading], None)
    assert found({"status": "ok", "t": 5}, columns, **HUB) == ([], "body|lacks tag")
    assert found({"status": "ok", "t": 5}, {**columns, "tag": "*", "value": "*"}, **HUB) == ([reading], None)


def test_a_member_that_is_mapped_to_both_tag_and_value_is_one_sensor():
    columns = {**COLUMNS, "device": DEVICE, "tag": "t", "value": "t"}
    assert found({"t": 5, "u": 6, "time": "x"}, columns, **HUB) == ([("pump-1", "t", "x", 5)], None)


def test_an_object_that_is_mapped_to_the_tag_holds_the_sensors():
    body = {"device": "d", "time": "x", "telemetry": {"t": {"value": 1}, "h": 2}}
    assert found(body, {**COLUMNS, "tag": "telemetry"}) == ([("d", "h", "x", 2), ("d", "t", "x", 1)], None)


def test_members_of_other_names_are_not_taken_for_sensors():
    assert found({"sensor": "t", "val": 1}, **HUB) == ([], "body|lacks device")


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (gzip.compress(b'{"device": "d"', mtime=0)[:-9], "body|json"),
        (b"\x1f\x8b broken", "body|gzip"),
        (gzip.compress(b" " * 17_000_000 + b"1", mtime=0), "body|too long"),
        (b'{"a":' * 20_000, "body|json"),
        ({"device": "d", "time": "x", **{f"m{n}": n for n in range(5_000)}}, "body|more than 1000 readings"),
    ],
)
def test_a_body_that_is_too_much_is_broken_and_nothing_else(body, rule):
    assert found(body) == ([], rule)


def test_a_value_that_is_nested_deeply_gives_no_reading_and_no_error():
    deep = b'{"device": "d", "time": "x", "a": ' + b"[" * 900 + b"1" + b"]" * 900 + b"}"
    assert found(deep) == ([], "body|lacks value")
