"""Keys that are given only in the first row of their group, as in pivot tables and merged cells."""

from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from models.scenario import Table
from tasks.ingest.columns import renaming
from tasks.ingest.contents import LINES
from tasks.ingest.sources import Source


def with_group_keys(
    source: Source, table: Table, mapping: Mapping[str, str]
) -> tuple[Source, tuple[str, ...]]:
    """`source` with each key in all rows of its group, and a note for each column that was filled.

    A key column is filled from above if its first row has a value and more than a third of the rows have none. A row
    with a value in an earlier key column, such as `A1 Total`, begins a group of its own and is not filled.
    """
    renames = renaming(source.columns, mapping, table.required_columns, table.aliases)
    texts = [
        name
        for name in table.unique
        if name in table.required_columns and table.schema.columns()[name].dtype == pl.String
    ]
    names = {renames.get(name, name) for name in texts}
    keys = [name for name in source.columns if name in names]
    only_keys = replace(source, frame=source.frame.select(keys))
    if not _gaps(replace(only_keys, frame=only_keys.frame.head(LINES)).rows()):
        return source, ()
    rows = only_keys.rows()
    gaps = _gaps(rows)
    fills = [
        pl.when(inside).then(pl.col(key).forward_fill()).otherwise(key).alias(key)
        for key, (inside, _) in gaps.items()
    ]
    notes = [
        f"{table.name}: '{key}' is empty in {count:,} of {rows.height:,} rows and was filled from the rows above, "
        "as in a pivot table."
        for key, (_, count) in gaps.items()
    ]
    return replace(source, frame=source.frame.with_columns(fills)), tuple(notes)


def _gaps(rows: pl.DataFrame) -> dict[str, tuple[pl.Expr, int]]:
    """The columns of `rows` to fill, each with a condition for the rows to fill and their number."""
    gaps = {}
    for position, key in enumerate(rows.columns):
        inside = pl.all_horizontal(pl.col(rows.columns[: position + 1]).is_null())
        count = rows.select(inside.sum()).item()
        if count and rows[key][0] is not None and 3 * rows[key].null_count() > rows.height:
            gaps[key] = (inside, count)
    return gaps
