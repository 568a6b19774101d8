"""JSON in any arrangement and the line protocol of InfluxDB, as rows."""

import codecs
import io
import json
import re
from typing import TypeVar

import polars as pl

from tasks.ingest.contents import begins, encoding_of, unpacked

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


def rows_of_json(source: str | bytes, head: bytes) -> pl.LazyFrame:
    """JSON, one object a line, a list of them or of lists of them, or one document.

    Members of members are named `outer.inner`. The rows of a document are the objects of its one list of objects, at
    any depth, each beside the document's other members.
    """
    encoding = encoding_of(head)
    if encoding != "utf-8" or head.startswith(codecs.BOM_UTF8):
        source = head = unpacked(source).decode(encoding).removeprefix("\ufeff").encode()
    if begins(head, r"\[") or _is_document(head):
        frame = _of_document(pl.read_json(_rows_of(unpacked(source)), infer_schema_length=None)).lazy()
    else:
        frame = pl.scan_ndjson(source, infer_schema_length=None)
    return flat(frame)


def flat(frame: Frame) -> Frame:
    """`frame` with members of members as columns of their own, named `outer.inner`."""
    while nested := [n for n, dtype in frame.collect_schema().items() if isinstance(dtype, pl.Struct)]:
        frame = frame.unnest(nested, separator=".")
    return frame


def _is_document(head: bytes) -> bool:
    """Whether JSON that begins with an object is that object alone, written over several lines or on one."""
    lines = [line for line in head.splitlines() if line.strip()]
    if len(lines) == 1:
        return True
    try:
        json.loads(lines[0])
    except ValueError:
        return True
    return False


def _rows_of(content: bytes) -> io.BytesIO:
    """A document of JSON, of lists in a list their objects, of what pandas writes by column, `split` or as `table`, rows."""
    if begins(content, r"\[\s*\["):
        content = json.dumps([row for rows in json.loads(content) for row in rows]).encode()
    elif begins(content, r'\{\s*"[^"]*"\s*:\s*\{\s*"0"\s*:'):
        columns = json.loads(content)
        rows = [{name: cells.get(n) for name, cells in columns.items()} for n in next(iter(columns.values()))]
        content = json.dumps(rows).encode()
    elif begins(content, r'\{\s*"(columns|index|data|schema)"\s*:'):
        table = json.loads(content)
        if {"columns", "data"} <= {*table}:
            rows = [dict(zip(table["columns"], row, strict=False)) for row in table["data"]]
            content = json.dumps(rows).encode()
        elif {"schema", "data"} <= {*table}:
            content = json.dumps(table["data"]).encode()
    return io.BytesIO(content)


def _of_document(rows: pl.DataFrame) -> pl.DataFrame:
    if rows.height != 1:
        return rows
    rows = flat(rows)
    lists = [n for n, d in rows.schema.items() if isinstance(d, pl.List) and isinstance(d.inner, pl.Struct)]
    if len(lists) != 1:
        return rows
    inner = rows.explode(lists[0])
    names = {*inner[lists[0]].struct.fields}
    return inner.drop(names & {*rows.columns} - {lists[0]}).unnest(lists[0])


_NAME = r"(?:\\.|[^\s\\,=#\"])+"
LINE = rf'{_NAME}(?:,{_NAME}={_NAME})* {_NAME}=(?:"[^"]*"|[^\n"])+ -?\d{{10,19}}\s*?(?:\n|$)'
"""How the line protocol begins."""


def rows_of_lines(content: bytes) -> pl.LazyFrame:
    """Numbers and flags in InfluxDB's line protocol, with the columns that its annotated CSV has."""
    rows = []
    for line in content.decode().splitlines():
        parts = re.fullmatch(r"((?:\\.|[^ \\])+) (.+?)(?: (-?\d+))?\s*", line)
        if parts is None or line.startswith("#"):
            continue
        measurement, *tags = (_unescaped(part) for part in re.split(r"(?<!\\),", parts[1]))
        keys = {"_measurement": measurement, "_time": parts[3], **dict(tag.split("=", 1) for tag in tags)}
        for name, value in re.findall(r'((?:\\.|[^=,\\])+)=("(?:\\.|[^"\\])*"|[^,]*),?', parts[2]):
            if not value.startswith('"'):
                rows.append(keys | {"_field": _unescaped(name), "_value": value.rstrip("iu")})
    return pl.LazyFrame(rows, infer_schema_length=None)


def _unescaped(text: str) -> str:
    return re.sub(r"\\([, =\\])", r"\1", text)
