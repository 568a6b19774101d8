"""dataframely without SQLAlchemy and two of its dialects; saves a quarter of a processor second in every process."""

from models.imports import without

with without("sqlalchemy"):
    import dataframely as dy

__all__ = ["dy"]
