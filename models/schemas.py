"""dataframely without SQLAlchemy and two of its dialects: a quarter of a processor second in every process of a run."""

from models.imports import without

with without("sqlalchemy"):
    import dataframely as dy

__all__ = ["dy"]
