"""Quantiles of sums of forecasts: over stores, SKUs and attributes of either, over single weeks and the first weeks.

Quantiles do not add up; expected values do. The expected value of a forecast is the mean over its quantiles, each
weighted by the probability that it represents, and the `expected` of a sum is exactly the sum of these values: those of
all stores add up to the total, those of all weeks to the quarter. The quantiles of a sum lie around it like those
of a log-normal distribution with that mean and a standard deviation S::

    S**2 = sum over components c of share[c] * sum over blocks b of c of (sum over forecasts in b of s)**2

where s is the standard deviation implied by a forecast's own quantiles. The components are the groups of forecasts with
common errors: those of all keys, of a SKU, of a store, of a key, each in one week or in all weeks of the horizon. Their
shares explain the mean products of the errors of pairs of forecasts in the backtest, relative to the products of their s
(variance components by the method of moments, not negative; Searle, Casella & McCulloch 1992). So errors of a SKU
with the same sign in all stores widen the total, and others average out.

The distance of each quantile from the median is then scaled by a factor: conformal on the backtest's own sums of the
same kind of level, of one week and of all (a finite-sample quantile of the absolute standardised error), and shrunk
towards that of all levels if there are few sums. All sums of many weeks of one origin share the luck of that season, so
that few origins say little about the tails: outer bands of many weeks are widened as by a t distribution, see `_tail`.

A sum of one forecast, a key in one week, has the quantiles of that forecast.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import polars as pl

from models.errors import ContractError
from models.sales.options import Options
from models.sales.panel import KEY
from models.scenario import File, Frames

TOTAL, UNKNOWN = "total", "unknown"
SHARES_FILE, FACTORS_FILE = "total_shares", "total_factors"
NOTE = (
    "No totals are published: the bundle has no errors of sums. Either an earlier version trained it: python -m flows "
    "sales train. Or the history is too short for two origins of the backtest with a whole horizon after them: a shorter "
    "--horizon needs less."
)
BLOCKS: dict[str, tuple[str, ...]] = {"all": (), "sku": ("sku",), "store": ("store",), "key": KEY}
"""Groups of forecasts that share errors, by name, each within a week and over all weeks."""
LEAST_ORIGINS = 2
"""Least number of backtest origins from which shared errors can be estimated."""
BORROWED = 30.0
"""Number of clusters as which the factor of all levels counts in the factor of a kind of level."""
FREEDOM = 1.5
"""Degrees of freedom per origin: sums of SKUs and stores of one origin share much of their errors, but not all. The 90 %
bands of three public data sets cover 87 to 93 % at held-out origins with it, 81 to 90 % without."""
SHARES = {"block": pl.String, "weekly": pl.Boolean, "share": pl.Float64}
FARTHEST = 10.0
"""Maximum error in standard deviations; if nothing was sold, the logarithm is infinite."""
DIGITS = 6
"""Significant digits of the published quantiles: more would depend on the order in which numbers are added."""
BUNDLE_DIGITS = 8
"""Significant digits of shares and factors, for the same reason."""
_SCALE = 1e4
"""Sums add whole numbers of units times this, so that they do not depend on the order."""


@dataclass(frozen=True)
class Level:
    """The columns by which forecasts are summed: `columns` of the keys, or attributes of stores and SKUs."""

    name: str
    columns: tuple[str, ...]
    kind: str
    """The name in `BLOCKS` of the groups whose sums behave like those of the level."""


def levels_of(names: Sequence[str], tables: Frames) -> list[Level]:
    """The levels with names such as `total`, `store`, `sku*region`; attributes are those of the `tables` of stores and SKUs.

    Raises `ContractError` for a part of a name that is neither a column of the keys nor an attribute.
    """
    attributes = {name: sorted(_attributes(tables, name)) for name in KEY}
    levels = []
    for name in dict.fromkeys(names):
        columns = () if name == TOTAL else tuple(part.strip() for part in name.split("*"))
        for column in columns:
            if column not in (*KEY, *attributes["sku"], *attributes["store"]):
                raise ContractError(
                    f"Totals by {name!r}: {column!r} is neither sku nor store, nor an attribute of either. "
                    f"Found: {', '.join([*attributes['sku'], *attributes['store']]) or 'no attributes'}. "
                    "Use total, sku, store, an attribute, or several with * between them."
                )
        of = {key for key in KEY if key in columns or set(attributes[key]) & set(columns)}
        kind = "key" if len(of) == len(KEY) else next(iter(of), "all")
        levels.append(Level(name, columns, kind))
    return levels


def _attributes(tables: Frames, key: str) -> list[str]:
    """The attributes of a store or an SKU, from the table of that name."""
    table = tables.get(f"{key}s")
    return [] if table is None else [name for name in table.collect_schema() if name not in (*KEY, "shard")]


def check(options: Options, tables: Frames) -> None:
    """Raise `ContractError` if the options request totals that cannot be computed."""
    levels_of(options.totals, tables)
    for weeks in options.total_weeks:
        if not 1 <= weeks <= options.horizon:
            raise ContractError(
                f"Totals of the first {weeks} weeks: the horizon is {options.horizon}. Expected 1 to {options.horizon}."
            )


def schema(options: Options) -> dict[str, pl.DataType]:
    """The columns of the published totals."""
    text, number = pl.String(), pl.Float64()
    about = {"level": text, "value": text, "week": pl.Date(), "weeks": pl.Int32(), "keys": pl.Int64()}
    return about | {"expected": number} | dict.fromkeys(options.columns, number)


def fit(backtest: pl.DataFrame, options: Options) -> dict[str, pl.DataFrame]:
    """The frames that a bundle needs for totals, from its calibrated backtest; none if it has too few origins.

    `total_shares`: block, weekly, share. `total_factors`: kind, weeks, mass (of the band), factor.
    """
    if backtest.height == 0 or backtest["origin"].n_unique() < LEAST_ORIGINS or len(options.quantiles) < 2:
        return {}
    rows = _forecasts(backtest.lazy(), options, "origin", "units").collect().sort("origin", *KEY, "week")
    if not rows["s"].sum() > 0:
        return {}
    shares = _shares(rows)
    return {SHARES_FILE: shares, FACTORS_FILE: _factors(rows, shares, options)}


def totals(rows: pl.LazyFrame, files: Mapping[str, File], tables: Frames, options: Options) -> pl.DataFrame:
    """The totals of published `rows` by the options' levels: of every week, of the whole horizon, and of the
    first weeks in `total_weeks`. Without rows if the bundle's `files` lack the frames of `fit`.
    """
    shares, factors = files.get(SHARES_FILE), files.get(FACTORS_FILE)
    if not isinstance(shares, pl.DataFrame) or not isinstance(factors, pl.DataFrame):
        return pl.DataFrame(schema=schema(options))
    levels = levels_of(options.totals, tables)
    quantiles = options.columns if any(_is_alone(level) for level in levels) else ()
    forecasts = _forecasts(rows, options, *quantiles).collect(engine="streaming")
    if forecasts.is_empty():
        return pl.DataFrame(schema=schema(options))
    keys = forecasts.select(KEY).unique()
    frames = []
    for level in levels:
        here = forecasts.join(_valued(keys, level, tables), on=KEY, how="left", maintain_order="left")
        weekly, *longer = _sums(here, ("value",), sorted({*options.total_weeks}), shares)
        alone = _is_alone(level)
        frames.append(_alone(here, level) if alone else _published(weekly, level, factors, options))
        frames += [_published(sums, level, factors, options) for sums in longer]
    columns = pl.Schema(schema(options))
    return pl.concat([f.select(columns.names()).cast(columns) for f in frames]).sort(
        "level", "value", "weeks", "week"
    )


def _is_alone(level: Level) -> bool:
    """Whether a sum of one week is a single forecast."""
    return {*KEY} <= {*level.columns}


def _forecasts(rows: pl.LazyFrame, options: Options, *others: str) -> pl.LazyFrame:
    """Key, week, step, whole numbers `m` (expected value) and `s` (standard deviation), and `others`."""
    columns, weights = options.columns, _weights(options.quantiles)
    mean = pl.sum_horizontal(w * pl.col(name) for w, name in zip(weights, columns, strict=True))
    normal = [NormalDist().inv_cdf(q) for q in options.quantiles]
    width = (pl.col(columns[-1]) - pl.col(columns[0])) / (normal[-1] - normal[0])
    whole = [
        (value * _SCALE).round().cast(pl.Int64).alias(name) for name, value in (("m", mean), ("s", width))
    ]
    return rows.select(pl.col(KEY).cast(pl.Categorical), "week", "step", *whole, *others)


def _weights(quantiles: Sequence[float]) -> list[float]:
    """The probability that each quantile represents: from halfway to the previous one to halfway to the next.

    >>> _weights([0.1, 0.5, 0.9])
    [0.3, 0.4, 0.3]
    """
    halfway = [(low + high) / 2 for low, high in pairwise(quantiles)]
    return [round(high - low, 12) for low, high in pairwise([0.0, *halfway, 1.0])]


def _valued(keys: pl.DataFrame, level: Level, tables: Frames) -> pl.DataFrame:
    """The keys, each with its `value` of the level."""
    with_values = keys.with_columns(pl.col(KEY).cast(pl.String).name.prefix("_"))
    for key in KEY:
        names = [c for c in level.columns if c not in KEY and c in _attributes(tables, key)]
        if names:
            about = tables[f"{key}s"].select(pl.col(key).alias(f"_{key}"), *map(_text, names))
            with_values = with_values.join(about.collect(), on=f"_{key}", how="left")
    parts = [pl.col(f"_{c}" if c in KEY else c).fill_null(UNKNOWN) for c in level.columns]
    value = pl.concat_str(parts, separator="*") if parts else pl.lit("all")
    return with_values.select(*KEY, value.cast(pl.Categorical).alias("value"))


def _text(name: str) -> pl.Expr:
    """An attribute as text; whole numbers without a decimal point."""
    return pl.col(name).cast(pl.String).str.strip_suffix(".0")


def _sums(
    rows: pl.DataFrame, by: Sequence[str], windows: Sequence[int], shares: pl.DataFrame
) -> list[pl.DataFrame]:
    """Sums of every week, of the first weeks of each of `windows`, and of all weeks.

    Columns: `by`, week (the first), weeks, keys, expected, sd, and the sum of units if `rows` have units.
    """
    share = {(block, weekly): value for block, weekly, value in shares.iter_rows()}
    aggregates = [pl.col("m", *(["units"] if "units" in rows.columns else [])).sum()]
    squares = [pl.col(name) * (share[name, True] + share[name, False]) for name in BLOCKS]
    week = _blocks(rows, [*by, "week", "step"], [*aggregates, pl.len().alias("keys")])
    frames = [week.with_columns(pl.lit(1).alias("weeks"), pl.sum_horizontal(squares).alias("v"))]
    for weeks in sorted({*windows, rows.select(pl.col("step").max()).item()} - {1}):
        early = pl.col("step") <= weeks
        all_weeks = _blocks(rows.filter(early), by, [*aggregates, pl.struct(KEY).n_unique().alias("keys")])
        weekly = [(pl.col(name) * share[name, True]).sum().alias(f"{name}_weekly") for name in BLOCKS]
        each = week.filter(early).group_by(by).agg(pl.col("week").min(), *weekly)
        both = [pl.col(name) * share[name, False] for name in BLOCKS]
        both += [pl.col(f"{name}_weekly") for name in BLOCKS]
        sums = all_weeks.join(each, on=by)
        frames.append(sums.with_columns(pl.lit(weeks).alias("weeks"), pl.sum_horizontal(both).alias("v")))
    about = [*by, "week", "weeks", "keys", *(["units"] if "units" in rows.columns else [])]
    return [f.select(*about, expected=pl.col("m") / _SCALE, sd=pl.col("v").sqrt() / _SCALE) for f in frames]


def _blocks(rows: pl.DataFrame, by: Sequence[str], aggregates: Sequence[pl.Expr]) -> pl.DataFrame:
    """`added` by groups, and for each of `BLOCKS` the sum over blocks of the squared sum of s."""
    result = rows.group_by(by).agg(aggregates)
    for name, columns in BLOCKS.items():
        sums = rows.group_by(*by, *columns).agg(pl.col("s").sum().cast(pl.Float64))
        result = result.join(sums.group_by(by).agg((pl.col("s") ** 2).sum().alias(name)), on=by)
    return result


def _shares(rows: pl.DataFrame) -> pl.DataFrame:
    """The share of each component: block, weekly, share; from rows with `units`."""
    from scipy.optimize import nnls

    errors = rows.with_columns(s=(pl.col("units") * _SCALE).round().cast(pl.Int64) - pl.col("m"))
    products, scales = _products(errors), _products(rows)
    pairs = {
        pair: products[pair] / scales[pair] for pair in scales if scales[pair] > 1e-9 * sum(scales.values())
    }
    components = [(block, weekly) for block in BLOCKS for weekly in (False, True)]

    def together(component: tuple[str, bool], pair: tuple[str, bool]) -> bool:
        return {*BLOCKS[component[0]]} <= {*BLOCKS[pair[0]]} and component[1] <= pair[1]

    matrix = np.array([[float(together(c, pair)) for c in components] for pair in pairs])
    solution, _ = nnls(matrix, np.array(list(pairs.values())))
    shares = [(*component, share) for component, share in zip(components, solution.tolist(), strict=True)]
    return pl.DataFrame(shares, SHARES, orient="row").with_columns(_rounded("share"))


def _products(rows: pl.DataFrame) -> dict[tuple[str, bool], float]:
    """The sum of products of `s` over pairs of rows of an origin, by what both have in common: block, same week."""
    week, every = (
        {name: float(sums[name].sum()) for name in BLOCKS}
        for sums in (_blocks(rows, ["origin", "week"], []), _blocks(rows, ["origin"], []))
    )
    products: dict[tuple[str, bool], float] = {}
    for weekly, of in ((True, week), (False, {name: every[name] - week[name] for name in BLOCKS})):
        products["key", weekly] = of["key"]
        products["sku", weekly], products["store", weekly] = of["sku"] - of["key"], of["store"] - of["key"]
        products["all", weekly] = of["all"] - of["sku"] - of["store"] + of["key"]
    return products


def _factors(rows: pl.DataFrame, shares: pl.DataFrame, options: Options) -> pl.DataFrame:
    """The factor by which each band is wider than log-normal: kind, weeks, mass, factor.

    A band is that from a quantile to its mirror image; `mass` is the probability between them.
    """
    records = []
    origins = rows["origin"].n_unique()
    masses = sorted({round(abs(2 * q - 1), 9) for q in options.quantiles} - {0.0})
    for kind, columns in BLOCKS.items():
        names = [pl.col(c).cast(pl.String) for c in columns] or [pl.lit("all")]
        sums = _sums(rows.with_columns(pl.concat_str(names).alias("value")), ("origin", "value"), (), shares)
        for weeks, part in ((1, sums[0]), (options.horizon, sums[-1])):
            part = part.filter(pl.col("expected") > 0, pl.col("sd") > 0)
            clusters = part.select("origin", "value").n_unique()
            median, spread = _log_normal(part)
            units = np.maximum(part["units"].to_numpy(), 1e-12)
            scores = np.minimum(np.abs(np.log(units) - median) / spread, FARTHEST)
            for mass in masses:
                own = np.quantile(scores, min(1.0, mass * (1 + 1 / clusters))) if clusters else FARTHEST
                own *= _tail(mass, origins) if weeks > 1 else 1.0
                records.append((kind, weeks, mass, clusters, own / NormalDist().inv_cdf((1 + mass) / 2)))
    table = pl.DataFrame(records, ["kind", "weeks", "mass", "clusters", "own"], orient="row")
    n, larger = pl.col("clusters"), pl.col("own").mean().over("weeks", "mass")
    factor = (n * pl.col("own") + BORROWED * larger) / (n + BORROWED)
    return table.select("kind", "weeks", "mass", factor.alias("factor")).with_columns(_rounded("factor"))


def _tail(mass: float, origins: int) -> float:
    """The factor that widens a band to the tails of a t distribution with the same quartiles; 1 within the quartiles.

    >>> [round(_tail(mass, 4), 2) for mass in (0.4, 0.5, 0.9)]
    [1.0, 1.0, 1.11]
    """
    from scipy.stats import norm, t

    upper = (1 + mass) / 2
    wider = t.ppf(upper, FREEDOM * origins) / t.ppf(0.75, FREEDOM * origins)
    return max(1.0, float(wider / (norm.ppf(upper) / norm.ppf(0.75))))


def _rounded(name: str) -> pl.Expr:
    """A column without the last digits, which depend on the order in which numbers are added."""
    return pl.col(name).round_sig_figs(BUNDLE_DIGITS)


def _log_normal(sums: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Median, and standard deviation of the logarithm, of sums with `expected` and `sd`."""
    mean, sd = sums["expected"].to_numpy(), sums["sd"].to_numpy()
    spread = np.sqrt(np.log1p((sd / np.maximum(mean, 1e-12)) ** 2))
    return np.log(np.maximum(mean, 1e-12)) - spread**2 / 2, spread


def _published(sums: pl.DataFrame, level: Level, factors: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Sums with their quantiles and the `level`."""
    median, spread = _log_normal(sums)
    weeks = sums.select(pl.col("weeks").max()).item()
    nearness = np.log(weeks) / np.log(options.horizon) if options.horizon > 1 else 0.0
    scores = []
    for q in options.quantiles:
        normal, mass = NormalDist().inv_cdf(q), round(abs(2 * q - 1), 9)
        of = factors.filter(kind=level.kind, mass=mass).sort("weeks")["factor"]
        factor = of[0] + nearness * (of[-1] - of[0]) if of.len() else 1.0
        scores.append(factor * normal)
    there = sums["expected"].to_numpy() > 0
    values = np.where(there[:, None], np.exp(median[:, None] + spread[:, None] * np.sort(scores)), 0.0)
    quantiles = [
        pl.Series(name, values[:, i]).round_sig_figs(DIGITS) for i, name in enumerate(options.columns)
    ]
    return sums.with_columns(pl.lit(level.name).alias("level"), pl.col("value").cast(pl.String), *quantiles)


def _alone(rows: pl.DataFrame, level: Level) -> pl.DataFrame:
    """The forecasts of a key in a week, unchanged."""
    about = [pl.lit(level.name).alias("level"), pl.col("value").cast(pl.String)]
    about += [pl.lit(1).alias("weeks"), pl.lit(1).alias("keys"), (pl.col("m") / _SCALE).alias("expected")]
    return rows.with_columns(about)
