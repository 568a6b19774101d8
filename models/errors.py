"""Errors whose message is meant for the person who started the run."""

from typing import ClassVar


class AlmanacError(Exception):
    """An error that says what was given, what was expected and what to do; shown without a traceback.

    `is_temporary` says whether it may disappear by itself, so that a retry is worthwhile. Most do not: the input
    stays wrong until someone corrects it.
    """

    is_temporary: ClassVar[bool] = False


class ContractError(AlmanacError):
    """The data breaks its contract as a whole: none of it can be used."""
