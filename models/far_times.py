"""Times that are far from all others of a column."""

from datetime import timedelta
from itertools import pairwise

import polars as pl

_LONG = timedelta(days=366)
_FAR = 10


def far_from_others(times: pl.Series) -> pl.Series:
    """Whether each time is far from all others, such as a time of a clock that was never set.

    Such times are at most one in a hundred (or one among twenty or more) at either end, and more than a year and
    ten times the range of all others away from them.

    >>> far_from_others(pl.Series([0, *range(19_000, 19_030)]).cast(pl.Date)).sum()
    1
    """
    none = times.is_null() & times.is_not_null()
    present = times.drop_nulls()
    few = max(1, present.len() // 100) if present.len() >= 20 else 0
    if not few:
        return none
    low, high = present.bottom_k(few + 1).sort(), present.top_k(few + 1).sort()
    if low[-1] - low[0] <= _LONG and high[-1] - high[0] <= _LONG:
        return none
    first = _beyond_gap(low, high[0])
    last = _beyond_gap(high.reverse(), low[-1])
    far = none
    if first is not None:
        far |= times < first
    if last is not None:
        far |= times > last
    return far.fill_null(False)


def _beyond_gap(ends: pl.Series, other_end: object) -> object | None:
    """The outermost time inside the innermost gap; None if there is no gap. `ends` run from the outermost inwards."""
    span = abs(ends[-1] - other_end)
    gaps = [inner for outer, inner in pairwise(ends) if abs(inner - outer) > max(_LONG, _FAR * span)]
    return gaps[-1] if gaps else None
