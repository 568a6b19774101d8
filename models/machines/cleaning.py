"""Rows as sources write them -> the same rows in one spelling, before their contract is checked.

The same rules hold for all tables: spaces around a name do not count. A machine's id that is a whole number
with decimals is that number: `1.0`, which pandas writes if other ids are missing, is machine `1`. Components
differ neither by case nor by spaces: `Pump ` is `pump`. NaN and infinite readings are missing, as in
pandas, numpy and Spark; the row's other readings are kept. Times are read as everywhere, see `models.times`.
"""

import polars as pl

from models.contracts import ROW

_WHOLE = r"^([+-]?\d+)\.0+$"


def tidy_rows(raw: pl.DataFrame) -> pl.DataFrame:
    """`raw` with ids, components, errors, models and readings in one spelling.

    >>> tidy_rows(pl.DataFrame({"machine_id": [1.0, 2.0], "component": [" Oil  Pump", "oil pump"]})).rows()
    [('1', 'oil pump'), ('2', 'oil pump')]
    """
    changes = []
    for name, dtype in raw.schema.items():
        column = pl.col(name)
        if name == "machine_id":
            changes.append(column.cast(pl.String).str.strip_chars().str.replace(_WHOLE, "${1}"))
        elif name == "component":
            changes.append(_named(column).str.to_lowercase())
        elif name in ("error", "model"):
            changes.append(_named(column))
        elif dtype.is_float() and name != ROW:
            changes.append(pl.when(column.is_finite()).then(column).alias(name))
    return raw.with_columns(changes)


def words(column: pl.Expr) -> pl.Expr:
    """The words of a text, in lower case, with a space instead of any punctuation between them."""
    return column.str.to_lowercase().str.replace_all(r"[^\pL\pN+#%]+", " ").str.strip_chars()


def _named(column: pl.Expr) -> pl.Expr:
    return column.cast(pl.String).str.strip_chars().str.replace_all(r"\s+", " ")
