"""The detector of a device over all its tags: what no single sensor shows, such as a broken correlation.

The tags' distances from what is expected of them, each in its own scale, are compared with their usual
correlation: the squared Mahalanobis distance, brought to a standard normal by Wilson & Hilferty's cube
root. The score is the greater of that and of its recent weighted mean in its own scale; higher is more
anomalous. Where tags are missing, it is the distance of the others by themselves.

Wilson & Hilferty (1931), PNAS 17(12). The correlation is estimated from distances clipped at three
scales and shrunk a little towards none.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.devices.channels import (
    LEVEL_WEIGHTS,
    autocorrelation_of,
    level_ratio,
    robust_scale,
    weighted_mean,
)
from models.devices.contracts import JOINT_TAG, KEY
from models.devices.grid import Floats, matrix_of, row_quantiles

MOST_TAGS = 40
"""Of a device with more tags, the first ones by name are taken together."""
SHRINKAGE = 0.02
_CLIP_FIT, _CLIP = 3.0, 12.0
SCHEMA: dict[str, Any] = {
    "device": pl.String,
    "tags": pl.List(pl.String),
    "precision": pl.List(pl.Float64),
    "mean_center": pl.Float64,
    "mean_scale": pl.Float64,
}


def members(keys: pl.DataFrame) -> pl.DataFrame:
    """Sensors (device, tag) -> one row per device of at least two tags: device, `tags` by name."""
    return (
        keys.select(*KEY)
        .sort(*KEY)
        .group_by("device", maintain_order=True)
        .agg(pl.col("tag").head(MOST_TAGS).alias("tags"))
        .filter(pl.col("tags").list.len() > 1)
    )


def groups(
    devices: pl.DataFrame, keys: pl.DataFrame
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Devices by their number of tags: (positions in `devices`, rows (n, tags) of their sensors in `keys`).

    -1 for a sensor that is not in `keys`.
    """
    place = keys.select(*KEY).with_row_index("row")
    found = (
        devices.select("device", pl.col("tags").alias("tag"))
        .with_row_index("position")
        .explode("tag")
        .join(place, on=list(KEY), how="left", maintain_order="left")
        .with_columns(pl.col("row").cast(pl.Int64).fill_null(-1))
    )
    size = found.group_by("position", maintain_order=True).len()
    for tags in sorted(size["len"].unique()):
        positions = size.filter(pl.col("len") == tags)["position"].to_numpy().astype(np.int64)
        chosen = found.filter(pl.col("position").is_in(positions))
        yield positions, chosen["row"].to_numpy().reshape(-1, tags)


def fit(units: Floats, keys: pl.DataFrame, part: NDArray[np.bool_]) -> pl.DataFrame:
    """One row per device of at least two tags: the inverse of its tags' correlation, by rows of the matrix.

    `units` (S, T) are the distances of the sensors `keys` in their own scales; fitted where `part`.
    """
    devices = members(keys)
    inverse: list[Any] = [None] * devices.height
    center, scale = np.zeros(devices.height), np.ones(devices.height)
    for positions, rows in groups(devices, keys):
        inside = np.clip(units[rows][:, :, part], -_CLIP_FIT, _CLIP_FIT)
        precision: Any = np.linalg.inv(_correlation(inside))
        normal = np.where(
            part[None, :], np.clip(_normal(units[rows], precision), -_CLIP_FIT, _CLIP_FIT), np.nan
        )
        middle = row_quantiles(normal, (0.5,))
        width = robust_scale(normal)
        phi = autocorrelation_of((normal - middle) / width[:, None])
        means = np.where(part[None, :], weighted_mean(normal, LEVEL_WEIGHTS), np.nan)
        center[positions] = np.nan_to_num(middle[:, 0])
        scale[positions] = robust_scale(means, width * level_ratio(phi))
        for position, matrix in zip(positions, precision, strict=True):
            inverse[position] = matrix.ravel().tolist()
    columns: dict[str, Any] = {"precision": inverse, "mean_center": center, "mean_scale": scale}
    return devices.with_columns(pl.Series(name, c, dtype=SCHEMA[name]) for name, c in columns.items())


def _correlation(x: Floats) -> Floats:
    """Correlation matrices (n, d, d) of n devices, from x (n, d, T); of the cells that a pair both has."""
    tags = x.shape[1]
    known = ~np.isnan(x)
    filled = np.where(known, x, 0.0)
    found = np.zeros((len(x), tags, tags))
    for i in range(tags):
        for j in range(i):
            both = known[:, i] & known[:, j]
            a, b = np.where(both, filled[:, i], 0.0), np.where(both, filled[:, j], 0.0)
            power = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
            enough = both.sum(axis=1) >= 30
            found[:, i, j] = np.where(enough, (a * b).sum(axis=1) / np.maximum(power, 1e-12), 0.0)
    found += found.transpose(0, 2, 1)
    found *= 1 - SHRINKAGE
    found[:, np.arange(tags), np.arange(tags)] = 1.0
    return _positive(found)


def _positive(matrices: Floats) -> Floats:
    """Correlations from pairs need not be those of any data: eigenvalues are raised to `SHRINKAGE`."""
    values, vectors = np.linalg.eigh(matrices)
    poor = np.flatnonzero(values[:, 0] < SHRINKAGE)
    for s in poor:
        matrices[s] = (vectors[s] * np.maximum(values[s], SHRINKAGE)) @ vectors[s].T
    return matrices


def _normal(x: Floats, precision: Floats) -> Floats:
    """Distances of n devices, x (n, d, T), as if they were standard normal: (n, T)."""
    squared, tags = squared_distances(x, precision)
    share = 2 / (9 * np.maximum(tags, 1))
    return np.where(
        tags < 2, np.nan, ((squared / np.maximum(tags, 1)) ** (1 / 3) - (1 - share)) / np.sqrt(share)
    )


def squared_distances(x: Floats, precision: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Squared Mahalanobis distances (n, T) of x (n, d, T), and how many tags each is of.

    For the cells without all tags the others' own distance: that of the missing tags set to where it
    is least.
    """
    known = ~np.isnan(x)
    filled = np.clip(np.where(known, x, 0.0), -_CLIP, _CLIP)
    tags = x.shape[1]
    found = np.zeros((len(x), x.shape[2]))
    for i in range(tags):
        for j in range(i + 1):
            found += (1 if i == j else 2) * precision[:, i, j, None] * filled[:, i] * filled[:, j]
    count = known.sum(axis=1)
    device, column = np.nonzero((count < tags) & (count > 1))
    for begin in range(0, len(device), 20_000):
        d, t = device[begin : begin + 20_000], column[begin : begin + 20_000]
        found[d, t] = _of_known(filled[d, :, t], known[d, :, t], precision[d])
    return np.maximum(found, 0.0), count


def _of_known(x: Floats, known: NDArray[np.bool_], precision: Floats) -> Floats:
    """Distances of rows x (n, d) over the known tags: the missing ones solve for the least distance."""
    absent = ~known
    system = np.where(absent[:, :, None] & absent[:, None, :], precision, 0.0)
    tags = np.arange(x.shape[1])
    system[:, tags, tags] += np.where(known, 1.0, 0.0)
    pull = np.zeros_like(x)
    for j in tags:
        pull -= precision[:, :, j] * x[:, j : j + 1]
    completed = np.where(known, x, np.linalg.solve(system, np.where(absent, pull, 0.0)[:, :, None])[:, :, 0])
    found = np.zeros(len(x))
    for i in tags:
        for j in tags:
            found += precision[:, i, j] * completed[:, i] * completed[:, j]
    return found


def score(params: pl.DataFrame, units: Floats, keys: pl.DataFrame, first: int = 0) -> tuple[Floats, Floats]:
    """Scores and Mahalanobis distances (devices, T - first) of `params`' devices, in their order.

    `units` as in `fit`. NaN where fewer than two of the tags have a reading.
    """
    shape = (params.height, units.shape[1] - first)
    found, distance = np.full(shape, np.nan), np.full(shape, np.nan)
    absent = np.concatenate([units, np.full((1, units.shape[1]), np.nan)])
    center, scale = params["mean_center"].to_numpy()[:, None], params["mean_scale"].to_numpy()[:, None]
    for positions, rows in groups(params, keys):
        tags = rows.shape[1]
        precision = matrix_of(params["precision"][positions], tags * tags).reshape(-1, tags, tags)
        x = absent[rows]
        normal = _normal(x, precision)
        mean = (weighted_mean(normal, LEVEL_WEIGHTS, first=first) - center[positions]) / scale[positions]
        now = normal[:, first:]
        found[positions] = np.where(np.isnan(now), np.nan, np.fmax(now, mean))
        squared, count = squared_distances(x[:, :, first:], precision)
        distance[positions] = np.where(count < 2, np.nan, np.sqrt(squared))
    return found, distance


def keys_of(devices: pl.DataFrame) -> pl.DataFrame:
    """The keys of the devices' joint detectors: device and the reserved tag."""
    return devices.select("device", pl.lit(JOINT_TAG).alias("tag"))
