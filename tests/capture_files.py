"""Files as Event Hubs Capture writes them."""

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fastavro import parse_schema, writer

_VALUES = {"type": "map", "values": ["long", "double", "string", "bytes"]}
SCHEMA = parse_schema(
    {
        "type": "record",
        "name": "EventData",
        "namespace": "Microsoft.ServiceBus.Messaging",
        "fields": [
            {"name": "SequenceNumber", "type": "long"},
            {"name": "Offset", "type": "string"},
            {"name": "EnqueuedTimeUtc", "type": "string"},
            {"name": "SystemProperties", "type": _VALUES},
            {"name": "Properties", "type": _VALUES},
            {"name": "Body", "type": ["null", "bytes"]},
        ],
    }
)
START = datetime(2026, 3, 2, 10, tzinfo=UTC)


def message(body: Any, sequence: int = 0, enqueued: datetime = START + timedelta(hours=3)) -> dict[str, Any]:
    """A message; a body that is not bytes is sent as JSON."""
    hour = enqueued.hour % 12 or 12
    half = "AM" if enqueued.hour < 12 else "PM"
    return {
        "SequenceNumber": sequence,
        "Offset": str(sequence * 120),
        "EnqueuedTimeUtc": f"{enqueued.month}/{enqueued.day}/{enqueued.year} {hour}:{enqueued:%M:%S} {half}",
        "SystemProperties": {"x-opt-offset": str(sequence * 120), "x-opt-sequence-number": sequence},
        "Properties": {"source": "plant", "level": 1.5, "raw": b"\x00"},
        "Body": body if body is None or isinstance(body, bytes) else json.dumps(body).encode(),
    }


def content(messages: Sequence[dict[str, Any]], block_bytes: int = 16_000) -> bytes:
    """The bytes of a file, with a block of about every `block_bytes` bytes."""
    buffer = io.BytesIO()
    writer(buffer, SCHEMA, messages, sync_interval=block_bytes, sync_marker=b"0123456789abcdef")
    return buffer.getvalue()


def name(minute: int = 0, partition: int = 0) -> str:
    """The path of a file below the root, by the start of its window."""
    return f"plant/readings/{partition}/{START + timedelta(minutes=minute):%Y/%m/%d/%H/%M/%S}.avro"


def put(root: Path, messages: Sequence[dict[str, Any]], minute: int = 0, partition: int = 0) -> Path:
    """Write a file to its place below `root`."""
    path = root / name(minute, partition)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content(messages))
    return path


def reading(device: str, tag: str, second: float, value: Any) -> dict[str, Any]:
    """A reading, `second` after `START`."""
    time = (START + timedelta(seconds=second)).isoformat().replace("+00:00", "Z")
    return {"device": device, "tag": tag, "time": time, "value": value}
