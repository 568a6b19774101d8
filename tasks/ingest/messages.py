"""The readings in one message of a device: its body, and the properties that the hub adds.

A body is a reading or a list of them, plain or compressed with gzip. A reading is an object with the members that the
table's columns are mapped from. If it has none for `tag` and `value`, or one for both, its other members are readings:
each number or flag under its name, in any nested object or list.
"""

import base64
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

SEQUENCE, ENQUEUED, OFFSET = "SequenceNumber", "EnqueuedTimeUtc", "Offset"
OWN = (SEQUENCE, OFFSET, ENQUEUED)
SURROGATES = (b"\\ud", b"\\uD")
"""How an escaped UTF-16 surrogate begins; only a pair of them stands for a character."""
_GZIP = b"\x1f\x8b"
_LONGEST = 16_000_000
"""The most bytes of an unpacked body."""
_MOST_READINGS, _DEEPEST = 1_000, 16
_DEVICES = ("connectionDeviceId", "iothub-connection-device-id", "deviceId")
"""The `SystemProperties` in which IoT Hub names the device that sent a message."""


def readings(
    message: Mapping[str, Any], columns: Mapping[str, str]
) -> tuple[list[dict[str, Any]], str | None]:
    """The readings in a message's body, by column, and the rule that the message breaks; None if it breaks none.

    If one reading is invalid, the whole message is.
    """
    body = message.get("Body")
    if not body:
        return [], "body|empty"
    try:
        value = _value(body)
    except (ValueError, RecursionError):
        return [], "body|json"
    except zlib.error:
        return [], "body|gzip"
    if value is None and isinstance(body, bytes) and body.startswith(_GZIP):
        return [], "body|too long"
    own = {name: message.get(name) for name in OWN}
    result: list[dict[str, Any]] = []
    for reading in value if isinstance(value, list) else [value]:
        if not isinstance(reading, dict):
            return [], "body|object"
        some, rule = _of_object(reading, _around(message), columns)
        if rule:
            return [], rule
        result += [one | own for one in some]
        if len(result) > _MOST_READINGS:
            return [], f"body|more than {_MOST_READINGS} readings"
    return result, None if result else "body|empty"


def _value(body: Any) -> Any:
    """The JSON value of a body; None if it is too long."""
    if isinstance(body, str):
        try:
            body = base64.b64decode(body, validate=True)
        except ValueError:
            body = body.encode()
    if not isinstance(body, bytes):
        return body
    if body.startswith(_GZIP):
        unpacker = zlib.decompressobj(wbits=31)
        body = unpacker.decompress(body, _LONGEST)
        if unpacker.unconsumed_tail:
            return None
    value = json.loads(body, object_pairs_hook=_first_of_each)
    if any(half in body for half in SURROGATES):
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _first_of_each(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; if a name occurs twice, its first value counts."""
    return dict(reversed(members))


def _around(message: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a message besides its body; those of objects also as `outer.inner`."""
    flat: dict[str, Any] = {}
    for name, value in message.items():
        if name == "Body":
            continue
        flat[name] = value
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": one for inner, one in value.items()}
    flat[ENQUEUED] = _iso(flat.get(ENQUEUED))
    return flat


def _iso(text: Any) -> Any:
    """The enqueue time as ISO 8601. Event Hubs Capture writes month, day and year, and AM or PM."""
    try:
        return datetime.strptime(text, "%m/%d/%Y %I:%M:%S %p").replace(tzinfo=UTC).isoformat()
    except (TypeError, ValueError):
        return text


def _of_object(
    reading: Mapping[str, Any], around: Mapping[str, Any], columns: Mapping[str, str]
) -> tuple[list[dict[str, Any]], str | None]:
    """The readings in one object of a body, by column, or the rule that it breaks."""
    members = {**around, **reading}
    tag, value = columns.get("tag", ""), columns.get("value", "")
    of_device = [around.get(f"SystemProperties.{name}") for name in _DEVICES]
    own_names = {*columns.values(), *_DEVICES}
    others = [one for name, one in reading.items() if name not in own_names and one not in of_device]
    is_spread = bool(tag and value) and _is_spread(members, tag, value, others)
    by_column: dict[str, Any] = {}
    for column, name in columns.items():
        if is_spread and column in ("tag", "value"):
            continue
        has_member = name in members or "." in name
        one = _member(members, name) if has_member else None
        if not has_member and is_spread:
            has_member, one = _stated_by_the_hub(column, around)
        if not has_member or (one is None and "." in name and name not in members):
            return [], f"body|lacks {name}"
        by_column[column] = one
    if not is_spread:
        return [by_column], None
    names = {name for column, name in columns.items() if column not in ("tag", "value")}
    inside: Any = {name: one for name, one in reading.items() if name not in names}
    if tag in reading:
        inside = reading[tag] if isinstance(reading[tag], Mapping | list) else {tag: reading[tag]}
    spread_out = [by_column | {"tag": name, "value": one} for name, one in _numbers(inside, "")]
    return spread_out, None if spread_out else f"body|lacks {value}"


def _is_spread(members: Mapping[str, Any], tag: str, value: str, others: Iterable[Any]) -> bool:
    """Whether the members of an object are readings themselves.

    In case of doubt, they are not if one of the `others` is a name, because it may be a sensor's.
    """
    if tag == value:
        return True
    if tag in members:
        return isinstance(members[tag], Mapping | list) and value not in members
    has_name = any(isinstance(one, str) and not one[:1].isdigit() for one in others)
    return value not in members and tag == "tag" and value == "value" and not has_name


def _member(members: Mapping[str, Any], name: str) -> Any:
    """A member by its name, or by its path, `outer.inner`."""
    if name in members:
        return members[name]
    value_inside: Any = members
    for part in name.split("."):
        value_inside = value_inside.get(part) if isinstance(value_inside, Mapping) else None
    return value_inside


def _stated_by_the_hub(column: str, around: Mapping[str, Any]) -> tuple[bool, Any]:
    """Whether the hub states the device or the enqueue time of a message, and the value, for a body that lacks it."""
    names = [f"SystemProperties.{name}" for name in _DEVICES] if column == "device" else []
    names += [ENQUEUED] if column == "time" else []
    return next(((True, around[name]) for name in names if around.get(name)), (False, None))


def _numbers(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Numbers and flags in a value with their names; a member `value` takes the name of the object that contains it."""
    if isinstance(value, bool | int | float):
        yield name, value
    elif isinstance(value, Mapping | list) and depth < _DEEPEST:
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for inner, one in pairs:
            own = name if inner == "value" and name else f"{name}.{inner}" if name else str(inner)
            yield from _numbers(one, own, depth + 1)
