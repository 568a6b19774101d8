"""Layouts of a scenario, selected by `--layout`: they turn sources into the scenario's tables."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from models.date_order import DateOrder
from models.layouts import Layout, LayoutRequest
from models.scenario import Scenario, Table
from tasks.ingest.columns import renaming, spellings
from tasks.ingest.dialect import SUFFIXES
from tasks.ingest.sources import Source, SourceError


def layout_of(scenario: Scenario, name: str | None) -> Layout | None:
    """The layout with that name; None without a name. Raises `SourceError`, which lists all layouts, for an unknown
    name."""
    if name is None:
        return None
    if name not in scenario.layouts:
        available = "\n".join(f"  {one}: {layout.about}." for one, layout in scenario.layouts.items())
        raise SourceError(
            f"--layout {name}: {scenario.name} has no such layout. Expected one of:\n{available or '  none'}\n"
            "Without --layout, map columns with --column."
        )
    return scenario.layouts[name]


def laid_out(
    layout: Layout | None,
    table: Table,
    raw_sources: Sequence[Source],
    sources: Mapping[str, str],
    mapping: Mapping[str, str],
    dates: DateOrder | None,
) -> list[tuple[Source, Mapping[str, str]]]:
    """The files of a source as the layout arranges them, each with the mapping to the table's columns.

    `sources` are those of the ingest, by table. Without a layout, the files are unchanged.
    """
    if layout is None:
        return [(one, mapping) for one in raw_sources]
    raw_sources = [_spelled(layout, one, mapping) for one in raw_sources]
    if layout.arrange is None:
        return [_filled(layout, table, one, mapping) for one in raw_sources]
    request = LayoutRequest(table.name, {name: stem_of(uri) for name, uri in sources.items()}, mapping, dates)
    files = layout.arrange(raw_sources, request)
    return [_filled(layout, table, Source(file.name, file.frame), mapping) for file in files]


def of_messages(layout: Layout | None, source: str) -> dict[str, str]:
    """A layout's mapping for messages of a capture. Raises `SourceError` for a layout that rearranges files."""
    if layout is None:
        return {}
    if layout.arrange is not None:
        raise SourceError(
            f"{source} is a capture of messages. Expected files of another kind: {layout.about}."
        )
    return {column: names[0] for column, names in layout.columns.items()}


def _spelled(layout: Layout, source: Source, own: Mapping[str, str]) -> Source:
    """A source with the layout's names for columns that differ from them only in spelling."""
    names = dict.fromkeys([*(name for names in layout.columns.values() for name in names), *layout.names])
    gaps = [name for name in names if name not in source.columns]
    columns = spellings(source.columns, gaps, {*own.values(), *names})
    return replace(source, frame=source.frame.rename({old: new for new, old in reversed(columns.items())}))


def _filled(
    layout: Layout, table: Table, source: Source, own: Mapping[str, str]
) -> tuple[Source, Mapping[str, str]]:
    """A source with the layout's constants for columns that it lacks, and its mapping."""
    columns = source.columns
    mapping = layout.mapping(columns) | {new: old for new, old in own.items() if old in columns}
    there = {*columns, *renaming(columns, mapping, table.required_columns, table.aliases)}
    constants = {c: v for c, v in layout.constants.items() if c in table.required_columns and c not in there}
    if not constants:
        return source, mapping
    frame = source.frame.with_columns(pl.lit(value).alias(column) for column, value in constants.items())
    return replace(source, frame=frame), mapping


def stem_of(uri: str) -> str:
    """The name of a file, zip or folder without its suffix; for a glob, that of the folder in which it begins.

    >>> stem_of("az://raw/plant/pump 7.csv.gz"), stem_of("raw/pump7/*.csv"), stem_of("raw/v1.2/")
    ('pump 7', 'pump7', 'v1.2')
    """
    literal = re.split(r"[*?\[]", uri)[0]
    place = literal.rpartition("/")[0] if literal != uri else uri
    name = place.rstrip("/").rpartition("/")[2]
    suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]
