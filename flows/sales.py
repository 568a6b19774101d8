"""Flows of the `sales` scenario: quantile forecasts of unit sales, per SKU and store, every week."""

from datetime import date
from typing import Annotated, Any

from pydantic import Field

from flows import backfilling, evaluating, explaining, tuning
from flows.cluster import task_runner
from flows.lifecycle import promotions
from flows.limits import INGESTING, SCORING, TRAINING, limited
from flows.listings import listings
from flows.modules import Direct
from flows.parameters import Bundle, Number, Shards, Share
from flows.reading import AS_THEY_ARE, Reading, ingests, reads
from flows.retraining import Budget, train_for
from flows.runs import ingest_sources, score, train_bundle
from flows.settings import open_store
from flows.whatif import compare_plans
from models.errors import ContractError
from models.sales import SALES
from models.sales.contracts import Returns
from models.sales.days import Weekday
from models.sales.layouts import DATED_BY_LAST_DAY
from tasks.registry import bundles
from tasks.storage.store import Store


@limited(INGESTING, name="sales-ingest")
@reads
def ingest(
    source: str,
    plan: str | None = None,
    stores: str | None = None,
    skus: str | None = None,
    covariates: str | None = None,
    events: str | None = None,
    column: list[str] | None = None,
    max_bad_share: Share = 0.05,
    shards: Shards = None,
    week_ending: bool = False,
    daily: Weekday | None = None,
    returns: Returns | None = None,
    store: str | None = None,
    reading: Reading = AS_THEY_ARE,
) -> dict[str, Any]:
    """Read sales, plan and stores into the store's tables.

    Reading the same file again changes nothing. Rows that break the contract go to quarantine.

    Args:
        source: Sales: sku, store, week, units, and covariates: numbers, such as price, or a few words, such as the kind
            of a promotion; in_stock (0 to 1) marks weeks that were sold out. CSV, Parquet, a folder or glob of either,
            or a Delta table; local, az:// or abfss://.
        plan: Marketing plan of the coming weeks: sku, store, week and the covariates.
        stores: Attributes of the stores: store, and any columns; text columns, such as a region, are for totals.
        skus: Attributes of the SKUs: sku, and any columns; SKUs with the same text, such as a product group, share
            their season; predecessor is the SKU whose history continues in this one, end the last day of sales.
        covariates: Covariates of all stores, or of single ones, such as the weather: week, any columns and, for single
            stores, store; include the coming weeks if they are known.
        events: Days that affect sales, such as a fair: name, date and, for events of one store, store; a row for each
            date, including those of the coming years.
        column: TABLE_COLUMN=SOURCE_COLUMN for a column of another name, such as week=date.
        max_bad_share: Share of bad rows (0 to 1) above which nothing is written.
        shards: Number of shards the keys are spread over; fixed by the first ingest (default 32).
        week_ending: Dates of sales and plan are the last days of their weeks; default: the first ones.
        daily: Rows are of days, or of single sales with --duplicates add, and are added up to weeks that start on this
            weekday; whole weeks only.
        returns: Treatment of rows with negative units: net subtracts them from the sales of the same week (with
            --duplicates add if returns have rows of their own), zero counts them as zero. Default: they are bad.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    more = {"stores": stores, "skus": skus, "covariates": covariates, "events": events}
    sources = {"history": source, "plan": plan, **more}
    options = _reading(reading, week_ending, daily) | {"returns": returns}
    return ingest_sources(SALES, open_store(store), sources, column or [], shards, max_bad_share, options)


@limited(TRAINING, name="sales-train", task_runner=task_runner())
def train(
    as_of: date | None = None,
    horizon: Annotated[int, Field(ge=1, le=104)] | None = None,
    quantiles: list[Annotated[float, Field(gt=0, lt=1)]] | None = None,
    holidays: list[str] | None = None,
    training_rows: Annotated[int, Field(ge=1_000)] = 300_000,
    reason: str | None = None,
    budget: Budget = 4,
    seed: int = 7,
    store: str | None = None,
) -> Any:
    """Backtest and train a bundle; it becomes champion if it is better than the champion.

    Args:
        as_of: Any day of the last week to learn from; default: the last complete week.
        horizon: Number of weeks to forecast; default: that of the champion, else 13.
        quantiles: Quantiles to forecast, between 0 and 1; default: those of the champion, else 0.05 0.25 0.5 0.75 0.95.
        holidays: Calendars of public holidays to use, such as DE, DE-BY or US; none for no calendar; default: those of
            the champion.
        training_rows: Approximate maximum number of rows to learn from; more keys and weeks are sampled down to it.
        reason: Reason for which an event requests this training, which then counts towards the budget.
        budget: Maximum number of trainings in 30 days that events may request; beyond it, the run ends as skipped.
        seed: Seed of everything random in training.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    data_store = open_store(store)
    options = _options(data_store, horizon, quantiles, holidays, seed) | {"training_rows": training_rows}
    return train_for(reason, budget, SALES, data_store, as_of, options)


tune = tuning.flow_of(SALES)


@limited(SCORING, name="sales-forecast", task_runner=task_runner())
def forecast(
    as_of: date | None = None,
    bundle: Bundle = None,
    totals: list[str] | None = None,
    total_weeks: list[Number] | None = None,
    dry_run: bool = False,
    store: str | None = None,
) -> dict[str, Any]:
    """Forecast every SKU and store and publish the forecasts, with quantiles of sums in sales/totals.

    To continue a stopped run, start it again with the same parameters.

    Args:
        as_of: Any day of the last week to use; default: the last complete week.
        bundle: Number of the bundle to forecast with; default: the champion.
        totals: Levels of totals: total, sku, store, an attribute of stores or SKUs, or several joined by `*`, such
            as `sku*region`; default: total store sku.
        total_weeks: Numbers of weeks, from the first one on, that get totals, such as a lead time, in addition to each
            week and the whole horizon.
        dry_run: Score and account for every key, and publish nothing.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    totals_options = {"totals": totals, "total_weeks": total_weeks}
    options = {name: value for name, value in totals_options.items() if value}
    return score(SALES, open_store(store), "forecast", as_of, bundle, options, dry_run=dry_run)


evaluate = evaluating.flow_of(SALES)


@limited(TRAINING, name="sales-run", task_runner=task_runner())
@ingests(ingest)
def run(_: dict[str, Any], holidays: list[str] | None = None, store: str | None = None) -> dict[str, Any]:
    """Ingest, train if there is no champion yet, and forecast.

    Args:
        holidays: Calendars of public holidays, such as DE, DE-BY or US, for the first training; see sales train.
        store: URI of the store; default: ALMANAC_STORE, or ./store.
    """
    data_store = open_store(store)
    notes = _first_training(data_store, holidays)
    summary = score(SALES, data_store, "forecast", None, None, {}, dry_run=False)
    return summary | {"notes": [*dict.fromkeys([*notes, *summary["notes"]])]}


def _first_training(store: Store, holidays: list[str] | None) -> list[str]:
    """Train if there is no champion yet; return its notes, or a note if `holidays` are not the champion's."""
    options = _options(store, holidays=holidays)
    if bundles.champion(store, SALES.name) is None:
        return list(train_bundle(SALES, store, None, options)["notes"])
    if options == _options(store):
        return []
    return ["The champion keeps its holidays. To use others, run sales train --holidays."]


def _reading(reading: Reading, week_ending: bool, daily: Weekday | None) -> dict[str, Any]:
    """The options of an ingest. Raises `ContractError` if dates cannot be last days: they are days, or the layout's are."""
    if week_ending and daily:
        raise ContractError(
            "--week-ending with --daily: dates are the last days of weeks or days. Expected one of the two."
        )
    if week_ending and reading.layout in DATED_BY_LAST_DAY:
        raise ContractError(
            f"--week-ending with --layout {reading.layout}: its dates already are the last days of weeks. "
            "Omit --week-ending."
        )
    return {**reading.options(), "week_ending": week_ending, "daily": daily}


def _options(
    store: Store,
    horizon: int | None = None,
    quantiles: list[float] | None = None,
    holidays: list[str] | None = None,
    seed: int = 7,
) -> dict[str, Any]:
    """The options to train with: a horizon, quantiles or holidays that are not given are those of the champion."""
    champion = bundles.champion(store, SALES.name)
    earlier = {} if champion is None else bundles.manifest(store, SALES.name, champion).get("options", {})
    defaults = {name: earlier[name] for name in ("horizon", "quantiles", "holidays") if name in earlier}
    overrides = {
        "horizon": horizon,
        "quantiles": sorted(set(quantiles)) if quantiles else None,
        "holidays": holidays and sorted({*holidays} - {"none"}),
    }
    return {"horizon": 13} | defaults | {k: v for k, v in overrides.items() if v is not None} | {"seed": seed}


def simulated(store: Store, seed: int) -> dict[str, Any]:
    """Parameters of `run` for a small simulated chain, whose files are written into the store."""
    from models.sales.simulation import simulate

    chain = simulate(skus=40, stores=6, weeks=120, seed=seed)
    frames = {"source": chain.history, "plan": chain.plan, "stores": chain.stores}
    return {
        name: store.write_source(f"{SALES.name}/simulated/{name}.parquet", f) for name, f in frames.items()
    }


whatif = compare_plans
promote, rollback = promotions(SALES)
backfill = backfilling.flow_of(SALES, "forecast")

SCENARIO = SALES
COMMANDS = (
    *(ingest, train, tune, forecast, whatif, evaluate, backfill, run, promote, rollback),
    Direct("sales-explain", explaining.explain),
    *listings(SALES),
)
