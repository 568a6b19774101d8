"""The week of an earlier year that a week resembles: the same week of the year, except around Easter and Christmas."""

from datetime import date, timedelta

import numpy as np
from dateutil.easter import easter

from models.sales.panel import Panel

YEAR = 52


def year_before(origin: int, target: int) -> int:
    """The week that lies whole years before `target`, the last of them that is known at `origin`.

    >>> year_before(100, 104), year_before(100, 160)
    (52, 56)
    """
    years = -(-(target - origin) // YEAR)
    return target - YEAR * years


def from_easter(panel: Panel, target: int, at: int) -> int:
    """The week like `target` at about `at`, which lies whole years before it, for what sells more or less at Easter.

    Of the week of Good Friday, that of the other year; of a week in whose place it was only in that year, the week
    next to it on the same side of Easter as `target`. All others stay where they are: `at`.
    """
    year = (panel.week(target) + timedelta(days=6)).year
    now, then = _good_friday(panel, year), _good_friday(panel, year - round((target - at) / YEAR))
    if target == now:
        return then
    return at if at != then else then + (1 if target > now else -1)


def _good_friday(panel: Panel, year: int) -> int:
    return panel.index(easter(year) - timedelta(days=2))


def share_of_week_before(panel: Panel, target: int, at: int) -> float:
    """The share of the days of `target` whose like lies in the week before `at`, which lies whole years before it.

    Christmas comes a day or two later in its week than a year before. In its week and those next to it, days count from
    Christmas; in all other weeks the share is zero.
    """
    start = panel.week(target)
    year = (start - timedelta(days=7)).year
    days = (date(year, 12, 25) - start).days
    then = (date(year - round((target - at) / YEAR), 12, 25) - panel.week(at)).days
    return float(np.clip(days - then, 0, 7)) / 7 if -7 <= days < 14 else 0.0
