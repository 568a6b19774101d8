"""Readings in one grid, for tests that look at all of it."""

from datetime import datetime, timedelta

import polars as pl

from models.devices.grid import Grid, panel_of


def grid_of(
    readings: pl.DataFrame, keys: pl.DataFrame, start: datetime, end: datetime, interval: timedelta
) -> Grid:
    """As `panel_of`, in one grid; keys sorted."""
    panel = panel_of(readings.lazy(), keys, start, end, interval)
    return next(panel.grids(2**62))
