"""Errors whose message is meant for the person who started the run."""

from typing import ClassVar


class AlmanacError(Exception):
    """An error that says what was given, what was expected and what to do; shown without a traceback.

    `passing` says whether it may disappear by itself, so that a retry is worthwhile. Most errors do not: the input
    stays wrong until someone corrects it.
    """

    passing: ClassVar[bool] = False


class ContractError(AlmanacError):
    """The data as a whole breaks its contract: none of it can be used."""
