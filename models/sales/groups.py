"""Groups of features that the pooled model may omit."""

from collections.abc import Sequence

from models.sales.options import Options

GROUPS = ("neighbours", "promotions", "last_year", "calendar", "stores")
_OF_NAME = {
    **dict.fromkeys(("week_of_year", "event_effect"), "calendar"),
    **dict.fromkeys(("year_ago", "season", "sku_year_ago", "sku_season", "last_year"), "last_year"),
    **dict.fromkeys(("share_of_sku", "price_to_others", "price_to_others_moved"), "neighbours"),
    **dict.fromkeys(("elasticity", "since_promotion", "depth_before"), "promotions"),
}
_OF_BEGIN = {
    "group_season_": "neighbours",
    "effect_": "promotions",
    "promoted_": "promotions",
    "before_": "promotions",
    "others_": "neighbours",
    "sku_": "neighbours",
}
_ALWAYS = {"level", "variation", "variation_all", "zeros", "weeks_known", "step"}
_ALWAYS |= {"depth", "price_to_median", "price_to_lowest"}


def group_of(name: str, covariates: Sequence[str]) -> str | None:
    """The group of `GROUPS` to which feature `name` belongs; None for features that are always used.

    `neighbours`: the other SKUs of the store, the SKU in other stores, and the season of similar SKUs. `promotions`: the
    effects and times of promotions, but not the price and flags of the week. `stores`: the rest, that is, attributes of
    stores and SKUs.

    >>> [group_of(name, ["deal"]) for name in ("sku_season", "sku_regular_4", "deal", "education")]
    ['last_year', 'neighbours', None, 'stores']
    """
    if name in _OF_NAME:
        return _OF_NAME[name]
    always = {*_ALWAYS, *covariates, *(f"unusual_{covariate}" for covariate in covariates)}
    if name in always or name.startswith(("regular_", "all_")):
        return None
    return next((group for begin, group in _OF_BEGIN.items() if name.startswith(begin)), "stores")


def used(names: Sequence[str], covariates: Sequence[str], options: Options) -> list[str]:
    """The feature `names` whose group the options use, in the same order."""
    without = {group for group in GROUPS if not getattr(options, f"use_{group}")}
    return [name for name in names if group_of(name, covariates) not in without]
