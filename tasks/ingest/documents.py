"""JSON in any arrangement and the line protocol of InfluxDB, as rows."""

import codecs
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import polars as pl

from tasks.ingest.contents import HEAD, DialectError, begins, encoding_of, unpacked
from tasks.ingest.text import refuse_twice

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)
_TABLES = rb'"(columns|Columns|metric|fields|schema)"\s*:|^\s*\{\s*"[^"]*"\s*:\s*\[\s*\{'
"""Marks of documents whose tables are not lists of objects."""


def rows_of_json(source: str | bytes, head: bytes) -> pl.LazyFrame:
    """The rows of JSON: an object per line, a list of objects or of lists of objects, or one document.

    Nested members are named `outer.inner`. The rows of a document are the objects of its only list of objects, at any
    depth, each with the document's other members.
    """
    encoding = encoding_of(head)
    if encoding != "utf-8" or head.startswith(codecs.BOM_UTF8):
        source = head = unpacked(source).decode(encoding).removeprefix("\ufeff").encode()
    _refuse_twice(head)
    is_whole = begins(head, r"\[") or _is_document(head)
    try:
        if is_whole:
            frame = _of_document(pl.read_json(_rows_of(unpacked(source)), infer_schema_length=None)).lazy()
        else:
            frame = pl.scan_ndjson(source, infer_schema_length=None)
            if len(_lists(frame.collect_schema())) == 1:
                frame = _of_document(frame.collect()).lazy()
        return flat(frame)
    except (pl.exceptions.ComputeError, ValueError):
        return flat(pl.LazyFrame(_loaded(unpacked(source)), infer_schema_length=None, strict=False))


def _refuse_twice(head: bytes) -> None:
    """Raise `DialectError` if the first object has a member twice, of which readers keep the first or the last."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        refuse_twice([name for name, _ in pairs])
        return dict(pairs)

    text = head.decode(errors="replace")
    with suppress(ValueError):
        json.JSONDecoder(object_pairs_hook=members).raw_decode(text, max(text.find("{"), 0))


def _loaded(content: bytes) -> list[dict[str, Any]]:
    """The objects of one document or several, also on one line.

    NaN and Infinity, which are not JSON but which Python writes, become null. Raises `DialectError` for damaged JSON and
    for values that are not objects.
    """
    decoder = json.JSONDecoder(parse_constant=lambda _: None)
    rows: list[Any] = []
    place = 0
    try:
        text = content.decode().strip()
        while place < len(text):
            value, place = decoder.raw_decode(text, place)
            rows += value if isinstance(value, list) else [value]
            while text[place : place + 1].isspace():
                place += 1
    except ValueError as error:
        raise DialectError(f"this JSON is damaged: {error}.") from None
    if not all(isinstance(row, dict) for row in rows):
        raise DialectError("this JSON has values that are not objects. Expected an object for each row.")
    return rows


def flat(frame: Frame) -> Frame:
    """`frame` with nested members as columns, named `outer.inner`."""
    while structs := [n for n, dtype in frame.collect_schema().items() if isinstance(dtype, pl.Struct)]:
        frame = frame.unnest(structs, separator=".")
    return frame


def _is_document(head: bytes) -> bool:
    """Whether JSON that begins with an object consists of that object alone, on one line or several."""
    lines = [line for line in head.splitlines() if line.strip()]
    if len(lines) == 1:
        return True
    try:
        json.loads(lines[0])
    except ValueError:
        return True
    return False


def _rows_of(content: bytes) -> io.BytesIO:
    """The rows of a JSON document that is a list of lists, has columns as pandas writes them, or has `_tables`; else
    unchanged."""
    if begins(content, r"\[\s*\["):
        content = json.dumps([row for rows in json.loads(content) for row in rows]).encode()
    elif begins(content, r'\{\s*"[^"]*"\s*:\s*\{\s*"0"\s*:'):
        columns = json.loads(content)
        rows = [{name: cells.get(n) for name, cells in columns.items()} for n in next(iter(columns.values()))]
        content = json.dumps(rows).encode()
    elif begins(content, r"\{") and re.search(_TABLES, content[:HEAD]):
        document = json.loads(content, parse_constant=lambda _: None)
        if rows := [*_tables(document)]:
            content = json.dumps(rows).encode()
        elif {"schema", "data"} <= {*document}:
            content = json.dumps(document["data"]).encode()
    return io.BytesIO(content)


def _tables(node: Any) -> Iterator[dict[str, Any]]:
    """Rows of all tables in a document.

    They are tables whose column names are stated separately, as pandas (`split`), InfluxDB, Log Analytics, Grafana and
    Prometheus do, and several lists of objects, each row with the name of its list as `member`.
    """
    if isinstance(node, list):
        for item in node:
            yield from _tables(item)
    if not isinstance(node, dict):
        return
    columns, fields = node.get("columns") or node.get("Columns"), (node.get("schema") or {}).get("fields")
    rows = next(
        (node[name] for name in ("data", "rows", "Rows", "values") if isinstance(node.get(name), list)), None
    )
    if columns and rows is not None and all(isinstance(row, list) for row in rows):
        yield from (_tags(node) | dict(zip(_names(columns), row, strict=False)) for row in rows)
    elif fields and isinstance(node.get("data"), dict):
        yield from (
            dict(zip(_names(fields), row, strict=False)) for row in zip(*node["data"]["values"], strict=False)
        )
    elif isinstance(node.get("metric"), dict):
        pairs = node.get("values") or [node["value"]]
        yield from (node["metric"] | {"time": time, "value": value} for time, value in pairs)
    elif len(node) > 1 and all(_are_objects(value) for value in node.values()):
        yield from ({"member": name} | row for name, rows in node.items() for row in rows)
    else:
        for value in node.values():
            yield from _tables(value)


def _tags(node: dict[str, Any]) -> dict[str, Any]:
    return node["tags"] if isinstance(node.get("tags"), dict) else {}


def _names(columns: list[Any]) -> list[str]:
    """Names of columns that are given as strings, or as objects with a name."""
    members = ("name", "ColumnName", "text")
    return [c if isinstance(c, str) else str(next(c[m] for m in members if m in c)) for c in columns]


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _lists(schema: Mapping[str, pl.DataType]) -> list[str]:
    """The names of lists of objects."""
    return [
        n for n, dtype in schema.items() if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct)
    ]


def _of_document(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of one document or several, such as the pages of an answer."""
    if rows.height != 1 and rows.width != 1 and len(_lists(rows.schema)) != 1:
        return rows
    rows = flat(rows)
    lists = _lists(rows.schema)
    if (
        not lists
        and all(isinstance(dtype, pl.List) for dtype in rows.dtypes)
        and len({len(cells) for cells in rows.row(0)}) == 1
    ):
        return rows.explode(rows.columns)
    if len(lists) != 1:
        return rows
    inner = rows.filter(pl.col(lists[0]).list.len().ne_missing(0)).explode(lists[0])
    names = {*inner[lists[0]].struct.fields}
    return inner.drop(names & {*rows.columns} - {lists[0]}).unnest(lists[0])


_NAME = r"(?:\\.|[^\s\\,=#\"])+"
LINE = rf'{_NAME}(?:,{_NAME}={_NAME})* {_NAME}=(?:"[^"]*"|[^\n"])+ -?\d{{10,19}}\s*?(?:\n|$)'
"""Matches the first line in line protocol."""
_SHORT_FLAGS = {"t": "true", "f": "false"}


def rows_of_lines(content: bytes) -> pl.LazyFrame:
    """Numbers and flags in InfluxDB's line protocol, with the columns of its annotated CSV."""
    rows = []
    for line in content.decode().splitlines():
        parts = re.fullmatch(r"((?:\\.|[^ \\])+) (.+?)(?: (-?\d+))?\s*", line)
        if parts is None or line.startswith("#"):
            continue
        measurement, *tags = (_unescaped(part) for part in re.split(r"(?<!\\),", parts[1]))
        keys = {"_measurement": measurement, "_time": parts[3], **dict(tag.split("=", 1) for tag in tags)}
        for name, value in re.findall(r'((?:\\.|[^=,\\])+)=("(?:\\.|[^"\\])*"|[^,]*),?', parts[2]):
            if not value.startswith('"'):
                plain = _SHORT_FLAGS.get(value.lower(), value.rstrip("iu"))
                rows.append(keys | {"_field": _unescaped(name), "_value": plain})
    return pl.LazyFrame(rows, infer_schema_length=None)


def _unescaped(text: str) -> str:
    return re.sub(r"\\([, =\\])", r"\1", text)
