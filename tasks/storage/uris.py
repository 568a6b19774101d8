"""Addresses of stores and sources: local folders, and containers in Blob Storage."""

import os
import re
from pathlib import Path
from urllib.parse import quote

import obstore
from obstore.store import LocalStore, ObjectStore

from models.addresses import refuse_credential
from tasks.storage.faults import StoreError

REMOTE = ("az://", "abfss://", "abfs://", "azure://")


def is_remote(uri: str) -> bool:
    """Whether `uri` is in Blob Storage."""
    return uri.startswith(REMOTE)


def check_uri(uri: str) -> None:
    """Raise `StoreError` for a URI that is neither a folder nor in Blob Storage, `CredentialError` for one with a key."""
    refuse_credential("The address of a store", uri)
    if not is_remote(uri) and "://" in uri:
        scheme = uri.split("://")[0]
        raise StoreError(
            f"{scheme}:// is not a kind of store. Expected a local folder, az:// or abfss://. "
            "Give one with --store or ALMANAC_STORE."
        )


def object_store(uri: str, *, create: bool = False) -> ObjectStore:
    """The objects under a folder or container URI. Raises the errors of `check_uri`."""
    check_uri(uri)
    return obstore.store.from_url(encoded(uri)) if is_remote(uri) else LocalStore(uri, mkdir=create)


def encoded(uri: str) -> str:
    """A folder or container URI as a URL, which opens a Delta table whatever characters its path has.

    Paths are given unencoded, also in Blob Storage: a `%` stands for itself.

    >>> encoded("az://data/my store"), encoded("/srv/50%")
    ('az://data/my%20store', 'file:///srv/50%25')
    """
    if not is_remote(uri):
        return Path(uri).absolute().as_uri()
    scheme, _, rest = uri.partition("://")
    container, slash, path = rest.partition("/")
    return f"{scheme}://{container}{slash}{quote(path)}"


def link_of(page: str) -> str:
    """The link to a page in a store: over HTTP if `ALMANAC_PAGES_URL` serves the pages of that store.

    Otherwise it is the page's address, which a browser opens from its address bar if it is a local file.

    >>> link_of("/srv/my store/page.html"), link_of("az://almanac/page.html")
    ('file:///srv/my%20store/page.html', 'az://almanac/page.html')
    """
    url, store = (os.environ.get(name, "").rstrip("/") for name in ("ALMANAC_PAGES_URL", "ALMANAC_STORE"))
    if url and store and page.startswith(f"{store}/"):
        return f"{url}/{quote(page.removeprefix(f'{store}/'))}"
    return page if "://" in page else Path(page).as_uri()


def check_holds_tables(uri: str) -> None:
    """Raise `StoreError` for a path that a library would misread, looking elsewhere for a file.

    delta-rs reads `\\` as `/` and decodes `%20` twice, and polars takes a folder `a=b` for a partition. In a local path,
    delta-rs also panics at `[ ] ^ |`, and `?` begins the query of a SQLite address, such as that of MLflow's records.
    """
    on_disk = "" if is_remote(uri) else "[ ] ^ | ? "
    unfit = re.search(rf"[\\={re.escape(on_disk.replace(' ', ''))}]|%[0-9A-Fa-f]{{2}}", uri)
    if unfit:
        raise StoreError(
            f"{uri}: no store can be kept {'on disk' if on_disk else 'in Blob Storage'} at a path with '{unfit[0]}'. "
            f"Spaces, % and letters of any alphabet are fine; {on_disk}\\ = and % before two hexadecimal digits are not. "
            "Give another folder."
        )
