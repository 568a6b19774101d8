"""Source -> contract -> table. Bad rows go to the scenario's quarantine with the rule they broke."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from polars import selectors
from prefect import task

from models.contracts import QUARANTINE, ROW, RULE, last_of_each
from models.errors import ContractError
from models.scenario import Scenario, Table
from tasks.ingest import capture
from tasks.ingest.alike import alike
from tasks.ingest.fixed_options import settle, settled
from tasks.ingest.layouts import laid_out, layout_of, of_messages
from tasks.ingest.sources import SourceError, described, of_table, read, rename, renaming
from tasks.ingest.sql import is_sql, read_sql
from tasks.ingest.wide import as_long
from tasks.storage.staging import Staged
from tasks.storage.store import Store, concat_lazy, digest, with_shard
from tasks.storage.upsert import obsolete, upsert

_STAGED_IN_MEMORY = 1_000_000
_PREVIEWED = 5
_FEW_MESSAGES = 100
"""So many bad messages do not stop a capture, whatever share of it they are: a stream must go on."""


@dataclass(frozen=True)
class Ingested:
    """What became of one source: rows read = accepted + quarantined + superseded + merged.

    Rows are merged with others of the same file that have the same unique columns: they are the same in all
    columns, or it was said what becomes of them. `alike` tells of keys that look like others.

    A row is superseded where a later file of the same source has another one for the same unique
    columns. `changed` rows of the table are new or have other values than before; `repeated` of the
    accepted rows changed nothing, since the table had them. `removed` rows of the table were corrected under another
    time or key, or are not in a file that is all there is. `files` of a capture were new.
    """

    table: str
    source: str
    read: int
    accepted: int
    quarantined: int
    superseded: int
    changed: int
    repeated: int
    version: int | None
    rules: Mapping[str, int] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    files: int | None = None
    merged: int = 0
    alike: tuple[str, ...] = ()
    removed: int = 0
    preview: Mapping[str, Any] | None = None
    """Of a dry run: how the files are written, which of their columns is which, and rows as they would be stored."""


@dataclass
class Checked:
    """What was read of one source: `good` rows with their shard, `bad` ones in the shape of the quarantine.

    `read` counts also rows that a later file has superseded. `looked` are the files of a capture.
    """

    good: Staged
    bad: Staged
    read: int = 0
    ignored: set[str] = field(default_factory=set)
    columns: set[str] = field(default_factory=set)
    looked: list[capture.Looked] | None = None
    mapped: dict[str, str] = field(default_factory=dict)
    merged: int = 0
    alike: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Batch:
    """Rows of one file as they came, numbered by `ROW`, with the table's column names.

    `broken` are rows, in the shape of the quarantine, that could not even be read as such. `number` is
    the column with the row's number for people.
    """

    name: str
    raw: pl.DataFrame
    broken: pl.DataFrame | None = None
    number: str = ROW


@task(name="ingest")
def ingest(
    scenario: Scenario,
    store: Store,
    sources: Mapping[str, str],
    mapping: Mapping[str, str],
    shards: int | None,
    max_bad_share: float,
    options: Mapping[str, Any] | None = None,
) -> list[Ingested]:
    """Read sources into the tables that they are named after, in their order.

    Nothing is written with the option `dry_run`, when more than `max_bad_share` of the rows of any source
    break the contract, or when its rows are wrong as a whole. Rows that a table has already change nothing; what other
    rows do to those that are stored is the table's business, see `models.scenario.Table.fold`.
    """
    facts = settled(scenario, store, {**(options or {}), "shards": shards})
    chosen = {**(options or {}), **facts}
    layout_of(scenario, chosen.get("layout"))
    if chosen.get("query") and sum(is_sql(uri) and "#" not in uri for uri in sources.values()) != 1:
        raise SourceError(
            "--query is what to select from one SQL database. Expected one source such as postgresql://HOST/DATABASE "
            "without #TABLE; name a table in the others, or leave --query out."
        )
    whole = bool(chosen.get("replace"))
    stored = _stored(scenario, store)
    with tempfile.TemporaryDirectory(prefix="almanac-ingest-") as folder:
        checked = {}
        for name, source in sources.items():
            found = _accepted(
                scenario, store, name, sources, mapping, chosen, stored, Path(folder) / name, max_bad_share
            )
            if found.good.height:
                stored[name] = concat_lazy([*([stored[name]] if name in stored else []), found.good.rows()])
                if scenario.tables[name].rows_at_a_time is None:
                    _refuse_alike(source, stored[name].collect_schema().names())
            checked[name] = found
        _refuse_unused(mapping, checked)
        if chosen.get("dry_run"):
            return [
                _previewed(scenario, store, name, sources[name], found, chosen)
                for name, found in checked.items()
            ]
        store.check_writable()
        settle(scenario, store, facts)
        return [
            _write(scenario, store, name, sources[name], found, Path(folder) / name, whole=whole)
            for name, found in checked.items()
        ]


def read_checked(
    scenario: Scenario,
    store: Store,
    name: str,
    source: str,
    mapping: Mapping[str, str],
    max_bad_share: float,
    options: Mapping[str, Any],
) -> tuple[pl.DataFrame, list[str]]:
    """The good rows of a source for the table `name` with their shard, and notes; checked as `ingest` does it.

    Nothing is written. Rows that break the contract are left out and counted in a note, as far as `max_bad_share`
    allows any.
    """
    chosen = {**options, **settled(scenario, store, {**options, "shards": None})}
    with tempfile.TemporaryDirectory(prefix="almanac-read-") as folder:
        place = Path(folder) / name
        own = {name: source}
        checked = _accepted(
            scenario, store, name, own, mapping, chosen, _stored(scenario, store), place, max_bad_share
        )
        _refuse_unused(mapping, {name: checked})
        rules = _by_rule(checked.bad.rows().collect())
        rows = checked.good.rows().collect()
    left_out = [f"{source}: {count:,} rows are left out: {rule}." for rule, count in rules.items()]
    ignored = [
        f"{source}: column '{column}' is no number and is left out." for column in sorted(checked.ignored)
    ]
    return rows, [*left_out, *checked.alike, *ignored]


def _stored(scenario: Scenario, store: Store) -> dict[str, pl.LazyFrame]:
    """The input tables that there are already."""
    paths = {name: f"{scenario.name}/{name}" for name in scenario.tables}
    return {name: store.scan(path) for name, path in paths.items() if store.version(path) is not None}


def _accepted(
    scenario: Scenario,
    store: Store,
    name: str,
    sources: Mapping[str, str],
    mapping: Mapping[str, str],
    options: Mapping[str, Any],
    stored: Mapping[str, pl.LazyFrame],
    place: Path,
    max_bad_share: float,
) -> Checked:
    """What was read of the source of a table, or an error where too much of it, or all as a whole, is wrong."""
    table = scenario.tables[name]
    own = of_table(mapping, name, scenario.tables)
    found = _check(scenario, store, table, sources, own, options, place)
    _refuse(table, found, max_bad_share, known=name in stored)
    found.alike = alike(scenario, table, found.good, stored, max_bad_share)
    if table.rows_at_a_time is None and found.good.height:
        table.check(found.good.rows().drop("shard", strict=False).collect(), stored)
    return found


def _previewed(
    scenario: Scenario, store: Store, name: str, source: str, checked: Checked, options: Mapping[str, Any]
) -> Ingested:
    """What would become of a source, with some rows as they would be stored and some that would not."""
    table, path, removed = scenario.tables[name], f"{scenario.name}/{name}", 0
    layout, whole = options.get("layout"), bool(options.get("replace"))
    if checked.good.height and store.version(path) is not None:
        removed = obsolete(table, store.scan(path), checked.good.rows(), whole=whole).height
    bad = checked.bad.rows().collect()
    rows = checked.good.rows().head(_PREVIEWED * 100).collect() if checked.good.height else pl.DataFrame()
    stored = table.fold(None, rows).new.head(_PREVIEWED) if rows.height else rows
    preview = {
        "dialect": _dialect(source, checked),
        "layout": layout,
        "columns": checked.mapped,
        "rows": stored.drop("shard", strict=False).to_dicts(),
        "quarantine": bad.head(_PREVIEWED).to_dicts(),
    }
    return replace(
        _ingested(table.name, source, checked, bad, checked.good.height), removed=removed, preview=preview
    )


def _ingested(name: str, source: str, checked: Checked, bad: pl.DataFrame, accepted: int) -> Ingested:
    """What became of a source, as far as it follows from what was read; nothing changed."""
    return Ingested(
        table=name,
        source=source,
        read=checked.read,
        accepted=accepted,
        quarantined=bad.height,
        superseded=checked.read - accepted - bad.height - checked.merged,
        changed=0,
        repeated=0,
        version=None,
        rules=_by_rule(bad),
        ignored=tuple(sorted(checked.ignored)),
        files=None if checked.looked is None else len(checked.looked),
        merged=checked.merged,
        alike=checked.alike,
    )


def _dialect(source: str, checked: Checked) -> str:
    if is_sql(source):
        return "SQL"
    return "messages" if checked.looked is not None else described(source)


def _write(
    scenario: Scenario, store: Store, name: str, source: str, checked: Checked, folder: Path, *, whole: bool
) -> Ingested:
    table, path = scenario.tables[name], f"{scenario.name}/{name}"
    bad = checked.bad.rows().collect()
    quarantine(scenario, store, table, bad)
    changed = repeated = superseded = removed = 0
    if checked.good.height:
        brought = upsert(store, path, table, checked.good.rows(), folder, whole=whole)
        removed = brought.removed
        changed, repeated, superseded = brought.changed, brought.repeated, brought.superseded
        late = _as_bad(brought.refused, source, None)
        quarantine(scenario, store, table, late)
        bad = pl.concat([bad, late])
    accepted = checked.good.height - superseded - (bad.height - checked.bad.height)
    if checked.looked is not None:
        capture.record(store, scenario.name, checked.looked)
    found = _ingested(name, source, checked, bad, accepted)
    version = store.version(path)
    return replace(found, changed=changed, repeated=repeated, version=version, removed=removed)


def _check(
    scenario: Scenario,
    store: Store,
    table: Table,
    sources: Mapping[str, str],
    mapping: Mapping[str, str],
    options: Mapping[str, Any],
    folder: Path,
) -> Checked:
    """All rows at the table's source, split into good and bad.

    Rows of one file with the same unique columns are merged; where files are read whole, a row of a later
    file replaces that of an earlier one.
    """
    whole = table.rows_at_a_time is None
    spill = None if whole else _STAGED_IN_MEMORY
    checked = Checked(Staged(folder / "good", spill), Staged(folder / "bad"))
    checked.bad.add(pl.DataFrame(schema=QUARANTINE))
    names = set()
    for batch in _batches(scenario, store, table, sources, mapping, checked, options, folder / "sql"):
        try:
            accepted = table.accept(batch.raw, options)
        except ContractError as error:
            raise ContractError(f"{batch.name}: {error}") from None
        checked.merged += accepted.merged
        broken = batch.raw.join(accepted.bad, on=ROW, how="inner", maintain_order="left")
        checked.bad.add(_as_bad(broken, batch.name, batch.number))
        if batch.broken is None:
            checked.ignored |= set(accepted.ignored)
        else:
            checked.bad.add(batch.broken)
        good = accepted.good
        checked.good.add(with_shard(good, table.shard_by, options["shards"]) if table.shard_by else good)
        checked.read += batch.raw.height + (0 if batch.broken is None else batch.broken.height)
        names.add(batch.name)
    if checked.read == 0 and checked.looked is None:
        raise SourceError(f"{sources[table.name]}: there is a header but no rows. Expected at least one.")
    if whole and len(names) > 1:
        latest = last_of_each(checked.good.rows().collect(), table.unique)
        checked.good = Staged(folder / "good")
        checked.good.add(latest)
    if checked.good.height:
        checked.ignored -= {*checked.good.rows().collect_schema()} - {"shard"}
    return checked


def _batches(
    scenario: Scenario,
    store: Store,
    table: Table,
    sources: Mapping[str, str],
    mapping: Mapping[str, str],
    checked: Checked,
    options: Mapping[str, Any],
    folder: Path,
) -> Iterator[_Batch]:
    """The rows at the table's source; of a capture, those of files that were not read before."""
    source, layout = sources[table.name], layout_of(scenario, options.get("layout"))
    if not is_sql(source) and not table.covariates and capture.is_capture(source):
        if options.get("replace"):
            raise SourceError(
                f"{source} is a capture, of which only new files are read. Expected with --replace files that hold "
                "all rows of their time. Leave --replace out, or export the readings to a file."
            )
        checked.looked = []
        files = capture.pending(store, scenario.name, source)
        yield from _captured(
            files, table, {**of_messages(layout, source), **mapping}, checked, checked.looked
        )
        return
    found = []
    opened = [read_sql(source, options.get("query"), folder)] if is_sql(source) else list(read(source))
    checked.columns |= {column for file in opened for column in file.columns}
    for one, named in laid_out(layout, table, opened, sources, mapping, options.get("dates")):
        long = as_long(one, table, named, options.get("dates"), wide=bool(options.get("wide")))
        found.append(rename(long, named, table.needed, table.aliases))
        checked.columns |= {*one.columns}
        checked.mapped |= renaming(long.columns, named, table.needed, table.aliases)
    for one in found:
        for rows in one.batches(table.rows_at_a_time):
            yield _Batch(one.name, rows)


def _captured(
    files: Sequence[capture.CaptureFile],
    table: Table,
    mapping: Mapping[str, str],
    checked: Checked,
    done: list[capture.Looked],
) -> Iterator[_Batch]:
    columns = {column: mapping.get(column, column) for column in table.needed}
    checked.mapped |= columns
    checked.columns |= set(columns.values())
    for file in files:
        looked = capture.Looked(file)
        for messages in capture.read(looked, columns):
            rows = messages.rows.with_row_index(ROW)
            yield _Batch(file.uri, rows, messages.broken, number=capture.SEQUENCE)
        checked.bad.add(looked.quarantined())
        checked.read += looked.quarantined().height
        done.append(looked)


def quarantine(scenario: Scenario, store: Store, table: Table, bad: pl.DataFrame) -> None:
    """Append bad rows to the scenario's quarantine; rows that are there already are not repeated."""
    if bad.is_empty():
        return
    path = f"{scenario.name}/quarantine"
    rows = bad.with_columns(pl.lit(table.name).alias("table"))
    if store.version(path) is not None:
        sources = bad["source"].unique().implode()
        known = store.scan(path).filter(pl.col("source").is_in(sources)).select(rows.columns).collect()
        rows = rows.join(known, on=rows.columns, how="anti", nulls_equal=True)
    if rows.is_empty():
        return
    rows = rows.with_columns(pl.lit(datetime.now(UTC)).alias("ingested_at"))
    rows = rows.select("table", "source", "row_number", "row", "rule", "ingested_at")
    fingerprint = digest(rows.drop("ingested_at").hash_rows(seed=1).to_list())
    store.append(path, rows, once=f"quarantine-{fingerprint}")


def _refuse(table: Table, checked: Checked, max_bad_share: float, *, known: bool) -> None:
    """Raise `ContractError` where more of the rows are bad than is allowed, or none is good.

    Once there is a table, a few bad messages of a capture are always allowed, unless each lacks a member
    that a column is mapped from: then it is the mapping that is wrong.
    """
    stream = checked.looked is not None and known
    if checked.read == 0 or not checked.bad.height:
        return
    bad = checked.bad.rows().collect()
    if checked.good.height:
        bad = bad.filter(~pl.col("rule").is_in(table.harmless))
    else:
        stream = stream and not bad["rule"].str.starts_with("body|lacks").all()
    allowed = max(max_bad_share * checked.read, _FEW_MESSAGES if stream else 0)
    if bad.height <= allowed and (stream or checked.good.height):
        return
    rules = "\n".join(f"  {rule}: {count:,}" for rule, count in _by_rule(bad).items())
    examples = "\n".join(
        f"  {row['source']}, row {'-' if row['row_number'] is None else row['row_number']}: {row['rule']}: {row['row']}"
        for row in bad.sort("rule", "source", "row_number")
        .group_by("rule", maintain_order=True)
        .first()
        .iter_rows(named=True)
    )
    raise ContractError(
        f"{table.name}: {bad.height:,} of {checked.read:,} rows ({bad.height / checked.read:.1%}) break the contract, "
        f"{max_bad_share:.1%} are allowed. Nothing was written.\nRules broken:\n{rules}\nThe first of each:\n{examples}\n"
        "Correct the source, map columns with --column, or allow more with --max-bad-share."
    )


def _refuse_unused(mapping: Mapping[str, str], checked: Mapping[str, Checked]) -> None:
    """Raise `SourceError` where a column is mapped from one that no source has."""
    for column, source in mapping.items():
        table, dot, _ = column.partition(".")
        of = [checked[table]] if dot and table in checked else checked.values()
        found = sorted({name for c in of for name in c.columns})
        if source not in found:
            raise SourceError(
                f"--column {column}={source}: no source has a column '{source}'. Found: {', '.join(found)}."
            )


def _refuse_alike(source: str, columns: Sequence[str]) -> None:
    """Raise `SourceError` where names differ only in upper and lower case: a table cannot hold both."""
    first: dict[str, str] = {}
    for column in columns:
        known = first.setdefault(column.lower(), column)
        if known != column:
            raise SourceError(
                f"{source}: columns '{known}' and '{column}' differ only in upper and lower case. "
                f"Map one to the other with --column {known}={column}."
            )


def _as_bad(rows: pl.DataFrame, source: str, number: str | None) -> pl.DataFrame:
    """Rows in the shape of the quarantine: source, row number, the row as JSON, the rule."""
    rows = rows.with_columns(selectors.binary().bin.encode("base64"))
    apart = [c for c in (ROW, RULE, number) if c in rows.columns]
    return rows.select(
        pl.lit(source).alias("source"),
        (pl.col(number) if number else pl.lit(None)).cast(pl.Int64).alias("row_number"),
        pl.struct(pl.exclude(apart)).struct.json_encode().alias("row"),
        pl.col(RULE).alias("rule"),
    )


def _by_rule(bad: pl.DataFrame) -> dict[str, int]:
    counts = bad.group_by("rule").len("rows").sort(["rows", "rule"], descending=[True, False])
    return dict(counts.iter_rows())
