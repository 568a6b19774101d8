"""What moves a forecast away from its key's level: season, price, promotion, other SKUs, trend and the rest.

The published median of a row is the key's level (see `demand.level_of`) plus the contribution of each group of
`GROUPS`, in units. The models work on a logarithm, where the contributions of features (pooled LightGBM) or regressors
(SKUs' own models) add up; those of a mean of models are the means of their contributions. In units, a group gets a
share of the difference between median and level in proportion to its logarithm, so that the sums are exact
(the logarithmic mean Divisia index: Ang 2005, Energy Policy 33). If groups work against each other, one may be
larger than the whole difference.

    season        week of the year, events, last year's weeks, also of similar SKUs
    price         the price relative to the usual one
    promotion     flags, now and before, and their earlier effects
    other_skus    prices and flags of the other SKUs in the store
    trend         recent sales relative to the level, and how far ahead the week is
    other_columns columns that are neither prices nor flags
    sku_and_store the model's expectation for such a key in an average week
    calibration   the rest: calibration, quantiles put in order, no values below zero

Forecasts of the ladder have no such contributions; `ABOUT` says what their rung does.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from models.sales import contest, forecast_rows, pooled, regression, scoring, statistical, successors, views
from models.sales.categories import column_of
from models.sales.contest import BLEND, NO_PLAN, POOLED, STATISTICAL
from models.sales.demand import to_log
from models.sales.model import Model, aligned, log_values
from models.sales.neighbours import PRICE, store_attributes
from models.sales.options import Options, middle_of, quantile_column
from models.sales.panel import KEY, OFFSET, Panel, known_covariates, mean
from models.sales.promotions import FLAGGED, PRICE_OTHERS, with_prices_of_others
from models.scenario import Context, Frames

GROUPS = (
    "season",
    "price",
    "promotion",
    "other_skus",
    "trend",
    "other_columns",
    "sku_and_store",
    "calibration",
)
KEYS_ON_PAGE = 40
MOST = 3
LEAST = 0.02
"""Groups that move the forecast by less than this, in logs, are not given as reasons."""
_USUAL = float(np.log(1 + OFFSET))
"""The level on the log scale."""
_MEMBERS = {POOLED: (POOLED,), BLEND: (POOLED, STATISTICAL), **contest.PLANNED, **contest.MEMBERS}
ABOUT = {
    POOLED: "pooled LightGBM model with the plan",
    BLEND: "mean of the pooled LightGBM model with the plan and the SKU's own model",
    NO_PLAN: "pooled LightGBM model without a plan",
    STATISTICAL: "the SKU's own model: local level, regression, trend and season",
    contest.LAST_WEEK: "the last week known",
    contest.LAST_YEAR: "the same week of last year",
    contest.SEASON: "last year's weeks of the key and its SKU, at this year's level",
    "ended": "zero, because it has ended according to the table of SKUs or stores",
    "stopped": "zero, because it has not been sold for a long time and is not in the plan",
    "own_history": "quantiles of the key's own weeks",
    "short_history": "the key's few weeks, mixed with sales of its SKU in other stores and of its store",
    "late_start": "the SKU's mean, scaled to this store and to the sales of pairs of SKU and store that began late",
    "sku_profile": "quantiles of the SKU in other stores, scaled to this store; if few, mixed with all SKUs of the store",
    "store_profile": "quantiles of all SKUs of the store",
    "everything": "quantiles of all sales",
}
_OF_NAME = {
    **dict.fromkeys(
        ("week_of_year", "event_effect", "year_ago", "season", "sku_year_ago", "sku_season", "last_year"),
        "season",
    ),
    **dict.fromkeys(("depth", "depth_before", "price_to_median", "price_to_lowest"), "price"),
    **dict.fromkeys(("sku_depth", "sku_price_spread", "elasticity", "effect_deep"), "price"),
    **dict.fromkeys(("since_promotion", "promoted_before", "promoted_share"), "promotion"),
    **dict.fromkeys(("price_to_others", "price_to_others_moved", PRICE_OTHERS), "other_skus"),
    **dict.fromkeys(("step", "base", regression.TREND), "trend"),
}
_OF_BEGIN = {
    "effect_": "promotion",
    "others_": "other_skus",
    "regular_": "trend",
    "all_": "trend",
    "group_season_": "season",
    regression.WAVE: "season",
}


def group_of(name: str, covariates: Sequence[str], flags: Sequence[str]) -> str:
    """The group of a feature of the pooled model, or of a regressor of the SKUs' own models.

    >>> [group_of(name, ["deal", "footfall"], ["deal"]) for name in ("sku_deal", "unusual_footfall", "sku_all_4")]
    ['promotion', 'other_columns', 'trend']
    """
    if name in _OF_NAME:
        return _OF_NAME[name]
    if name == PRICE:
        return "price"
    about = name
    for begin in ("before_", "unusual_", "sku_"):
        about = about.removeprefix(begin)
    if about in flags:
        return "promotion"
    if about in covariates:
        return "other_columns"
    return next((group for begin, group in _OF_BEGIN.items() if about.startswith(begin)), "sku_and_store")


def about(rung: str) -> str:
    """What a rung does, in words.

    >>> print(about("mean_with_naive"))
    mean of the pooled LightGBM model without a plan, the SKU's own model and the last week known
    """
    if rung in ABOUT:
        return ABOUT[rung]
    names = [
        "the " * (member == NO_PLAN) + ABOUT[member].partition(":")[0]
        for member in dict.fromkeys(_MEMBERS.get(rung, ()))
    ]
    return f"mean of {', '.join(names[:-1])} and {names[-1]}" if names else rung.replace("_", " ")


def explain(
    model: Model, tables: Frames, context: Context, rows: pl.DataFrame, as_of: date, options: Options
) -> pl.DataFrame:
    """One line per row of the published `rows`, sorted by key and week.

    Columns: sku, store, week, rung, `level`, the groups of `GROUPS` in units, `median` (their sum), `plan` (a struct
    of its covariates), and `reasons`: the `MOST` strongest groups in words, each with its factor.
    `level` and groups are null for rungs of the ladder; `reasons` then says what the rung does.
    """
    middle = middle_column(options)
    keys = rows.select(KEY).unique().sort(KEY)
    panel = scoring.panel_with_plan(model, tables, context, keys, as_of, options)
    own = scoring.own_rows(model, panel, keys, context, options)
    selection = panel.of(pl.struct(KEY).is_in(keys.select(pl.struct(KEY).implode()).to_series()))
    view = views.view_of(selection, context, model.flags, store_attributes(tables))
    inputs = forecast_rows.build(view, [selection.last], {selection.last: range(1, options.horizon + 1)})
    enough = inputs.frame["enough"].to_numpy()
    values = inputs.values[enough]
    forecasts = model.forecast(
        inputs.frame.filter(enough), values, inputs.names, own, options.scoring_threads
    )
    logs = _contributions(model, panel, own, context, forecasts, values, inputs.names, middle, options)
    contributions = _in_units(forecasts, logs, middle)
    columns = {name: values[:, at] for at, name in enumerate(inputs.names)}
    reasons = [_reasons(one, {n: v[i] for n, v in columns.items()}, model) for i, one in enumerate(logs)]
    contributions = contributions.with_columns(pl.Series("reasons", reasons, dtype=pl.String))
    medians = rows.select(*KEY, "week", "rung", median=middle)
    lines = medians.join(
        contributions.filter(pl.col("rung").is_in(list(_MEMBERS))).drop("rung", "median"),
        on=[*KEY, "week"],
        how="left",
    )
    nothing = pl.col("rung").replace_strict({rung: about(rung) for rung in lines["rung"].unique()})
    lines = lines.with_columns(pl.coalesce("reasons", nothing.cast(pl.String)).alias("reasons"))
    begins = pl.concat_str("reasons", "begins", separator="; ", ignore_nulls=True)
    lines = (
        lines.join(successors.beginnings(context), on=KEY, how="left")
        .with_columns(reasons=begins)
        .drop("begins")
    )
    return _with_plan(lines, tables).sort(*KEY, "week")


def largest(rows: pl.LazyFrame, options: Options) -> pl.LazyFrame:
    """The published rows of the `KEYS_ON_PAGE` keys with the largest forecasts."""
    middle = middle_column(options)
    size = rows.group_by(KEY).agg(pl.col(middle).sum().alias("size"))
    keys = size.sort("size", *KEY, descending=[True, False, False]).head(KEYS_ON_PAGE)
    return rows.join(keys.select(KEY), on=KEY, how="semi")


def middle_column(options: Options) -> str:
    """The quantile nearest to the median."""
    return quantile_column(options.quantiles[middle_of(options.quantiles)])


def _contributions(
    model: Model,
    panel: Panel,
    own: pl.DataFrame | None,
    context: Context,
    forecasts: pl.DataFrame,
    values: np.ndarray,
    names: Sequence[str],
    middle: str,
    options: Options,
) -> np.ndarray:
    """The contribution of each of `GROUPS` to each row of `forecasts` on the log scale, shape (rows, groups)."""
    level = forecasts["level"].to_numpy()
    rungs = forecasts["rung"].to_list()
    of = {
        POOLED: _of_pooled(model.with_plan, model, values, names, middle),
        NO_PLAN: _of_pooled(model.without_plan, model, values, names, middle),
        STATISTICAL: _of_own(model, panel, own, context, forecasts, middle, options),
        contest.LAST_WEEK: _of_one(to_log(forecasts["naive"].to_numpy(), level), "trend"),
        contest.LAST_YEAR: _of_one(to_log(forecasts["seasonal_naive"].to_numpy(), level), "season"),
        contest.SEASON: _of_one(to_log(forecasts["last_year"].to_numpy(), level), "season"),
    }
    trust = _trust(model, own, forecasts, values, names)
    total, count = np.zeros((forecasts.height, len(GROUPS))), np.zeros(forecasts.height)
    for member, parts in of.items():
        weight = np.array([_MEMBERS.get(rung or "", ()).count(member) for rung in rungs], dtype=float)
        weight = np.where(
            np.isfinite(parts).all(axis=1), weight * np.nan_to_num(trust.get(member, trust[BLEND])), 0.0
        )
        total += np.where(weight[:, None] > 0, parts, 0.0) * weight[:, None]
        count += weight
    logs = total / np.where(count > 0, count, 1.0)[:, None]
    whole = to_log(forecasts[middle].to_numpy(), level) - _USUAL
    logs[:, -1] = whole - logs[:, :-1].sum(axis=1)
    return logs


def _trust(
    model: Model, own: pl.DataFrame | None, forecasts: pl.DataFrame, values: np.ndarray, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """The weight that `contest.mean_of` gives each model in each row of `forecasts`; `BLEND`: that of naive forecasts.

    A naive forecast is as wide as the models of its row together, so that it has the mean of their weights.
    """
    on, nans = [*KEY, "week"], np.full((forecasts.height, len(model.columns)), np.nan)
    by_member = {POOLED: nans, NO_PLAN: nans, STATISTICAL: nans}
    if own is not None:
        rows = forecasts.join(
            own.select(*on, *model.columns), on=on, how="left", maintain_order="left", suffix="_own"
        )
        by_member[STATISTICAL] = to_log(
            rows.select(f"{name}_own" for name in model.columns).to_numpy(), rows["level"].to_numpy()[:, None]
        )
    for rung in (POOLED, NO_PLAN):
        if ensemble := model.of_rung(rung):
            by_member[rung] = log_values(ensemble, values, names, 1)
    trust = {member: contest.trust_in(each)[:, 0] for member, each in by_member.items()}
    with_plan = forecasts["planned"].to_numpy() & (model.with_plan is not None)
    ensembles = np.where(with_plan, trust[POOLED], trust[NO_PLAN])
    return trust | {BLEND: mean(np.array([ensembles, trust[STATISTICAL]]))}


def _of_pooled(
    ensemble: pooled.Pooled | None, model: Model, values: np.ndarray, names: Sequence[str], middle: str
) -> np.ndarray:
    """Contributions of the features, by group; NaN without an ensemble."""
    if ensemble is None or not len(values):
        return np.full((len(values), len(GROUPS)), np.nan)
    each = ensemble.contributions(aligned(ensemble, values, names), middle)
    by_group = np.zeros((len(values), len(GROUPS)))
    for at, name in enumerate(ensemble.features):
        by_group[:, GROUPS.index(group_of(name, model.covariates, model.flags))] += each[:, at]
    by_group[:, GROUPS.index("sku_and_store")] += each[:, -1] - _USUAL
    return by_group


def _of_own(
    model: Model,
    panel: Panel,
    own: pl.DataFrame | None,
    context: Context,
    forecasts: pl.DataFrame,
    middle: str,
    options: Options,
) -> np.ndarray:
    """Contributions of the regressors of SKUs' own models, by group; NaN if a key has no such forecast.

    These models work on the logarithm of units plus one; their contributions are stretched to the scale of the others.
    """
    nothing = np.full((forecasts.height, len(GROUPS)), np.nan)
    if own is None or not forecasts.height:
        return nothing
    with_prices = with_prices_of_others(panel, context["store_weeks"])
    parts = statistical.contributions(model.own_models, with_prices, with_prices.last, options.horizon)
    on = [*KEY, "week"]
    parts = forecasts.select(on).join(parts, on=on, how="left", maintain_order="left")
    median = forecasts.select(on).join(own.select(*on, middle), on=on, how="left", maintain_order="left")[
        middle
    ]
    level, units = forecasts["level"].to_numpy(), median.to_numpy().astype(float)
    by_group = np.zeros(nothing.shape)
    for name in parts.columns[len(on) :]:
        group = GROUPS.index(group_of(name, list(with_prices.covariates), model.flags))
        by_group[:, group] += parts[name].to_numpy().astype(float) - (
            np.log1p(level) if name == "base" else 0.0
        )
    here, there = np.log1p(units) - np.log1p(level), to_log(units, level) - _USUAL
    same = (1 + level) / ((1 + OFFSET) * level)
    stretch = np.divide(there, here, out=same, where=np.abs(here) > 1e-9)
    return by_group * stretch[:, None]


def _of_one(values: np.ndarray, group: str) -> np.ndarray:
    """All of `values` as the contribution of one group."""
    by_group = np.zeros((len(values), len(GROUPS)))
    by_group[:, GROUPS.index(group)] = values - _USUAL
    return by_group


def _in_units(forecasts: pl.DataFrame, logs: np.ndarray, middle: str) -> pl.DataFrame:
    """Key, week, rung, level, groups in units and median of each row."""
    level, median = forecasts["level"].to_numpy(), forecasts[middle].to_numpy()
    total = logs.sum(axis=1)
    same = (1 + OFFSET) * level
    unit = np.divide(median - level, total, out=same, where=np.abs(total) > 1e-9)
    columns = [pl.Series(group, logs[:, at] * unit, nan_to_null=True) for at, group in enumerate(GROUPS)]
    return forecasts.select(*KEY, "week", "rung", "level", *columns, pl.Series("median", median))


def _with_plan(lines: pl.DataFrame, tables: Frames) -> pl.DataFrame:
    """The lines with `plan`, a struct of the plan's covariates; null if the plan lacks the week."""
    on = [*KEY, "week"]
    names = list(dict.fromkeys(column_of(name) for name in known_covariates(tables)))
    if "plan" not in tables or not names:
        return lines.with_columns(pl.lit(None).alias("plan"))
    keys = lines.select(KEY).unique().lazy()
    plan = tables["plan"].select(*on, pl.struct(names).alias("plan")).join(keys, on=KEY, how="semi")
    return lines.join(plan.collect(), on=on, how="left").select(pl.exclude("reasons"), "reasons")


def _reasons(logs: np.ndarray, row: Mapping[str, Any], model: Model) -> str:
    """Up to `MOST` groups in words, strongest first, joined by semicolons, each with its factor."""
    strongest = sorted(range(len(GROUPS)), key=lambda at: (-abs(logs[at]), at))[:MOST]
    reasons = [
        f"{in_words(GROUPS[at], row, model.flags)} ({effect(float(logs[at]))})"
        for at in strongest
        if abs(logs[at]) >= LEAST
    ]
    return "; ".join(reasons)


def effect(total: float) -> str:
    """The effect of a contribution on the forecast, as a factor.

    >>> effect(0.35), effect(-0.105)
    ('x 1.42', 'x 0.90')
    """
    return f"x {np.exp(min(total, 50.0)):,.2f}"


def in_words(group: str, row: Mapping[str, Any], flags: Sequence[str]) -> str:
    """A group in words, from the features of one row.

    >>> in_words("price", {"price_to_median": -0.15}, []), in_words("promotion", {"deal": 1.0}, ["deal", "feat"])
    ('price 14% below its median of a year', 'promotion: deal')
    """
    if group == "price":
        return _compared("price", np.expm1(float(row.get("price_to_median", np.nan))), "its median of a year")
    if group == "promotion":
        on = [flag for flag in flags if float(row.get(flag, np.nan)) >= FLAGGED]
        return f"promotion: {', '.join(on)}" if on else "no promotion"
    if group == "other_skus":
        return _compared("prices of other SKUs", np.expm1(float(row.get("others_moved", np.nan))), "usual")
    if group == "trend":
        recent = np.exp(float(row.get("all_4", np.nan))) - OFFSET - 1
        return _compared("last 4 weeks", float(recent), "the level")
    if group == "season":
        return f"season, week {row['week_of_year']:.0f}"
    return group.replace("_", " ").replace("sku", "SKU")


def _compared(what: str, share: float, usual: str) -> str:
    if not np.isfinite(share):
        return what
    if abs(share) < 0.005:
        return f"{what} {'as' if usual == 'usual' else 'at'} {usual}"
    return f"{what} {abs(share):.0%} {'above' if share > 0 else 'below'} {usual}"
