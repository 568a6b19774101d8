"""What a store refuses or loses: its error, which faults pass by themselves, and what to do about the others."""

import errno
import os
import re

from deltalake.exceptions import CommitFailedError
from tenacity import retry, retry_if_exception, stop_after_delay, wait_random_exponential

from models.errors import AlmanacError


class StoreError(AlmanacError):
    """The store cannot be opened, read or written."""

    passing = True


def broke_off(error: BaseException) -> bool:
    """Whether a request got no answer: its connection could not be made or was lost."""
    return re.search(r"error sending request|request or response body error", str(error)) is not None


_FULL = (
    "Free some space, and run it again: nothing half-written is visible to readers, and what is done is kept."
)
_LASTING = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: "Mount it writable, and run it again.",
    errno.EACCES: "Give this user the right to write there, or another store with --store or ALMANAC_STORE.",
}
"""Errors of a file system that trying again does not end, and what to do."""


def lasting_error(uri: str, error: BaseException) -> "StoreError | None":
    """What to say of an error that trying again does not end, such as of a full disk; None for any other."""
    number = error.errno if isinstance(error, OSError) else None
    named = re.search(r"os error (\d+)", str(error))
    number = int(named[1]) if named else number
    if number not in _LASTING:
        return None
    return StoreError(f"{uri}: the store cannot be written: {os.strerror(number)}. {_LASTING[number]}")


def lost_race(error: BaseException | None) -> bool:
    return isinstance(error, CommitFailedError) or "already exists" in str(error)


patiently = retry(
    retry=retry_if_exception(broke_off),
    wait=wait_random_exponential(multiplier=0.1, max=2),
    stop=stop_after_delay(10),
    reraise=True,
)
"""For what may be done twice: done again while a request gets no answer, for ten seconds.

The object store has its own retries, which last some three seconds and know only some of the ways in
which a connection is lost. An address that is wrong is to be told soon, hence no more than ten.
"""


def first_line(error: BaseException | None) -> str:
    """What an error says: what the Blob service answered, or the first line."""
    text = str(error).strip()
    answered = re.search(r"<Message>([^<\n]+)", text)
    return answered[1] if answered else text.split("\n")[0][:300]
