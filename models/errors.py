"""Errors whose message is meant for the person who started the run."""


class AlmanacError(Exception):
    """Says what was given, what was expected and what to do; shown without a traceback."""


class ContractError(AlmanacError):
    """The data as a whole breaks its contract: nothing of it can be used."""
