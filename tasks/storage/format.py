"""The format of a store: a number in a file of it, so that a version that does not know it says so and reads nothing."""

from pathlib import Path

import obstore.exceptions

from tasks.storage.faults import StoreError, first_line
from tasks.storage.store import Store
from tasks.storage.uris import is_remote

FORMAT = 1
"""What this version writes. A change that an older version would misread counts it up, and adds the way from the last one
to docs/upgrading.md."""
PATH = "format.json"


def check_format(store: Store) -> None:
    """Raise `StoreError` for a store that cannot be read, or of a format that this version does not know.

    Without the file, it is 1.
    """
    if not is_remote(store.uri) and not Path(store.uri, PATH).exists():
        return
    try:
        known = store.get_json(PATH)
    except (OSError, obstore.exceptions.BaseError) as error:
        raise StoreError(f"{store.uri}: the store cannot be read: {first_line(error)}") from None
    number = known["format"] if known else FORMAT
    if number > FORMAT:
        raise StoreError(
            f"{store.uri}: the store has format {number}; this version of Almanac knows formats up to {FORMAT}. Use the "
            "version that wrote it, or a newer one; docs/upgrading.md says which."
        )


def state_format(store: Store) -> None:
    """Have a store say its format; one that says it already is left as it is."""
    store.create(PATH, f'{{"format": {FORMAT}}}\n'.encode())
