"""LightGBM without pandas, scikit-learn and Dask's frames, which saves a processor second in every worker of a run."""

from models.imports import without

with without("pandas", "sklearn", "matplotlib", "dask.array", "dask.dataframe"):
    import lightgbm as lgb

__all__ = ["lgb"]
