"""New series as the backtest imitates them: long ones of which only the last weeks before an origin are known.

Where nearly all series are long, no backtest shows how well a few weeks forecast. At each origin, a sample of the SKUs is
therefore cut in all stores, to a number of weeks that differs by SKU and origin, and forecast as if there were no others.
"""

from datetime import date, timedelta

import polars as pl

from models.sales import forecast_rows, statistical, views
from models.sales.demand import NEW_WEEKS
from models.sales.forecast_rows import ENOUGH_WEEKS
from models.sales.neighbours import first_week, flag_names, store_attributes, with_plan
from models.sales.options import Options
from models.sales.panel import KEY, Panel, known_covariates, panel_of, past_and_plan
from models.sales.preparation import as_part, chances, covered_origins, known_steps, unplanned
from models.sales.promotions import with_prices_of_others
from models.sales.seasons import YEAR
from models.scenario import Context, Frames

SKUS, KEYS = 100, 400
"""Approximate maximum number of SKUs that are cut at each origin, and of their keys that are forecast."""


def prepare(tables: Frames, context: Context, as_of: date, options: Options) -> dict[str, pl.DataFrame]:
    """The shard's parts `imitated` and `imitated_statistical`, like those of real series; see `preparation.prepare`.

    Keys with `NEW_WEEKS` weeks in the year before an origin are forecast, from at least `ENOUGH_WEEKS` and fewer than
    `NEW_WEEKS` weeks.
    """
    covariates, first = known_covariates(tables), first_week(context, as_of)
    rows = past_and_plan({"history": tables["history"]}, covariates, as_of, 0).filter(pl.col("week") >= first)
    every = rows.select("sku").unique().sort("sku").collect()
    skus = _sampled(every, SKUS / max(context["sku_weeks"]["sku"].n_unique(), 1), f"{options.seed}/cut")
    rows = rows.join(skus.lazy(), on="sku", how="semi")
    parts: dict[str, list[pl.DataFrame]] = {}
    for origin in sorted(covered_origins(first, as_of, options)) if skus.height else ():
        keys = _long_keys(rows, origin, context, options)
        if keys.is_empty():
            continue
        since = _cuts(skus, origin, options)
        left = _left(rows, since).collect()
        start = origin - timedelta(weeks=NEW_WEEKS - 1)
        panel = panel_of(left.lazy(), left.select(KEY).unique(), covariates, start, as_of, 0)
        cut = {**context, "sku_weeks": _left(context["sku_weeks"].lazy(), since).collect()}
        for name, part in _forecasts(panel, keys, origin, cut, store_attributes(tables), options).items():
            parts.setdefault(name, []).append(part)
    return {name: pl.concat(frames) for name, frames in parts.items()}


def _sampled(frame: pl.DataFrame, share: float, name: str) -> pl.DataFrame:
    """About the `share` of the rows of `frame`, the same ones whatever the others are."""
    names = ["/".join((name, *row)) for row in frame.iter_rows()]
    return frame.filter(pl.Series(chances(names), dtype=pl.Float64) < share)


def _long_keys(rows: pl.LazyFrame, origin: date, context: Context, options: Options) -> pl.DataFrame:
    """A sample of the keys of `rows` that are not new at the `origin`."""
    year = rows.filter(pl.col("week").is_between(origin - timedelta(weeks=YEAR - 1), origin))
    weeks = year.group_by(KEY).agg(weeks=pl.col("units").count())
    keys = weeks.filter(pl.col("weeks") >= NEW_WEEKS).select(KEY).sort(KEY).collect()
    skus = context["sku_weeks"]["sku"].n_unique()
    of_sampled = context["calendar"]["recent_rows"][0] / options.horizon * min(SKUS / max(skus, 1), 1.0)
    return _sampled(keys, KEYS / max(of_sampled, 1.0), f"{options.seed}/{origin}")


def _cuts(skus: pl.DataFrame, origin: date, options: Options) -> pl.DataFrame:
    """sku and `since`, the last week that is not left of it."""
    by_sku = chances([f"{options.seed}/{origin}/{sku}/weeks" for sku in skus["sku"]])
    weeks = ENOUGH_WEEKS + (by_sku * (NEW_WEEKS - ENOUGH_WEEKS)).astype(int)
    return skus.select(
        "sku", since=pl.Series([origin - timedelta(weeks=int(n)) for n in weeks], dtype=pl.Date)
    )


def _left(rows: pl.LazyFrame, since: pl.DataFrame) -> pl.LazyFrame:
    """The `rows` of each SKU after the week `since`; all of SKUs that are not cut."""
    table = rows.join(since.lazy(), on="sku", how="left", maintain_order="left")
    return table.filter((pl.col("week") > pl.col("since")).fill_null(value=True)).drop("since")


def _forecasts(
    panel: Panel,
    keys: pl.DataFrame,
    origin: date,
    context: Context,
    attributes: pl.DataFrame | None,
    options: Options,
) -> dict[str, pl.DataFrame]:
    """The parts of one origin: rows of the `keys` with features, and quantiles of their SKUs' own models."""
    has_plan = with_plan(context["covariates"])
    at = panel.index(origin)
    steps = known_steps(panel, at, options)
    is_chosen = pl.struct(KEY).is_in(keys.select(pl.struct(KEY).implode()).to_series())
    view = views.view_of(panel.of(is_chosen), context, flag_names(context["covariates"]), attributes)
    rows = as_part(forecast_rows.build(view, [at], {at: range(1, steps + 1)})).filter("enough")
    series = with_prices_of_others(panel, context["store_weeks"])
    params = statistical.fit(series, at, options.horizon, options.quantiles)
    visible = series if has_plan else series.without_plan(at)
    own = statistical.forecast(params, visible, at, steps, options.quantiles)
    own = own.filter(pl.col("units").is_not_null()).join(keys, on=KEY, how="semi")
    return {"imitated": rows if has_plan else unplanned(rows), "imitated_statistical": own}
