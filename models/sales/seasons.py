"""The week of an earlier year that a week resembles: the same week of the year, except around Easter."""

from datetime import timedelta

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
