"""Which hours are to be scored."""

from datetime import datetime, timedelta

import polars as pl

HOUR = timedelta(hours=1)


def due(
    readings: pl.LazyFrame, newest: datetime, last: datetime | None, at_most: int, memory_hours: int
) -> list[datetime]:
    """The ends of the complete hours after `last`, the last that was published, up to `newest`, oldest first.

    At most the newest `at_most` of them. Hours that no sensor is asked for are left out: those before
    the first reading, and those more than `memory_hours` after the one before.
    """
    first = newest - HOUR * (at_most - 1)
    if last is not None:
        first = max(first, last + HOUR)
    if first > newest:
        return []
    time = pl.col("time")
    near = readings.filter(time >= first - HOUR * memory_hours, time < newest)
    begun = near.select(time.dt.truncate("1h").unique()).collect(engine="streaming")["time"].to_list()
    wanted = [first + HOUR * n for n in range((newest - first) // HOUR + 1)]
    return [end for end in wanted if any(end - HOUR * memory_hours <= begin < end for begin in begun)]
