"""Source -> contract -> table. Bad rows go to the scenario's quarantine with the rule they broke."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
from prefect import task

from models.scenario import Scenario, Table
from tasks.ingest import capture
from tasks.ingest.batches import Request
from tasks.ingest.checking import check_table
from tasks.ingest.fixed_options import fix_options, fixed_options
from tasks.ingest.intake import Intake
from tasks.ingest.layouts import layout_of
from tasks.ingest.quarantine import as_bad, by_rule, quarantine, release
from tasks.ingest.refusals import refuse_alike, refuse_unused
from tasks.ingest.sources import SourceError, described
from tasks.ingest.sql import is_sql
from tasks.ingest.status import stored_tables
from tasks.storage.layout import Layout
from tasks.storage.scratch import scratch
from tasks.storage.store import Store
from tasks.storage.tables import concat_lazy
from tasks.storage.upsert import UpsertResult, obsolete, upsert

_PREVIEWED = 5


@dataclass(frozen=True)
class IngestResult:
    """The result of ingesting one source: rows read = accepted + quarantined + merged.

    `merged` rows have the same unique columns as another row of the source: they are equal in all columns, or an option
    says how to combine them. `alike` are notes, for example on keys that look like others.

    `changed` rows of the table are new or have new values; `repeated` of the accepted rows changed nothing, because the
    table had them. `removed` rows of the table were corrected under another time or key, or are missing from a file that
    holds everything. `files` is the number of files of a capture that were read. With the option `again`, these include
    files with messages in quarantine; `released` rows left it, because their messages are valid now.
    """

    table: str
    source: str
    read: int
    accepted: int
    quarantined: int
    changed: int
    repeated: int
    version: int | None
    rules: Mapping[str, int] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    files: int | None = None
    merged: int = 0
    alike: tuple[str, ...] = ()
    removed: int = 0
    released: int = 0
    preview: Mapping[str, Any] | None = None
    """For a dry run: how the files are written, the source column of each table column, and rows as they would be
    stored."""


@task(name="ingest")
def ingest(
    scenario: Scenario,
    store: Store,
    sources: Mapping[str, str],
    mapping: Mapping[str, str],
    shards: int | None,
    max_bad_share: float,
    options: Mapping[str, Any] | None = None,
) -> list[IngestResult]:
    """Read sources into the tables that they are named after, in their order.

    Nothing is written with the option `dry_run`, if more than `max_bad_share` of the rows of any source break the
    contract, or if its rows are wrong as a whole. Rows that a table already has change nothing;
    `models.scenario.Table.fold` defines how other rows change those that are stored.
    """
    facts = fixed_options(scenario, store, {**(options or {}), "shards": shards})
    settings = {**(options or {}), **facts}
    layout_of(scenario, settings.get("layout"))
    if settings.get("query") and sum(is_sql(uri) and "#" not in uri for uri in sources.values()) != 1:
        raise SourceError(
            "--query selects from one SQL database. Expected one source such as postgresql://HOST/DATABASE "
            "without #TABLE; name a table in the others, or leave --query out."
        )
    tables = stored_tables(scenario, store)
    units = _stored_units(scenario, store) if tables else {}
    request = Request(scenario, store, sources, mapping, settings, max_bad_share, units)
    with scratch("ingest") as folder:
        intakes = {}
        for name, source in sources.items():
            intake = check_table(request, name, tables, folder / name)
            if intake.good.height:
                intake.notes += _gaps(scenario.tables[name], intake, tables.get(name))
                tables[name] = concat_lazy([*([tables[name]] if name in tables else []), intake.good.rows()])
                refuse_alike(source, tables[name].collect_schema().names())
            intakes[name] = intake
        refuse_unused(mapping, intakes)
        if settings.get("dry_run"):
            return [_previewed(request, name, intake) for name, intake in intakes.items()]
        store.check_writable()
        fix_options(scenario, store, facts)
        return [_write(request, name, intake, folder / name) for name, intake in intakes.items()]


def read_checked(
    scenario: Scenario,
    store: Store,
    name: str,
    source: str,
    mapping: Mapping[str, str],
    max_bad_share: float,
    options: Mapping[str, Any],
) -> tuple[pl.DataFrame, list[str]]:
    """The good rows of a source for the table `name`, with their shard, and notes; checked as `ingest` checks them.

    Nothing is written. Rows that break the contract, at most `max_bad_share`, are left out and counted in a note.
    """
    settings = {**options, **fixed_options(scenario, store, {**options, "shards": None})}
    with scratch("read") as folder:
        units = _stored_units(scenario, store)
        request = Request(scenario, store, {name: source}, mapping, settings, max_bad_share, units)
        intake = check_table(request, name, stored_tables(scenario, store), folder / name)
        refuse_unused(mapping, {name: intake})
        rules = by_rule(intake.bad.rows().collect())
        rows = intake.good.rows().collect()
    row_notes = [f"{source}: {count:,} rows are left out: {rule}." for rule, count in rules.items()]
    column_notes = [
        f"{source}: column '{column}' is left out: it holds neither numbers nor a few different words."
        for column in sorted(intake.ignored)
    ]
    return rows, [*row_notes, *intake.notes, *column_notes]


def _gaps(table: Table, intake: Intake, stored_rows: pl.LazyFrame | None) -> tuple[str, ...]:
    """A note on further columns of the stored rows that the new ones lack."""
    if stored_rows is None or not table.covariates:
        return ()
    columns = {*intake.good.rows().collect_schema(), *intake.ignored}
    names = [f"'{name}'" for name in stored_rows.collect_schema() if name not in columns]
    text = f"{table.name}: earlier files had {', '.join(names)}, which {'is' if len(names) == 1 else 'are'} missing here"
    return (f"{text}: unknown in new rows, as before in stored ones.",) if names else ()


def _previewed(request: Request, name: str, intake: Intake) -> IngestResult:
    """The result that an ingest of a source would have, with some rows as they would be stored and some for quarantine."""
    store, options, source = request.store, request.options, request.sources[name]
    table, removals = request.scenario.tables[name], 0
    layout, whole = options.get("layout"), bool(options.get("replace"))
    stored_rows = store.find(Layout(request.scenario.name).table(name)) if intake.good.height else None
    if stored_rows is not None:
        removals = obsolete(table, stored_rows, intake.good.rows(), whole=whole).height
    bad = intake.bad.rows().collect()
    rows = intake.good.rows().head(_PREVIEWED * 100).collect() if intake.good.height else pl.DataFrame()
    sample = table.fold(None, rows).new.head(_PREVIEWED) if rows.height else rows
    preview = {
        "dialect": _dialect(source, intake, options.get("encoding")),
        "layout": layout,
        "columns": intake.source.mapping,
        "rows": sample.drop("shard", strict=False).to_dicts(),
        "quarantine": bad.head(_PREVIEWED).to_dicts(),
    }
    return replace(
        _ingested(table.name, source, intake, bad, intake.good.height), removed=removals, preview=preview
    )


def _ingested(name: str, source: str, intake: Intake, bad: pl.DataFrame, accepted: int) -> IngestResult:
    """The result of a source as far as reading determines it, with nothing changed yet."""
    return IngestResult(
        table=name,
        source=source,
        read=intake.read,
        accepted=accepted,
        quarantined=bad.height,
        changed=0,
        repeated=0,
        version=None,
        rules=by_rule(bad),
        ignored=tuple(sorted(intake.ignored)),
        files=None if intake.source.files is None else len(intake.source.files),
        merged=intake.merged,
        alike=tuple(intake.notes),
    )


def _dialect(source: str, intake: Intake, encoding: str | None) -> str:
    if is_sql(source):
        return "SQL"
    return "messages" if intake.source.files is not None else described(source, encoding)


def _write(request: Request, name: str, intake: Intake, folder: Path) -> IngestResult:
    scenario, store, options, source = request.scenario, request.store, request.options, request.sources[name]
    whole = bool(options.get("replace"))
    table, path = scenario.tables[name], Layout(scenario.name).table(name)
    bad = intake.bad.rows().collect()
    quarantine(scenario, store, table, bad)
    merge, releases = UpsertResult(0, 0, pl.DataFrame()), 0
    if intake.good.height or (intake.read == 0 and table.may_be_empty):
        merge = upsert(store, path, table, intake.good.rows(), folder, whole=whole)
        late = as_bad(merge.refused, source, None)
        quarantine(scenario, store, table, late)
        bad = pl.concat([bad, late])
        _keep_units(scenario, store, name, intake.source.units)
    accepted = intake.good.height - (bad.height - intake.bad.height)
    if intake.source.files is not None:
        capture.record(store, scenario.name, intake.source.files)
        if options.get("again"):
            releases = release(scenario, store, table, [one.file.uri for one in intake.source.files], bad)
    result = _ingested(name, source, intake, bad, accepted)
    version = store.version(path)
    return replace(
        result,
        changed=merge.changed,
        repeated=merge.repeated,
        version=version,
        removed=merge.removed,
        released=releases,
    )


def _keep_units(scenario: Scenario, store: Store, name: str, units: Mapping[str, str]) -> None:
    """Add the units of a table's columns to those in the store, so that the next ingest can compare its own."""
    stored_units = _stored_units(scenario, store)
    if units != stored_units.get(name, {}):
        store.put_json(Layout(scenario.name).units, {**stored_units, name: {**units}})


def _stored_units(scenario: Scenario, store: Store) -> dict[str, dict[str, str]]:
    """By table, the units of its columns that earlier ingests left out."""
    units: dict[str, dict[str, str]] = store.get_json(Layout(scenario.name).units) or {}
    return units
