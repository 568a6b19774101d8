"""Comparison of a bundle with an older one, on rows that the older one has not seen."""

from datetime import date

import numpy as np
import polars as pl

from models.sales import backtest as measuring
from models.sales.model import Model
from models.sales.options import Options
from models.sales.preparation import FEATURE
from models.scenario import Frames

ROW = ["sku", "store", "origin", "week"]


def on_unseen(
    model: Model, parts: Frames, backtest: pl.DataFrame, trained_as_of: date
) -> tuple[float, float, int] | None:
    """Pinball losses of `backtest` and of `model` on the same rows, and the number of rows.

    The rows are those of the pooled model's backtest whose target week is after `trained_as_of`. The
    model forecasts them from the features in `parts` and, if it uses SKUs' own models, with those in `parts`, which
    are fitted at each origin. Rows of the ladder are the same for both and are left out.
    Quantiles that only one of the two has do not count. None if there are no such rows.
    """
    columns = [name for name in model.columns if name in backtest.columns]
    if "backtest" not in parts or not columns:
        return None
    rows = parts["backtest"].filter(pl.col("week") > trained_as_of).collect()
    rows = rows.join(backtest.select(ROW), on=ROW, how="semi")
    if rows.is_empty():
        return None
    names = [name.removeprefix(FEATURE) for name in rows.columns if name.startswith(FEATURE)]
    values = np.ascontiguousarray(rows.select([FEATURE + name for name in names]).to_numpy())
    own = None
    if "statistical_backtest" in parts:
        own = parts["statistical_backtest"].filter(pl.col("week") > trained_as_of).collect()
        own = own if set(model.columns) <= set(own.columns) else None
    theirs = model.forecast(rows.select(pl.exclude(f"^{FEATURE}.*$")), values, names, own, threads=0)
    theirs = theirs.drop_nulls("rung")
    ours = backtest.join(theirs, on=ROW, how="semi")
    quantiles = tuple(q for q, name in zip(model.quantiles, model.columns, strict=True) if name in columns)
    options = Options(quantiles=quantiles)
    return measuring.loss(ours, options), measuring.loss(theirs, options), theirs.height
