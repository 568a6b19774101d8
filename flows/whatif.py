"""A changed plan, scored and compared with the stored one without publishing."""

from collections.abc import Sequence
from datetime import date
from typing import Any

import polars as pl
from prefect.logging import get_run_logger

from flows.clock import Clock
from flows.cluster import task_runner
from flows.limits import BY_HAND, limited
from flows.parameters import Bundle, Share
from flows.progress import name_run
from flows.settings import open_store
from models.contracts import Decimals, Duplicates
from models.date_order import DateOrder
from models.moments import time_text
from models.sales import SALES, whatif, whatif_page
from models.sales.days import Weekday
from models.sales.explanations import middle_column
from models.sales.options import Options
from models.sales.panel import KEY
from tasks.ingest.columns import column_mapping
from tasks.ingest.pipeline import read_checked
from tasks.page.whatif_page import announce_whatif, write_lines, write_whatif_page
from tasks.registry import bundles
from tasks.scoring.runs import Run, resolve_scoring
from tasks.scoring.whatif import score_in_memory

_LINES = 20
"""The number of keys, and of rows, with the largest differences in a result."""


@limited(BY_HAND, name="sales-whatif", task_runner=task_runner())
def compare_plans(
    plan: str,
    page: str | None = None,
    to: str | None = None,
    as_of: date | None = None,
    bundle: Bundle = None,
    column: list[str] | None = None,
    max_bad_share: Share = 0.05,
    dates: DateOrder | None = None,
    decimals: Decimals | None = None,
    encoding: str | None = None,
    duplicates: Duplicates | None = None,
    week_ending: bool = False,
    daily: Weekday | None = None,
    store: str | None = None,
) -> dict[str, Any]:
    """Forecast with a changed plan and with the stored one, and show the differences. Nothing is published.

    The file is checked as in an ingest of the plan. Its rows replace the stored rows of the same SKU, store and week,
    column by column; rows and columns that it lacks keep their stored values.

    Args:
        plan: The changed plan: sku, store, week, and the covariates that differ. CSV, Parquet, a folder or glob of
            either, or a Delta table; local, az:// or abfss://.
        page: Address of an HTML file to write, local, az:// or abfss://, that shows both forecasts.
        to: Address of a file to write, .csv or .parquet, with all differences by SKU, store and week.
        as_of: Any day of the last week to use; default: the last complete week.
        bundle: Number of the bundle to forecast with; default: the champion.
        column: TABLE_COLUMN=SOURCE_COLUMN for a column of another name, such as week=date.
        max_bad_share: Share of bad rows (0 to 1) above which the plan is refused.
        dates: Order in dates such as 05/01/2024: day-first, month-first or year-first. Default: as the column shows.
        decimals: Decimal mark, for files in which 1.234 could mean 1234: comma or point. Default: as the file shows.
        encoding: Encoding of text files that are not in UTF-8 or UTF-16, such as cp1250. Default: cp1252.
        duplicates: What to do with differing rows of the same key and week: average, last or refuse (default).
        week_ending: Dates of the plan are the last days of their weeks; default: the first days.
        daily: Rows are of days, and are made rows of weeks that start on this weekday.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    clock = Clock()
    data_store = open_store(store)
    run = resolve_scoring(SALES, data_store, "forecast", as_of, bundle, {})
    name_run(f"sales-whatif {time_text(run.as_of)}")
    reading = {
        "dates": dates,
        "decimals": decimals,
        "encoding": encoding,
        "duplicates": duplicates,
        "week_ending": week_ending,
        "daily": daily,
    }
    rows, notes = read_checked(
        SALES, data_store, "plan", plan, column_mapping(column or []), max_bad_share, reading
    )
    return _comparison(run, rows, notes, plan, page, to, clock)


def _comparison(
    run: Run,
    rows: pl.DataFrame,
    notes: Sequence[str],
    plan: str,
    page: str | None,
    to: str | None,
    clock: Clock,
) -> dict[str, Any]:
    """The result of the comparison of the stored plan with `rows`, which were read from `plan`."""
    options = Options.of(run.options)
    rows, whatif_notes = whatif.usable(rows, run.tables(), run.as_of, options.horizon)
    stored_plan = run.tables()["plan"].collect() if "plan" in run.versions else None
    other = whatif.merged(stored_plan, rows)
    changes = whatif.changed(stored_plan, other)
    clock.mark("plan")
    lines, order_notes = whatif.in_order(_lines(run, other, changes), stored_plan, other)
    clock.mark("score")
    notes = [*run.notes, *notes, *whatif_notes, *_about_plan(stored_plan, changes), *order_notes]
    for note in notes:
        get_run_logger().info(note)
    bands = whatif.bands(lines, bundles.files(run.store, SALES.name, run.bundle or 0), run.as_of, options)
    weeks = whatif.summed(lines, ["week"]).to_dicts()
    address = None
    if page:
        beside = whatif.beside(stored_plan, changes)
        sections = whatif_page.sections(lines, bands, beside, run.tables(), run.as_of, notes)
        address = write_whatif_page(run, page, plan, sections)
    announce_whatif(run, weeks, address, plan)
    total = whatif.summed(lines, []).row(0, named=True)
    return {
        "as_of": run.as_of.isoformat(),
        "bundle": run.bundle,
        "published": False,
        "plan_rows": rows.height,
        "plan_rows_changed": changes.height,
        "pairs": lines.select(KEY).n_unique(),
        "total": {n: None if v is None else round(v, 5 if n == "share" else 1) for n, v in total.items()},
        "weeks": weeks,
        "bands": bands.to_dicts(),
        "largest": _largest(whatif.summed(lines, list(KEY)), KEY),
        "largest_weeks": _largest(lines.select(*whatif.ON, "stored", "changed", "difference"), whatif.ON),
        "page": address,
        "lines": write_lines(lines, to) if to else None,
        "notes": [*notes, whatif_page.about_sums(bands)],
        "stages": clock.stages,
        "seconds": clock.seconds,
    }


def _lines(run: Run, other: pl.DataFrame, changes: pl.DataFrame) -> pl.DataFrame:
    """The forecasts of all keys that may differ, with the stored plan and with the other."""
    options = Options.of(run.options)
    before = SALES.requested_keys(run.tables(), run.as_of, run.options).collect()
    after = SALES.requested_keys({**run.tables(), "plan": other.lazy()}, run.as_of, run.options).collect()
    keys = whatif.affected(after, changes)
    rows = score_in_memory(run, keys.join(before, on=KEY, how="semi"))
    others = score_in_memory(run, keys, {"plan": other.lazy()})
    return whatif.differences(rows, others, options.columns, middle_column(options))


def _about_plan(stored_plan: pl.DataFrame | None, changes: pl.DataFrame) -> list[str]:
    if stored_plan is None:
        return ["The store has no plan: the comparison is with the forecast without one."]
    return [] if changes.height else ["The plan is the same as the stored one: nothing differs."]


def _largest(lines: pl.DataFrame, by: Sequence[str]) -> list[dict[str, Any]]:
    """The lines with the largest differences in either direction; equal lines are left out."""
    differences = lines.filter(pl.col("difference").abs() > 0)
    order = [True, *[False] * len(by)]
    return differences.sort(pl.col("difference").abs(), *by, descending=order).head(_LINES).to_dicts()
