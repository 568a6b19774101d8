"""A small simulated fleet, as files and as arguments of the command line."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import polars as pl

from models.machines.simulation import START, simulate

TABLES = ("telemetry", "errors", "maintenance", "failures", "machines")
CUT = START + timedelta(days=84)
END = START + timedelta(days=90)
OPTIONS = ("--horizon", "24h", "--horizon", "3d")


def fleet(machines: int = 10) -> dict[str, pl.DataFrame]:
    """Ninety days of telemetry, every four hours, of machines with two components."""
    return simulate(machines, days=90, seed=3, interval_hours=4, components=2)


def until_cut(tables: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The tables as they were known at `CUT`."""
    return {
        name: frame.filter(pl.col("time") <= CUT) if "time" in frame.columns else frame
        for name, frame in tables.items()
    }


def after_cut(tables: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The rows after `CUT`: a few days of every table, and the machines again."""
    return {
        name: frame.filter(pl.col("time") > CUT) if "time" in frame.columns else frame
        for name, frame in tables.items()
    }


def sources(folder: Path, tables: Mapping[str, pl.DataFrame]) -> list[str]:
    """Write the tables into a folder; returns the arguments of the command line that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    words = []
    for name, frame in tables.items():
        path = folder / f"{name}.parquet"
        frame.write_parquet(path)
        words += [f"--{name}", str(path)]
    return words
