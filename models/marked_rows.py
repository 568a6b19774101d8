"""Rows that a column for their type or status says are not what they seem: cancelled orders, returns."""

import re
from functools import reduce
from operator import or_

import polars as pl

from models.contracts import TEXT

CANCELLED = "cancelled"
"""The rule of rows that do not count because they were cancelled."""
_COLUMN = r"(?i)type|typ$|kind|status|state$|(vorgangs|beleg|transaktions)_?art"
_CANCELLED = (
    r"(?i)^(cancel+ed|cancel+ation|voided|void|rejected|storniert|storno|abgelehnt|annulée?|annullat[oa]|cancelad[oa]|"
    r"anulad[oa]|geannuleerd)$"
)
_RETURN = (
    r"(?i)^(returns?|returned|refund|refunded|credit note|retoure|retouren|rückgabe|gutschrift|retour|remboursement|"
    r"reso|devolución)$"
)


def is_cancelled(raw: pl.DataFrame) -> pl.Series:
    """Whether each row is called cancelled.

    >>> is_cancelled(pl.DataFrame({"Order status": ["Shipped", "Cancelled", None], "note": "void"})).to_list()
    [False, True, False]
    """
    return _marked(raw, _CANCELLED)


def is_return(raw: pl.DataFrame) -> pl.Series:
    """Whether each row is called a return.

    >>> is_return(pl.DataFrame({"Transaction Type": ["Sale", "Return"]}, {"Transaction Type": pl.Categorical})).to_list()
    [False, True]
    """
    return _marked(raw, _RETURN)


def _marked(raw: pl.DataFrame, pattern: str) -> pl.Series:
    marks = [
        raw[name].cast(pl.String).str.strip_chars().str.contains(pattern).fill_null(value=False)
        for name, kind in raw.schema.items()
        if kind in TEXT and re.search(_COLUMN, name)
    ]
    return reduce(or_, marks, pl.repeat(False, raw.height, eager=True))
