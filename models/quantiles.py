"""Quantiles of many rows at once."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def row_quantiles(x: Floats, quantiles: tuple[float, ...]) -> Floats:
    """Quantiles of each row without NaN, shape (rows, quantiles); NaN for a row without values.

    Linear between the order statistics, like numpy's default.
    """
    sorted_values = np.sort(x, axis=1)
    count = (~np.isnan(x)).sum(axis=1)
    result = np.full((len(x), len(quantiles)), np.nan)
    some = count > 0
    rows = np.flatnonzero(some)
    for i, q in enumerate(quantiles):
        position = q * (count[some] - 1)
        low = np.floor(position).astype(np.int64)
        high = np.ceil(position).astype(np.int64)
        below, above = sorted_values[rows, low], sorted_values[rows, high]
        result[some, i] = below + (above - below) * (position - low)
    return result
