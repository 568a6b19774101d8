"""Conformal calibration: quantile forecasts are shifted so that held-out data lies below each with its probability."""

from collections.abc import Sequence

import numpy as np
import polars as pl

BORROWED = 30.0
"""Number of clusters as which the offset of the larger group counts in the offset of a group."""


def fit_offsets(
    residuals: pl.DataFrame,
    quantiles: Sequence[float],
    by: Sequence[str],
    cluster: Sequence[str],
    alone: Sequence[str] = (),
) -> pl.DataFrame:
    """Offsets to add to each quantile forecast, for groups of rows and for successively larger groups.

    `residuals` has, for the i-th of `quantiles`, a column `r<i>`: the actual minus that forecast on held-out
    rows, on the scale to which the offsets are added. The offset of a group is the residuals'
    quantile of the same level: with it, that share of the held-out rows lies below the forecast. Rows with the same
    values of `cluster` share their errors, so they count once. The offset of a group of n clusters is a weighted mean:
    its own with weight n, and that of the larger group, without its last column of `by`, with weight `BORROWED`. The
    group of all rows borrows from zero, and so do the groups `alone`, values of the first of `by`: the errors of others
    say nothing about them. Without residuals, their offsets are zero.

    Columns: `by` (null stands for any), `clusters`, `times` (values of the last of `cluster`), and `offset<i>`. Sorted,
    the largest group last.

    Romano, Patterson & Candes (2019), Conformalized quantile regression, NeurIPS; one quantile at a time.

    >>> held_out = pl.DataFrame({"kind": ["a"] * 99, "week": range(99), "r0": range(99)})
    >>> fit_offsets(held_out, [0.5], ["kind"], ["week"])["offset0"].round(1).to_list()
    [46.3, 37.6]
    """
    names = [f"offset{i}" for i in range(len(quantiles))]
    own = [pl.col(f"r{i}").quantile(q, "linear").alias(f"offset{i}") for i, q in enumerate(quantiles)]
    clusters = {"clusters": pl.struct(cluster).n_unique(), "times": pl.col(cluster[-1]).n_unique()}
    counts = [count.cast(pl.Float64).alias(name) for name, count in clusters.items()]
    distinct = residuals.select(*by, *cluster).unique()
    whole = pl.concat([distinct.select(counts), residuals.select(own)], how="horizontal").with_columns(
        _mixed(pl.col(name), pl.lit(0.0)).alias(name) for name in names
    )
    levels = [whole]
    for depth in range(1, len(by) + 1):
        group, larger = list(by[:depth]), list(by[: depth - 1])
        parents = levels[-1].select(*larger, *(pl.col(name).alias(f"larger_{name}") for name in names))
        smaller = distinct.group_by(group).agg(counts).join(residuals.group_by(group).agg(own), on=group)
        groups = smaller.join(parents, on=larger) if larger else _with_first_parents(smaller, parents, alone)
        mixtures = (_mixed(pl.col(name), pl.col(f"larger_{name}")).alias(name) for name in names)
        levels.append(groups.with_columns(mixtures).drop(f"larger_{name}" for name in names))
    absent = pl.DataFrame(
        {by[0]: [value for value in alone if value not in residuals[by[0]]]}, {by[0]: pl.String}
    )
    levels.append(absent.with_columns(pl.lit(0.0).alias(name) for name in (*clusters, *names)))
    return pl.concat(levels, how="diagonal").select(*by, *clusters, *names).sort(by, nulls_last=True)


def _with_first_parents(groups: pl.DataFrame, whole: pl.DataFrame, alone: Sequence[str]) -> pl.DataFrame:
    """The largest groups with the offsets of all rows, from which they borrow; zero for those `alone`."""
    is_alone = pl.col(groups.columns[0]).is_in(alone)
    return groups.join(whole, how="cross").with_columns(
        pl.when(is_alone).then(0.0).otherwise(name).alias(name) for name in whole.columns
    )


def _mixed(own: pl.Expr, larger: pl.Expr) -> pl.Expr:
    n = pl.col("clusters")
    return (n * own + BORROWED * larger) / (n + BORROWED)


def calibrated(
    values: np.ndarray, rows: pl.DataFrame, offsets: pl.DataFrame, by: Sequence[str]
) -> np.ndarray:
    """`values` (rows, quantiles) with the offsets of their groups added, and rising along each row.

    A group that `offsets` lacks takes the offsets of the next larger group; without any, it is not shifted.
    """
    names = [name for name in offsets.columns if name.startswith("offset")]
    shifts = np.zeros((rows.height, len(names)))
    for depth in range(len(by) + 1):
        group, rest = list(by[:depth]), list(by[depth:])
        level = offsets.filter(
            *[pl.col(c).is_not_null() for c in group], *[pl.col(c).is_null() for c in rest]
        )
        if level.is_empty():
            continue
        of_level = (
            rows.select(group).join(level.select(*group, *names), on=group, how="left", maintain_order="left")
            if group
            else level.select(names).select(pl.all().repeat_by(rows.height).explode())
        )
        has_offset = of_level[names[0]].is_not_null().to_numpy()
        shifts = np.where(has_offset[:, None], of_level.select(names).to_numpy(), shifts)
    return np.maximum.accumulate(values + shifts, axis=1)
