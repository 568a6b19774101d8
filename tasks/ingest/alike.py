"""Keys that look like known ones, such as `101` beside `00101`, `A 1` beside `a1` or `M7` beside `M07`, or like sums."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import polars as pl

from models.errors import ContractError
from models.scenario import Scenario, Table
from tasks.storage.staging import Staged

_RECENT = (timedelta(hours=1), timedelta(days=2))
"""How far before the rows of a stream others are read: more only if some keys of the rows are not among them."""
_ROUNDING = 1e-6
_SUM = (
    r"((grand|sub|overall)[ -]?)?(total|totaal|totale|sum|summe|suma|gesamt|gesamtsumme|ergebnis|gesamtergebnis|"
    r"zwischensumme|razem|celkem|toplam|итого)s?\s*:?\s*$"
)
SUM = rf"(?i)^\s*{_SUM}"
_SUM_OF = rf"(?i)\s+{_SUM}"
"""The end of the name of a sum of one key, such as `A1 Total`."""


def alike(
    scenario: Scenario,
    table: Table,
    rows: Staged,
    tables: Mapping[str, pl.LazyFrame],
    most: float,
) -> tuple[str, ...]:
    """Notes on keys that the scenario's first table has only in another spelling, or not at all: for a table with
    covariates, such as a plan, which may have new ones, if they are most.

    `tables` are the tables, including rows ingested before this one. Raises `ContractError` if such keys exceed the
    share `most` of a column's values. The first table is compared with itself and with the stored rows; if it is read in
    batches, only with those of the last days, and nothing is raised.
    """
    first = next(iter(scenario.tables))
    is_first = table.name == first
    if not rows.height or (first not in tables and not is_first):
        return ()
    is_stream = is_first and table.rows_at_a_time is not None
    references = [tables.get(first, rows.rows().clear())]
    if is_stream and first in tables:
        begin = rows.rows().select(pl.col("time").min()).collect().item()
        references = [tables[first].filter(pl.col("time") >= begin - past) for past in _RECENT]
    columns = {*table.unique} & {*scenario.key} & {*references[0].collect_schema().names()}
    notes = []
    for column in sorted(columns):
        values = _values(rows.rows(), column)
        for reference in references:
            others = _values(reference, column)
            strays = values.join(others, on=column, how="anti")
            if strays.is_empty():
                break
        others = pl.concat([others, strays]) if is_first else others
        unknown = strays.filter(pl.col(column) != "*").sort(column)
        if table.covariates:
            unknown = unknown.join(others, on="plain", how="anti")
        if 2 * len(unknown) > values.height * table.covariates and not is_first:
            notes.append(
                f"{table.name}: {len(unknown):,} of {values.height:,} values of '{column}' are not in {first}, for example "
                f"'{unknown[column][0]}'."
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
    """Notes on keys that are named like sums, or are the sum of all others: a line of totals at the end of a report, or a
    store such as "All stores", is read like any other row."""
    if not rows.height or table.rows_at_a_time:
        return ()
    frame = rows.rows()
    columns = sorted({*table.unique} & {*scenario.key})
    found = {}
    for column in columns:
        names = frame.select(pl.col(column).unique().sort()).collect().to_series()
        parts = names.str.replace(_SUM_OF, "")
        likely = names.filter(names.str.contains(SUM) | (parts != names) & parts.is_in(names.implode()))
        if len(likely):
            found[column] = likely[0], "looks like a sum"
    for amount in table.amounts:
        for column in columns:
            if (name := _sum_of_others(frame, column, table.unique, amount)) is not None:
                found[column] = name, "is the sum of all others"
    return tuple(
        f"{table.name}: {column} '{name}' {what}, but is read like any other. If it is one, remove its rows."
        for column, (name, what) in found.items()
    )


def _sum_of_others(frame: pl.LazyFrame, column: str, unique: Sequence[str], amount: str) -> str | None:
    """The value of a key column whose amounts are the sums of those of at least two others, wherever it occurs."""
    totals = frame.group_by(column).agg(pl.col(amount).sum()).collect(engine="streaming")
    half = float(totals[amount].sum()) / 2
    ones = totals.filter((pl.col(amount) - half).abs() <= _ROUNDING * half)[column]
    if totals.height <= 2 or len(ones) != 1:
        return None
    own = pl.col(amount).filter(pl.col(column) == ones[0]).sum()
    others = [c for c in unique if c != column]
    differs = (2 * own - pl.col(amount).sum()).abs() > _ROUNDING * pl.col(amount).sum().abs()
    parts = frame.group_by(others).agg(differs.alias("differs")).collect(engine="streaming")
    return None if parts["differs"].any() or half <= 0 else str(ones[0])


def _values(rows: pl.LazyFrame, column: str) -> pl.DataFrame:
    """The distinct values of a column, each with a plain spelling, without what people and programs add or remove."""
    plain = (
        pl.col(column)
        .str.to_lowercase()
        .str.replace_all(r"[\s_-]+|^'", "")
        .str.replace(r"^(\d+)\.0+$", "${1}")
        .str.replace(r"^0+(\w)", "${1}")
        .str.replace_all(r"([a-z])0+(\d)", "${1}${2}")
    )
    return rows.select(pl.col(column).unique()).with_columns(plain.alias("plain")).collect()
