"""Keys that look like known ones: `101` beside `00101`, `1.0` beside `1`, `A 1` beside `a1`, `M7` beside `M07`."""

from collections.abc import Mapping
from datetime import timedelta

import polars as pl

from models.errors import ContractError
from models.scenario import Scenario, Table
from tasks.storage.staging import Staged

_RECENT = timedelta(days=2)
SUM = (
    r"(?i)^\s*((grand|sub|overall)[ -]?)?(total|totaal|totale|sum|summe|suma|gesamt|gesamtsumme|ergebnis|"
    r"gesamtergebnis|zwischensumme|razem|celkem|toplam|итого)s?\s*:?\s*$"
)


def alike(
    scenario: Scenario,
    table: Table,
    rows: Staged,
    tables: Mapping[str, pl.LazyFrame],
    most: float,
) -> tuple[str, ...]:
    """Notes on keys that the scenario's first table has only in another spelling or, without covariates, not at all.

    `tables` are the tables, including rows ingested before this one. Raises `ContractError` if such keys exceed the
    share `most` of a column's values. The first table is compared with itself and with the stored rows; if it is read in
    batches, only with those of the last days, and nothing is raised.
    """
    first = next(iter(scenario.tables))
    is_first = table.name == first
    if not rows.height or (first not in tables and not is_first):
        return ()
    is_stream = is_first and table.rows_at_a_time is not None
    reference = tables.get(first, rows.rows().clear())
    if is_stream and first in tables:
        begin = rows.rows().select(pl.col("time").min() - _RECENT).collect().item()
        reference = reference.filter(pl.col("time") >= begin)
    columns = {*table.unique} & {*scenario.key} & {*reference.collect_schema().names()}
    notes = []
    for column in sorted(columns):
        values, others = (_values(frame, column) for frame in (rows.rows(), reference))
        strays = values.join(others, on=column, how="anti")
        others = pl.concat([others, strays]) if is_first else others
        unknown = strays[column].filter(strays[column] != "*").sort()
        if len(unknown) and not (is_first or table.covariates):
            notes.append(
                f"{table.name}: {len(unknown):,} of {values.height:,} values of '{column}' are not in {first}, for example "
                f"'{unknown[0]}'."
            )
        pairs = strays.join(others.rename({column: "known"}), on="plain").filter(
            pl.col(column) != pl.col("known")
        )
        if pairs.is_empty():
            continue
        pairs, count = pairs.sort(column, "known"), pairs[column].n_unique()
        beside = "look like others" if is_first else f"are not in {first}, but look like values there"
        text = (
            f"{table.name}: {count:,} of {values.height:,} values of '{column}' {beside}: "
            f"'{pairs[column][0]}' like '{pairs['known'][0]}'."
        )
        if count > most * values.height and not is_stream:
            way = ", or allow more with --max-bad-share" if most else ""
            raise ContractError(
                f"{text} Nothing was written. Spell them the same in both (Excel removes leading zeros){way}."
            )
        notes.append(text)
    return tuple(notes)


def sums(scenario: Scenario, table: Table, rows: Staged) -> tuple[str, ...]:
    """Notes on keys that are named like sums, because a line of totals at the end of a report is read like any other
    row."""
    if not rows.height or table.rows_at_a_time:
        return ()
    first_of = {
        column: rows.rows().filter(pl.col(column).str.contains(SUM)).select(column).first().collect()
        for column in sorted({*table.unique} & {*scenario.key})
    }
    return tuple(
        f"{table.name}: {column} '{one.item()}' looks like a sum, but is read like any other. If it is one, "
        "remove its rows."
        for column, one in first_of.items()
        if one.height
    )


def _values(rows: pl.LazyFrame, column: str) -> pl.DataFrame:
    """The distinct values of a column, each with a plain spelling, without what people and programs add or remove."""
    plain = (
        pl.col(column)
        .str.to_lowercase()
        .str.replace_all(r"[\s_-]+", "")
        .str.replace(r"^(\d+)\.0+$", "${1}")
        .str.replace(r"^0+(\w)", "${1}")
        .str.replace_all(r"([a-z])0+(\d)", "${1}${2}")
    )
    return rows.select(pl.col(column).unique()).with_columns(plain.alias("plain")).collect()
