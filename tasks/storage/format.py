"""The format of a store: a number in a file, so that a version that does not know the format refuses to read it."""

from pathlib import Path

import obstore.exceptions

from tasks.storage.faults import StoreError, first_line
from tasks.storage.store import Store
from tasks.storage.uris import is_remote

FORMAT = 1
"""The format that this version writes. With a change that an older version would misread, increment it and describe the
upgrade in docs/upgrading.md."""
PATH = "format.json"


def check_format(store: Store) -> None:
    """Raise `StoreError` if a store cannot be read, or has a format that this version does not know.

    A store without the file has format 1.
    """
    if not is_remote(store.uri) and not Path(store.uri, PATH).exists():
        return
    try:
        content = store.get_json(PATH)
    except (OSError, obstore.exceptions.BaseError) as error:
        raise StoreError(f"{store.uri}: the store cannot be read: {first_line(error)}") from None
    number = content["format"] if content else FORMAT
    if number > FORMAT:
        raise StoreError(
            f"{store.uri}: the store has format {number}; this version of Almanac knows formats up to {FORMAT}. Use the "
            "version that wrote it, or a newer one; docs/upgrading.md says which."
        )


def state_format(store: Store) -> None:
    """Write the format into a store that does not state it yet."""
    store.create(PATH, f'{{"format": {FORMAT}}}\n'.encode())
