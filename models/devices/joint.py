"""The detector of a device over all its tags, for anomalies that no single sensor shows, such as a broken correlation.

The tags' distances from their expected values, each in its own scale, are compared with their usual
correlation: the squared Mahalanobis distance (`whole`), and the part of it in the directions with little joint
variance, less than half that of a single tag (`residual`, as in principal component analysis). Each is transformed
to a standard normal by Wilson & Hilferty's cube root, and used both by itself and as its recent weighted mean in
its own scale; the score is the greatest of the four.
Higher is more anomalous. If tags are missing, the whole is the distance of the others, and there is no residual.

Wilson & Hilferty (1931), PNAS 17(12). The correlation is estimated from distances clipped at three
scales and shrunk slightly towards zero.
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
from models.devices.grid import Floats, matrix_of
from models.quantiles import row_quantiles

MOST_TAGS = 64
"""If a device has more tags, its joint detector uses the first ones by name."""
SHRINKAGE = 0.02
_CLIP_FIT, CLIP = 3.0, 12.0
SCHEMA: dict[str, Any] = {
    "device": pl.String,
    "tags": pl.List(pl.String),
    "whole": pl.List(pl.Float64),
    "whole_center": pl.Float64,
    "whole_scale": pl.Float64,
    "residual": pl.List(pl.Float64),
    "directions": pl.Int64,
    "residual_center": pl.Float64,
    "residual_scale": pl.Float64,
}
"""`whole` and `residual` are matrices by rows; `center` and `scale` those of the recent means."""
_WEAK = 0.5


def members(keys: pl.DataFrame) -> pl.DataFrame:
    """Sensors (device, tag) -> one row per device with at least two tags: device, `tags` by name."""
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
    places = (
        devices.select("device", pl.col("tags").alias("tag"))
        .with_row_index("position")
        .explode("tag")
        .join(place, on=list(KEY), how="left", maintain_order="left")
        .with_columns(pl.col("row").cast(pl.Int64).fill_null(-1))
    )
    size = places.group_by("position", maintain_order=True).len()
    for tags in sorted(size["len"].unique()):
        positions = size.filter(pl.col("len") == tags)["position"].to_numpy().astype(np.int64)
        of_size = places.filter(pl.col("position").is_in(positions))
        yield positions, of_size["row"].to_numpy().reshape(-1, tags)


def fit(units: Floats, keys: pl.DataFrame, part: NDArray[np.bool_]) -> pl.DataFrame:
    """One row per device with at least two tags, see `SCHEMA`.

    `units` (S, T) are the distances of the sensors `keys` in their own scales; `part` selects the columns for the fit.
    """
    devices = members(keys)
    frames = []
    for positions, rows in groups(devices, keys):
        x = units[rows]
        whole, residual, directions = _matrices(np.clip(x[:, :, part], -_CLIP_FIT, _CLIP_FIT))
        columns: dict[str, Any] = {"directions": directions}
        for name, matrix, normal in (
            ("whole", whole, _whole(x, whole)[0]),
            ("residual", residual, _residual(x, residual, directions)),
        ):
            columns[name] = matrix.reshape(len(rows), -1).tolist()
            usual = _usual_mean(normal, part) if name == "residual" else (np.full(len(rows), np.nan),) * 2
            columns[f"{name}_center"], columns[f"{name}_scale"] = usual
        series = [pl.Series(name, c, dtype=SCHEMA[name]) for name, c in columns.items()]
        frames.append(devices[positions].with_columns(series))
    empty = pl.DataFrame(schema=SCHEMA)
    return pl.concat([empty, *(frame.select(list(SCHEMA)) for frame in frames)]).sort("device")


def _matrices(x: Floats) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """The inverse correlation of each device's tags, its part in weak directions, and how many these are."""
    values, vectors = np.linalg.eigh(_correlation(x))
    values = np.maximum(values, SHRINKAGE)
    tags = x.shape[1]
    whole, residual = np.zeros((len(x), tags, tags)), np.zeros((len(x), tags, tags))
    for i in range(tags):
        term = vectors[:, :, None, i] * vectors[:, None, :, i] / values[:, i, None, None]
        whole += term
        residual += np.where((values[:, i] < _WEAK)[:, None, None], term, 0.0)
    return whole, residual, (values < _WEAK).sum(axis=1)


def _usual_mean(normal: Floats, part: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Centre and scale of the recent weighted mean; the scale is at least that of AR(1) noise."""
    inside = np.where(part[None, :], np.clip(normal, -_CLIP_FIT, _CLIP_FIT), np.nan)
    middle = row_quantiles(inside, (0.5,))
    width = robust_scale(inside)
    phi = autocorrelation_of((inside - middle) / width[:, None])
    means = np.where(part[None, :], weighted_mean(inside, LEVEL_WEIGHTS), np.nan)
    return np.nan_to_num(middle[:, 0]), robust_scale(means, np.maximum(width, 0.1) * level_ratio(phi))


def _correlation(x: Floats) -> Floats:
    """Correlation matrices (n, d, d) of n devices, from the cells of x (n, d, T) in which both tags have values."""
    tags = x.shape[1]
    present = ~np.isnan(x)
    values = np.where(present, x, 0.0)
    matrix = np.zeros((len(x), tags, tags))
    for i in range(tags):
        for j in range(i):
            both = present[:, i] & present[:, j]
            a, b = np.where(both, values[:, i], 0.0), np.where(both, values[:, j], 0.0)
            power = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
            enough = both.sum(axis=1) >= 30
            matrix[:, i, j] = np.where(enough, (a * b).sum(axis=1) / np.maximum(power, 1e-12), 0.0)
    matrix += matrix.transpose(0, 2, 1)
    matrix *= 1 - SHRINKAGE
    matrix[:, np.arange(tags), np.arange(tags)] = 1.0
    return matrix


def _normal(squares: Floats, count: Floats | NDArray[np.int64]) -> Floats:
    """Squared distances in `count` directions, transformed to standard normal; NaN for no direction."""
    share = 2 / (9 * np.maximum(count, 1))
    return np.where(
        count < 1, np.nan, ((squares / np.maximum(count, 1)) ** (1 / 3) - (1 - share)) / np.sqrt(share)
    )


def _whole(x: Floats, precision: Floats) -> tuple[Floats, Floats]:
    """The whole distance of x (n, d, T), as a standard normal and unchanged, (n, T); NaN for fewer than two tags."""
    squares, tags = squared_distances(x, precision)
    few = tags < 2
    return np.where(few, np.nan, _normal(squares, tags)), np.where(few, np.nan, np.sqrt(squares))


def _residual(x: Floats, matrix: Floats, directions: NDArray[np.int64]) -> Floats:
    """The distance in the weak directions as a standard normal, (n, T); NaN if a tag is missing."""
    squares = _quadratic(np.clip(x, -CLIP, CLIP), matrix)
    return np.where(directions[:, None] < 1, np.nan, _normal(np.maximum(squares, 0.0), directions[:, None]))


def _quadratic(x: Floats, matrix: Floats) -> Floats:
    total = np.zeros((len(x), x.shape[2]))
    for i in range(x.shape[1]):
        for j in range(i + 1):
            total += (1 if i == j else 2) * matrix[:, i, j, None] * x[:, i] * x[:, j]
    return total


def squared_distances(x: Floats, precision: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Squared Mahalanobis distances (n, T) of x (n, d, T), and the number of tags in each.

    Cells that lack tags have the distance of the others: the minimum over all values of the missing tags.
    """
    present = ~np.isnan(x)
    values = np.clip(np.where(present, x, 0.0), -CLIP, CLIP)
    tags = x.shape[1]
    squares = _quadratic(values, precision)
    count = present.sum(axis=1)
    device, column = np.nonzero((count < tags) & (count > 1))
    for begin in range(0, len(device), 20_000):
        d, t = device[begin : begin + 20_000], column[begin : begin + 20_000]
        squares[d, t] = _of_present(values[d, :, t], present[d, :, t], precision[d])
    return np.maximum(squares, 0.0), count


def _of_present(x: Floats, present: NDArray[np.bool_], precision: Floats) -> Floats:
    """Distances of rows x (n, d) over the tags that are `present`: the minimum over values of the missing tags."""
    absent = ~present
    system = np.where(absent[:, :, None] & absent[:, None, :], precision, 0.0)
    tags = np.arange(x.shape[1])
    system[:, tags, tags] += np.where(present, 1.0, 0.0)
    pull = np.zeros_like(x)
    for j in tags:
        pull -= precision[:, :, j] * x[:, j : j + 1]
    point = np.where(present, x, np.linalg.solve(system, np.where(absent, pull, 0.0)[:, :, None])[:, :, 0])
    distance = np.zeros(len(x))
    for i in tags:
        for j in tags:
            distance += precision[:, i, j] * point[:, i] * point[:, j]
    return distance


def score(params: pl.DataFrame, units: Floats, keys: pl.DataFrame, first: int = 0) -> tuple[Floats, Floats]:
    """Scores and Mahalanobis distances (devices, T - first) of `params`' devices, in their order.

    `units` as in `fit`. NaN if fewer than two of the tags have a reading.
    """
    shape = (params.height, units.shape[1] - first)
    scores, distance = np.full(shape, np.nan), np.full(shape, np.nan)
    absent = np.concatenate([units, np.full((1, units.shape[1]), np.nan)])
    for positions, rows in groups(params, keys):
        group, tags, x = params[positions], rows.shape[1], absent[rows]
        matrices = [
            matrix_of(group[name], tags * tags).reshape(-1, tags, tags) for name in ("whole", "residual")
        ]
        whole, far = _whole(x, matrices[0])
        residual = _residual(x, matrices[1], group["directions"].to_numpy())
        best = np.fmax(
            _with_mean(whole, group, "whole", first), _with_mean(residual, group, "residual", first)
        )
        scores[positions] = np.where(np.isnan(whole[:, first:]), np.nan, best)
        distance[positions] = far[:, first:]
    return scores, distance


def _with_mean(normal: Floats, params: pl.DataFrame, name: str, first: int) -> Floats:
    center, scale = (params[f"{name}_{what}"].to_numpy()[:, None] for what in ("center", "scale"))
    mean = (weighted_mean(normal, LEVEL_WEIGHTS, first=first) - center) / scale
    return np.fmax(normal[:, first:], mean)


def keys_of(devices: pl.DataFrame) -> pl.DataFrame:
    """The keys of the devices' joint detectors: device and the reserved tag."""
    return devices.select("device", pl.lit(JOINT_TAG).alias("tag"))
