"""Keys that look like known ones: `101` beside `00101`, `1.0` beside `1`, `A 1` beside `a1`, `M7` beside `M07`."""

from collections.abc import Mapping

import polars as pl

from models.errors import ContractError
from models.scenario import Scenario, Table
from tasks.storage.staging import Staged

_SUM = r"(?i)^\s*((grand|sub|overall)[ -]?)?(total|sum|summe|gesamt|gesamtsumme|gesamtergebnis|zwischensumme)s?\s*:?\s*$"


def alike(
    scenario: Scenario,
    table: Table,
    rows: Staged,
    stored: Mapping[str, pl.LazyFrame],
    most: float,
) -> tuple[str, ...]:
    """What to say of keys of a table that the scenario's first table lacks, but has written otherwise.

    `stored` are the tables with what is ingested before this one. Raises `ContractError` where they
    are more than the share `most` of a column's values. The first table itself, where it is read whole, is compared with
    what is stored and with itself.
    """
    first = next(iter(scenario.tables))
    is_first = table.name == first
    if not rows.height or (table.rows_at_a_time if is_first else first not in stored):
        return ()
    known = stored.get(first, rows.rows().clear())
    shared = {*table.unique} & {*scenario.key} & {*known.collect_schema().names()}
    told = []
    for column in sorted(shared):
        values, others = (_values(frame, column) for frame in (rows.rows(), known))
        lacking = values.join(others, on=column, how="anti")
        others = pl.concat([others, lacking]) if is_first else others
        found = lacking.join(others.rename({column: "known"}), on="plain").filter(
            pl.col(column) != pl.col("known")
        )
        if found.is_empty():
            continue
        found, count = found.sort(column, "known"), found[column].n_unique()
        beside = "look like others" if is_first else f"are not in {first}, but look like values there"
        text = (
            f"{table.name}: {count:,} of {values.height:,} values of '{column}' {beside}: "
            f"'{found[column][0]}' like '{found['known'][0]}'."
        )
        if count > most * values.height:
            raise ContractError(
                f"{text} Nothing was written. Write them alike in both (Excel takes leading zeros away), or "
                "allow more with --max-bad-share."
            )
        told.append(text)
    return tuple(told)


def sums(scenario: Scenario, table: Table, rows: Staged) -> tuple[str, ...]:
    """What to say of keys that are called as sums are: a line of totals at the end of a report is read as any other."""
    if not rows.height or table.rows_at_a_time:
        return ()
    found = {
        column: rows.rows().filter(pl.col(column).str.contains(_SUM)).select(column).first().collect()
        for column in sorted({*table.unique} & {*scenario.key})
    }
    return tuple(
        f"{table.name}: {column} '{one.item()}' looks like a sum of others, and is read as one more. If it is a sum, "
        "remove its rows."
        for column, one in found.items()
        if one.height
    )


def _values(rows: pl.LazyFrame, column: str) -> pl.DataFrame:
    """The distinct values of a column, and each without what people and programs add or take away."""
    plain = (
        pl.col(column)
        .str.to_lowercase()
        .str.replace_all(r"[\s_-]+", "")
        .str.replace(r"^(\d+)\.0+$", "${1}")
        .str.replace(r"^0+(\w)", "${1}")
        .str.replace_all(r"([a-z])0+(\d)", "${1}${2}")
    )
    return rows.select(pl.col(column).unique()).with_columns(plain.alias("plain")).collect()
