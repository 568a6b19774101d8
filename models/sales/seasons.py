"""The week of an earlier year that resembles a week: the same week of the year, except around Easter and Christmas."""

from datetime import date, timedelta

import numpy as np
from dateutil.easter import easter

from models.sales.panel import Panel

YEAR = 52


def year_before(origin: int, target: int) -> int:
    """The last week known at `origin` that lies whole years before `target`.

    >>> year_before(100, 104), year_before(100, 160)
    (52, 56)
    """
    years = -(-(target - origin) // YEAR)
    return target - YEAR * years


def from_easter(panel: Panel, target: int, at: int) -> int:
    """The week that resembles `target` near `at`, which lies whole years before it, for keys that move with Easter.

    For the week of Good Friday, the week of Good Friday in the earlier year; if `at`, but not `target`, is that week, the
    week next to it on the same side of Easter as `target`. For all other weeks, `at`.
    """
    year = (panel.week(target) + timedelta(days=6)).year
    now, then = _good_friday(panel, year), _good_friday(panel, year - round((target - at) / YEAR))
    if target == now:
        return then
    return at if at != then else then + (1 if target > now else -1)


def _good_friday(panel: Panel, year: int) -> int:
    return panel.index(easter(year) - timedelta(days=2))


def share_of_week_before(panel: Panel, target: int, at: int) -> float:
    """The share of the days of `target` that correspond to days of the week before `at`, which lies whole years before it.

    Christmas comes a day or two later in its week than a year before. In its week and those next to it, days are counted
    from Christmas; in all other weeks, the share is zero.
    """
    start = panel.week(target)
    year = (start - timedelta(days=7)).year
    days = (date(year, 12, 25) - start).days
    then = (date(year - round((target - at) / YEAR), 12, 25) - panel.week(at)).days
    return float(np.clip(days - then, 0, 7)) / 7 if -7 <= days < 14 else 0.0
