"""Faults of a store: its error, which faults pass by themselves, and what to do about the others."""

import errno
import os
import re

from deltalake.exceptions import CommitFailedError
from tenacity import retry, retry_if_exception, stop_after_delay, wait_random_exponential

from models.errors import AlmanacError


class StoreError(AlmanacError):
    """The store cannot be opened, read or written."""

    is_temporary = True


class VersionError(StoreError):
    """A table no longer has a version."""


def broke_off(error: BaseException) -> bool:
    """Whether a request got no answer, because its connection failed or was lost."""
    return re.search(r"error sending request|request or response body error", str(error)) is not None


_FULL = "Free some space and run it again: readers see nothing half-written, and finished work is kept."
_LASTING = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: "Mount it writable and run it again.",
    errno.EACCES: "Give this user the right to write there, or name another store with --store or ALMANAC_STORE.",
}
"""Errors of a file system that a retry does not cure, and what to do."""


def lasting_error(uri: str, error: BaseException) -> "StoreError | None":
    """The `StoreError` for an error that a retry does not cure, such as a full disk; None for any other."""
    number = error.errno if isinstance(error, OSError) else None
    match = re.search(r"os error (\d+)", str(error))
    number = int(match[1]) if match else number
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
"""Retries an idempotent operation for ten seconds while requests get no answer.

The object store has its own retries, which last about three seconds and cover only some kinds of lost connections. A
wrong address should be reported soon, hence at most ten seconds.
"""


def first_line(error: BaseException | None) -> str:
    """The message of an error: the answer of the Blob service, or else the first line."""
    text = str(error).strip()
    answer = re.search(r"<Message>([^<\n]+)", text)
    return answer[1] if answer else text.split("\n")[0][:300]
