"""The notes of a training: on the history, on the backtest, and on the choice of estimators."""

from datetime import date

import polars as pl

from models import metrics
from models.sales import backtest as measuring
from models.sales import contest, ladder
from models.sales.ensembles import LEAST_ROWS
from models.sales.model import Model
from models.sales.options import Options
from models.sales.panel import ENOUGH_STOCK, IMPLAUSIBLE, IN_STOCK

MISSING_SHARE = 0.2
"""Share of weeks without a row above which the notes ask what a missing row means."""


def about_weeks(weeks: pl.DataFrame | None) -> list[str]:
    """Notes on oddities in the weeks of the history: how many are out of stock, missing (if more than `MISSING_SHARE`)
    or implausible.

    `weeks` is the part of that name of all shards.
    """
    if weeks is None:
        return []
    notes = []
    sold_out = int(weeks["out_of_stock"].sum()) if "out_of_stock" in weeks.columns else 0
    if sold_out:
        notes.append(
            f"Weeks with {IN_STOCK} below {ENOUGH_STOCK} count as unknown, because less was sold than demanded: "
            f"{sold_out:,}."
        )
    share = (int(weeks["missing"].sum()) - sold_out) / max(int(weeks["weeks"].sum()), 1)
    if share > MISSING_SHARE:
        notes.append(
            f"{share:.0%} of the weeks between the first and the last row of a SKU in a store have no row. They count "
            "as unknown, not as weeks without sales: forecasts are for weeks that have a row. If nothing was sold "
            "in those weeks, add rows with 0 units for them and ingest again."
        )
    if implausible := weeks["implausible"].sum():
        notes.append(
            f"Single weeks with more than {IMPLAUSIBLE:.0f} times the units of any week before them count as that "
            f"highest week before: {implausible:,}. (The first weeks of a SKU in a store are judged by each other; "
            f"negative ones count as zero.) Correct them in the source if they are typing errors."
        )
    return notes


def about_training(
    train_rows: int, backtest: pl.DataFrame, model: Model, as_of: date, options: Options
) -> list[str]:
    """Notes on the origins of the backtest, and on the rungs that the `model` chose."""
    notes = []
    origins = backtest["origin"].n_unique()
    full_count = len(options.backtest_origins(as_of))
    if origins < full_count:
        notes.append(
            f"The backtest has {origins} of {full_count} origins: the history before {as_of} does not reach back further."
        )
    weeks_ahead = backtest.select(pl.col("step").max()).item()
    if origins and weeks_ahead < options.horizon:
        notes.append(
            f"The backtest is judged {weeks_ahead} weeks ahead, not {options.horizon}: a short history is split in two, "
            "and its last third is forecast from the weeks before."
        )
    if origins == 1:
        notes.append("With only one origin, the backtest is not calibrated; the bundle is.")
    if origins == 0:
        notes.append(
            "The bundle is not calibrated: the history is too short to hold out any of it. The SKUs' own models and the "
            "rungs for short histories forecast all keys; their bands widen with the step as the SKUs' levels have drifted."
        )
    if train_rows < LEAST_ROWS:
        notes.append(
            f"There are {train_rows} training rows, too few for the pooled model; {LEAST_ROWS} are needed."
        )
    if model.blended:
        notes.append("Planned weeks are forecast by the mean of the pooled and the SKU's own model.")
    if model.own_keys.height:
        notes.append(f"{model.own_keys.height:,} keys are forecast by their SKU's own model.")
    return notes + _beside_naive(backtest, model, options)


def _beside_naive(backtest: pl.DataFrame, model: Model, options: Options) -> list[str]:
    """Notes on kinds of demand that use a naive forecast, and on a backtest that is worse than one; with both WAPEs.

    Those of a kind are of keys with enough history for it: the ladder's rows are not forecast by it.
    """
    choices = pl.concat([model.unplanned.filter(pl.col("rung").is_in(contest.NAIVE)), model.planned])
    names = {contest.LAST_WEEK: "last week's units", contest.LAST_YEAR: "the same week of last year"}
    names[contest.SEASON] = "last year's weeks at this year's level"
    notes = []
    by_models = backtest.filter(~pl.col("rung").is_in(ladder.RUNGS))
    for kind, rows in [("all", backtest), *((k, by_models.filter(kind=k)) for k in choices["kind"])]:
        wapes = rows.select(
            ours=metrics.wape("units", measuring.middle_column(options)),
            **{name: metrics.wape("units", name) for name in measuring.NAIVES},
        ).row(0, named=True)
        if any(value is None for value in wapes.values()):
            continue
        ours = wapes.pop("ours")
        name = min(wapes, key=lambda naive: wapes[naive])
        if kind != "all":
            rung = choices.filter(kind=kind)["rung"].item()
            naive = contest.naive_of(rung)
            what = names[naive] if rung == naive else f"the mean of the models and {names[naive]}"
            notes.append(
                f"Keys with {kind} demand are forecast by {what} (rung {rung}), which did best in the "
                f"backtest: WAPE of the naive forecast {wapes.get(naive, wapes[name]):.1%}, of the published one {ours:.1%}."
            )
        elif wapes[name] < ours:
            notes.append(
                f"The backtest is worse than a naive forecast: WAPE {ours:.1%}, of {names[name]} "
                f"({name.replace('_', ' ')}) {wapes[name]:.1%}."
            )
    return notes
