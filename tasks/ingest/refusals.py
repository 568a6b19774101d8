"""Sources that are refused as a whole, each with what was given, what was expected and what to do."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from models.contracts import MARK, ROW, AcceptResult, is_row_number
from models.date_order import DateOrder, shown_order
from models.errors import ContractError
from models.scenario import Table
from tasks.ingest.batches import Batch
from tasks.ingest.intake import Intake
from tasks.ingest.quarantine import FOOTER, SUBTOTAL, by_rule
from tasks.ingest.sources import SourceError
from tasks.ingest.wide import EACH

_FEW_MESSAGES = 100
"""Up to this many bad messages never stop a capture, whatever their share: a stream must go on."""
_TIMES = (
    "Write dates and times like 2024-01-29, 29.1.2024 14:30 or 2024-W05. If several columns make up one, join them, "
    "for example --column week=Year+Week or --column time=Date+Time."
)
_SHORTENED = (
    "A spreadsheet shortens long numbers: 4.01E+12 has lost its last digits. Save the file again with all digits, as text "
    "or in the number format 0."
)
_NAMELESS = "Words such as NULL, nan and none are not names. Remove these rows, or give them names."
_ADVICE = {
    "date": _TIMES,
    "datetime": _TIMES,
    "time_unparsable": _TIMES,
    "digits_lost": _SHORTENED,
    "no_name": _NAMELESS,
}
"""What to do about rows of any table that break a rule, by the rule without its column."""


def refuse_bad_rows(table: Table, intake: Intake, max_bad_share: float, *, exists: bool, whole: bool) -> None:
    """Raise `ContractError` if more rows are bad than allowed, or none is good.

    A file that replaces the `whole` table may have no bad rows, because the rows stored in their place would be
    removed. Once the table exists, a few bad messages of a capture are always allowed, unless all messages lack a
    member that a column is mapped from: then the mapping is wrong.
    """
    stream = intake.source.files is not None and exists
    if intake.read == 0 or not intake.bad.height:
        return
    bad = intake.bad.rows().collect()
    if intake.good.height:
        bad = bad.filter(~pl.col("rule").is_in([*table.harmless, FOOTER, SUBTOTAL]))
    else:
        stream = stream and not bad["rule"].str.starts_with("body|lacks").all()
    limit = max(max_bad_share * intake.read, _FEW_MESSAGES if stream else 0)
    if bad.height <= limit and (stream or intake.good.height):
        return
    rules = "\n".join(f"  {rule}: {count:,}" for rule, count in by_rule(bad).items())
    examples = "\n".join(
        f"  {row['source']}, row {'-' if row['row_number'] is None else row['row_number']}: {row['rule']}: {row['row']}"
        for row in bad.sort("rule", "source", "row_number")
        .group_by("rule", maintain_order=True)
        .first()
        .iter_rows(named=True)
    )
    names = {name for rule in by_rule(bad) for name in (rule, rule.rpartition("|")[2])}
    texts = dict.fromkeys(text for name, text in {**_ADVICE, **table.advice}.items() if name in names)
    advice = "".join(f"\n{text}" for text in texts)
    way = "leave --replace out, which removes stored rows" if whole else "allow more with --max-bad-share"
    raise ContractError(
        f"{table.name}: {bad.height:,} of {intake.read:,} rows ({bad.height / intake.read:.1%}) break the contract; "
        f"{max_bad_share:.1%} are allowed. Nothing was written.\nRules broken:\n{rules}\n"
        f"The first of each:\n{examples}{advice}\n"
        f"Correct the source, map columns with --column, or {way}."
    )


def refuse_other_order(
    orders: dict[DateOrder, str], batch: Batch, table: Table, options: Mapping[str, Any]
) -> None:
    """Raise `SourceError` if dates show another order of day and month than another file; `orders` has those files."""
    types = table.schema.columns()
    for column in batch.raw.columns if options.get("dates") is None else ():
        if column not in types or not types[column].dtype.is_temporal():
            continue
        order = shown_order(batch.raw[column])
        others = [name for one, name in orders.items() if order not in (None, one)]
        if others:
            raise SourceError(
                f"{batch.name}: {column} is {order}, but not in {others[0]}. Expected one order in all files of an ingest. "
                "Read these files one by one, or choose --dates day-first or --dates month-first."
            )
        if order:
            orders.setdefault(order, batch.name)


def refuse_transactions(batch: Batch, result: AcceptResult, table: Table) -> None:
    """Raise `ContractError` if rows that are the same in the table differ in the file, in a column that is left out or
    in the time of day: they are several sales, and not one that is repeated."""
    types = table.schema.columns()
    raw = batch.raw
    dates = [c for c in table.unique if types[c].dtype == pl.Date and raw[c].dtype == pl.String]
    times = [c for c in dates if raw[c].drop_nulls().head(1).str.contains(r"\d:\d\d").any()]
    others = [*times, *(c for c in result.ignored if not is_row_number(raw, c))]
    if not others:
        return
    raw = raw.join(result.bad, on=ROW, how="anti", maintain_order="left")
    own = result.good.columns
    rows = result.good.hstack(raw.select(pl.col(others).name.prefix(MARK)))
    several = rows.filter(pl.struct(own).is_duplicated()).unique(maintain_order=True)
    several = several.filter(pl.struct(own).is_duplicated()).sort(own, maintain_order=True).head(2)
    if several.is_empty():
        return
    column = next((c for c in others if several[f"{MARK}{c}"].n_unique() > 1), others[0])
    key = ", ".join(f"{c} {several[c][0]}" for c in table.unique)
    one, other = several[f"{MARK}{column}"]
    raise ContractError(
        f"{batch.name}: rows with the same values, such as those of {key}, differ in '{column}': {one} and {other}. They "
        "are several sales, unless they are repeated. Choose: --duplicates add, or --duplicates last, which counts one."
    )


def refuse_unused(mapping: Mapping[str, str], intakes: Mapping[str, Intake]) -> None:
    """Raise `SourceError` if a column is mapped from a column that no source has."""
    for column, source in mapping.items():
        table, dot, _ = column.partition(".")
        of = [intakes[table]] if dot and table in intakes else intakes.values()
        available = sorted({name for c in of for name in c.source.columns})
        if source not in (*available, EACH):
            raise SourceError(
                f"--column {column}={source}: no source has a column '{source}'. Found: {', '.join(available)}."
            )


def refuse_alike(source: str, columns: Sequence[str]) -> None:
    """Raise `SourceError` if names differ only in upper and lower case, because a table cannot hold both."""
    first: dict[str, str] = {}
    for column in columns:
        other = first.setdefault(column.lower(), column)
        if other != column:
            raise SourceError(
                f"{source}: columns '{other}' and '{column}' differ only in upper and lower case. "
                f"Map one to the other with --column {other}={column}."
            )
