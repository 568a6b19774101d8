"""Errors whose message is meant for the person who started the run."""

from typing import ClassVar


class AlmanacError(Exception):
    """Says what was given, what was expected and what to do; shown without a traceback.

    `passing` tells whether it may be gone by itself in a while, so that another try is worth it. Most are not: what was
    given stays as it is until someone changes it.
    """

    passing: ClassVar[bool] = False


class ContractError(AlmanacError):
    """The data as a whole breaks its contract: nothing of it can be used."""
