"""LightGBM without pandas, scikit-learn and Dask's frames, which saves a processor second in every worker of a run."""

import ctypes

from models.imports import without

with without("pandas", "sklearn", "matplotlib", "dask.array", "dask.dataframe"):
    import lightgbm as lgb

__all__ = ["lgb", "release_memory"]


def release_memory() -> None:
    """Return freed memory to the system: glibc keeps it for each thread that grew an ensemble, see malloc_trim(3)."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
