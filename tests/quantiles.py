"""The share of rows below a quantile forecast, with ties counted as the definition of a quantile needs."""

import polars as pl


def attained_level(units: pl.Expr, quantile: pl.Expr, level: float) -> pl.Expr:
    """The share of rows below a quantile forecast, as near to `level` as its ties allow; 0..1.

    Units are whole numbers, so that no forecast of a slow key has exactly 5 % of the rows at or below
    it. A forecast meets its level when `P(units < q) <= level <= P(units <= q)`: that is the definition
    of a quantile. So rows that equal their forecast count as below it to the extent that `level` needs.
    The coverage of a band is the difference of the levels that its two ends attain.
    """
    return pl.lit(level).clip((units < quantile).mean(), (units <= quantile).mean())
