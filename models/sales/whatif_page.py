"""The page of a changed plan: both forecasts, week by week and key by key."""

from collections.abc import Mapping
from datetime import date, timedelta

import polars as pl

from models.page import blocks as page
from models.page.blocks import Band, Explorer, Figures, Grid, Line, Section, Text, Track
from models.page.charts import area, chart, line
from models.sales.panel import KEY
from models.sales.sections import quantile_columns
from models.sales.whatif import summed
from models.scenario import Frames

HISTORY_WEEKS = 52
KEYS = 200
PLANS = "Rows of the changed plan that differ from the stored one: before and now"
NO_BAND = (
    "Sums are of medians. Quantiles do not add up, so a sum has no band here; if demand is skewed, a sum of medians lies "
    "below the expected total."
)
BANDS = (
    "Sums of pairs are of medians; if demand is skewed, such a sum lies below the expected total. Each band is that of one "
    "plan's total. The difference is more certain than the bands suggest: most errors move both totals equally."
)


def about_sums(bands: pl.DataFrame) -> str:
    """An explanation of the sums and their `bands`; see `whatif.bands`."""
    return NO_BAND if bands.is_empty() else BANDS


def sections(
    lines: pl.DataFrame,
    bands: pl.DataFrame,
    plans: pl.DataFrame,
    tables: Frames,
    as_of: date,
    notes: list[str],
) -> list[Section]:
    """The totals, any key, and the keys that differ most.

    `bands` are those of the totals, see `whatif.bands`; `plans` has sku, store, week and the columns that differ.
    """
    total = summed(lines, []).row(0, named=True)
    figures = {
        "Stored plan, units": page.compact(total["stored"]),
        "Changed plan, units": page.compact(total["changed"]),
        "Difference, units": page.number(total["difference"], "+,.0f"),
        "Difference": "–" if total["share"] is None else page.number(total["share"], "+.1%"),
        "Rows of the plan that differ": f"{plans.height:,}",
        "Pairs that may differ": f"{lines.select(KEY).n_unique():,}",
    }
    figures |= _whole(bands)
    items = "\n".join(f"- {note}" for note in notes)
    text = (
        f"Nothing was published. Sales are known up to the week of **{as_of}**. All figures are for pairs with a SKU "
        f"or a store whose plan differs: other pairs have the same forecast with both plans. {about_sums(bands)}\n\n{items}"
    )
    return [
        Section("Both plans", [Figures(figures), Text(text), _weeks(lines, bands)]),
        Section("Any SKU and store", [_explorer(lines, tables, as_of)] if lines.height else []),
        Section("What differs most", [_keys(lines)]),
        Section("What differs in the plan", [Grid(plans, PLANS, limit=KEYS)]),
    ]


def _whole(bands: pl.DataFrame) -> dict[str, str]:
    """The outermost band of all weeks together, by plan."""
    names = list(quantile_columns(bands.columns))
    whole = bands.filter(pl.col("weeks") == pl.col("weeks").max())
    return {
        f"{plan.capitalize()} plan, {names[0][1:]}–{names[-1][1:]}%": f"{page.compact(low)} – {page.compact(high)}"
        for plan, low, high in whole.select("plan", names[0], names[-1]).iter_rows()
    }


def _weeks(lines: pl.DataFrame, bands: pl.DataFrame) -> page.Block:
    weeks = summed(lines, ["week"])
    data = [
        line("Stored plan", weeks["week"], weeks["stored"], page.MUTED, "5px,3px"),
        line("Changed plan", weeks["week"], weeks["changed"], page.MEDIAN),
    ]
    caption = "Sum of the median forecasts of these pairs, with both plans."
    single = bands.filter(plan="changed", weeks=1)
    if single.height:
        quantiles = quantile_columns(bands.columns)
        low, high = next(iter(quantiles)), list(quantiles)[-1]
        span = f"{quantiles[low]:g}–{quantiles[high]:g}%"
        data.insert(0, area(f"Changed plan, {span}", single["week"], single[low], single[high], page.OUTER))
        caption += f" The area is the {span} band of the total with the changed plan."
    return chart(data, caption, "Units per week")


def _explorer(lines: pl.DataFrame, tables: Frames, as_of: date) -> Explorer:
    keys = lines.group_by(KEY).agg(pl.col("difference").abs().sum())
    keys = keys.sort("difference", *KEY, descending=[True, False, False])
    since = as_of - timedelta(weeks=HISTORY_WEEKS)
    past = tables["history"].filter(pl.col("week") > since, pl.col("week") <= as_of)
    past = past.join(keys.lazy().select(KEY), on=KEY, how="semi")
    quantiles = quantile_columns([name.removeprefix("changed_") for name in lines.columns])
    low, high = next(iter(quantiles)), list(quantiles)[-1]
    label = f"{quantiles[low]:g}–{quantiles[high]:g}%"
    bands = [Band(f"changed_{low}", f"changed_{high}", f"Changed plan, {label}")] if low != high else []
    base = Track(lines.lazy(), expected=Line("stored", "Stored plan", page.MUTED))
    other = Track(lines.lazy(), expected=Line("changed", "Changed plan"), bands=bands)
    return Explorer(
        {"sku": "SKU", "store": "Store"},
        "week",
        [Track(past, Line("units", "Sold")), other, base],
        unit="Units per week",
        start=dict(zip(KEY, keys.select(KEY).row(0), strict=True)),
        caption="Median forecasts with both plans. The pair that differs most comes first.",
    )


def _keys(lines: pl.DataFrame) -> Grid:
    keys = summed(lines, list(KEY)).sort(pl.col("difference").abs(), *KEY, descending=[True, False, False])
    names: Mapping[str, str] = {
        "sku": "SKU",
        "store": "Store",
        "stored": "Stored plan, units",
        "changed": "Changed plan, units",
        "difference": "Difference, units",
        "share": "Difference",
    }
    frame = keys.filter(pl.col("difference") != 0).select(
        pl.col(name).alias(words) for name, words in names.items()
    )
    forms = {"Difference, units": "+,.1f", "Difference": "+.1%"}
    forms |= {names[name]: ",.1f" for name in ("stored", "changed")}
    return Grid(frame, "Sums over the weeks", limit=KEYS, formats=forms, key={"sku": "SKU", "store": "Store"})
