"""The store: Delta tables and small files under one URI, on local disk or in Azure Blob Storage.

Credentials come only from the environment (managed identity or the standard `AZURE_*` variables). One object store
library reads and writes everything, so there is one way to configure it.
"""

import functools
import hashlib
import io
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import obstore
import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, TableNotFoundError
from obstore.exceptions import AlreadyExistsError, NotFoundError
from obstore.store import ObjectStore
from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from tasks.storage.faults import (
    StoreError,
    VersionError,
    broke_off,
    first_line,
    lasting_error,
    lost_race,
    patiently,
)
from tasks.storage.tables import FILES_OF_A_PARTITION, Table, compact, crowded_partitions, scan_table
from tasks.storage.uris import check_holds_tables, check_uri, encoded, object_store

_TRIES = 8

T = TypeVar("T")


def _with_advice(write: Callable[..., T]) -> Callable[..., T]:
    """Wrap a writing method of a store: faults that a retry does not cure become a `StoreError`."""

    @functools.wraps(write)
    def with_advice(store: "Store", *args: Any, **kwargs: Any) -> T:
        try:
            return write(store, *args, **kwargs)
        except Exception as error:
            if fault := lasting_error(store.uri, error):
                raise fault from None
            raise

    return with_advice


@dataclass(frozen=True)
class Store:
    """Tables and files under `uri`. Cheap to create; only its URI is passed between processes."""

    uri: str

    def __post_init__(self) -> None:
        check_uri(self.uri)
        uri = self.uri.rstrip("/")
        object.__setattr__(self, "uri", uri if "://" in uri else str(Path(uri).expanduser().resolve()))
        check_holds_tables(self.uri)

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        return Store, (self.uri,)

    # files

    @cached_property
    def files(self) -> ObjectStore:
        """The store's objects; a local folder is created at the first access."""
        try:
            return object_store(self.uri, create=True)
        except (OSError, obstore.exceptions.BaseError) as error:
            raise StoreError(_cannot_write(self.uri, error)) from None

    def check_writable(self) -> None:
        """Raise `StoreError` unless a file can be written and removed."""
        probe = f"_probe-{hashlib.sha256(str(datetime.now(UTC)).encode()).hexdigest()[:12]}"
        try:
            self.files.put(probe, b"")
            self.files.delete(probe)
        except (OSError, obstore.exceptions.BaseError) as error:
            raise StoreError(_cannot_write(self.uri, error)) from None

    @_with_advice
    @patiently
    def put(self, path: str, content: bytes) -> None:
        """Write a file as a whole: readers see all of it, or its previous content."""
        self.files.put(path, content)

    @_with_advice
    @patiently
    def create(self, path: str, content: bytes) -> bool:
        """Write a file unless it exists; return whether it was written. Of several writers one wins."""
        try:
            self.files.put(path, content, mode="create")
        except AlreadyExistsError:
            return False
        return True

    @patiently
    def get(self, path: str) -> bytes | None:
        """The content of a file, None if it does not exist."""
        try:
            return bytes(self.files.get(path).bytes())
        except (NotFoundError, FileNotFoundError):
            return None

    @patiently
    def size(self, path: str) -> int | None:
        """The size of a file in bytes, None if it does not exist."""
        try:
            return int(self.files.head(path)["size"])
        except (NotFoundError, FileNotFoundError):
            return None

    @patiently
    def names(self, folder: str) -> list[str]:
        """Paths of all files under a folder, sorted."""
        return sorted(str(item["path"]) for batch in self.files.list(folder + "/") for item in batch)

    def put_json(self, path: str, value: Any) -> None:
        self.put(path, json.dumps(value, indent=1, sort_keys=True, default=str).encode())

    def get_json(self, path: str) -> Any | None:
        content = self.get(path)
        return None if content is None else json.loads(content)

    def put_frame(self, path: str, frame: pl.DataFrame) -> int:
        """Write a frame as one Parquet file, as a whole; return its size in bytes."""
        content = _parquet(frame)
        self.put(path, content)
        return len(content)

    def put_data_file(self, stem: str, frame: pl.DataFrame) -> tuple[str, int]:
        """Write a frame as a Parquet file whose name ends in a digest of its content; return its path and size.

        Files that readers of a table see never change: different content is a different file.
        """
        content = _parquet(frame)
        path = f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}.parquet"
        self.put(path, content)
        return path, len(content)

    def write_source(self, path: str, frame: pl.DataFrame) -> str:
        """Write a frame as a Parquet file that can be ingested; return its URI."""
        self.put_frame(path, frame)
        return self.uri_of(path)

    def get_frame(self, path: str) -> pl.DataFrame | None:
        """A frame from a Parquet file, None if the file does not exist."""
        content = self.get(path)
        return None if content is None else pl.read_parquet(content)

    def uri_of(self, path: str) -> str:
        return f"{self.uri}/{path}"

    def url_of(self, path: str) -> str:
        """The address at which a table is created."""
        return encoded(self.uri_of(path))

    # tables

    def table(self, name: str, version: int | None = None) -> DeltaTable:
        """A table at a version (default: the newest). Raises `VersionError` if only the version does not exist, or
        `StoreError`."""
        try:
            return _open(self.uri_of(name), version)
        except Exception as error:
            if version is not None and (newest := self.version(name)) is not None:
                raise VersionError(
                    f"{self.uri}: table '{name}' no longer has version {version}; the newest is {newest}. "
                    "A version is readable until its files are vacuumed."
                ) from None
            if isinstance(error, TableNotFoundError):
                raise StoreError(
                    f"{self.uri}: there is no table '{name}'. Ingest data first, or give another --store."
                ) from None
            raise StoreError(f"{self.uri}: table '{name}' cannot be read: {first_line(error)}") from None

    def find_table(self, name: str) -> DeltaTable | None:
        """The newest version of a table, None if it does not exist."""
        try:
            return _open(self.uri_of(name))
        except TableNotFoundError:
            return None
        except Exception as error:
            raise StoreError(f"{self.uri}: table '{name}' cannot be read: {first_line(error)}") from None

    def version(self, name: str) -> int | None:
        """The number of a table's newest version, None if it does not exist."""
        table = self.find_table(name)
        return None if table is None else int(table.version())

    def find(self, name: str) -> pl.LazyFrame | None:
        """A table's rows, lazily; None if it does not exist."""
        table = self.find_table(name)
        return None if table is None else scan_table(table)

    def scan(self, name: str, version: int | None = None, shard: int | None = None) -> pl.LazyFrame:
        """A table's rows, lazily; with `shard`, only the files of that shard."""
        return scan_table(self.table(name, version), shard)

    def rows(self, name: str, version: int | None = None) -> int:
        """The number of a table's rows, from its log; 0 if it does not exist."""
        table = self.find_table(name) if version is None else self.table(name, version)
        return 0 if table is None else int(pl.DataFrame(table.get_add_actions())["num_records"].sum())

    def as_ofs(self, name: str) -> list[Any]:
        """Each `as_of` of a table's partitions, from its log, ascending; none if the table does not exist."""
        if (table := self.find_table(name)) is None:
            return []
        files = pl.DataFrame(table.get_add_actions(flatten=True))
        return [] if files.is_empty() else files["partition.as_of"].unique().sort().to_list()

    def append(self, name: str, frame: pl.DataFrame, *, once: str, partition_by: str | None = None) -> bool:
        """Append rows in one commit, unless a commit named `once` exists; return whether rows were appended.

        A table without partitions is compacted from time to time; see `compact_at_times`.
        """

        def attempt() -> bool:
            table = self.find_table(name)
            if table is not None and table.transaction_version(once) is not None:
                return False
            write_deltalake(
                self.url_of(name) if table is None else table,
                frame,
                mode="error" if table is None else "append",
                partition_by=partition_by,
                schema_mode=None if table is None else "merge",
                commit_properties=CommitProperties(
                    app_transactions=[Transaction(once, 1)], max_commit_retries=0
                ),
            )
            return True

        is_new = self.retrying(name, attempt)
        if is_new and partition_by is None:
            self.compact_at_times(name)
        return is_new

    def overwrite(self, name: str, frame: pl.DataFrame) -> None:
        """Replace all rows of a table in one commit, or create it; for an attempt of `retrying`."""
        table = self.find_table(name)
        write_deltalake(
            self.url_of(name) if table is None else table,
            frame,
            mode="error" if table is None else "overwrite",
            commit_properties=CommitProperties(max_commit_retries=0),
        )

    def compact_at_times(self, name: str) -> None:
        """Merge the small files of partitions that have many, so that readers open few files.

        If another writer commits first, the next call does it.
        """
        table = self.table(name)
        if (partitions := crowded_partitions(table, FILES_OF_A_PARTITION)).height:
            with suppress(CommitFailedError):
                compact(table, partitions["partition"].to_list())
                table.create_checkpoint()

    def retrying(self, name: str, attempt: Callable[[], T]) -> T:
        """The result of `attempt`, which is repeated if another writer commits first or the connection is lost.

        An attempt must therefore begin by checking whether an earlier one succeeded. Raises `StoreError` after a
        bounded number of attempts.
        """
        attempts = Retrying(
            retry=retry_if_exception(lambda error: lost_race(error) or broke_off(error)),
            wait=wait_random_exponential(multiplier=0.02),
            stop=stop_after_attempt(_TRIES),
        )
        try:
            return attempts(attempt)
        except RetryError as error:
            last_error = error.last_attempt.exception()
        except Exception as error:
            if fault := lasting_error(self.uri, error):
                raise fault from None
            raise
        why = "other writers came first" if lost_race(last_error) else "the connection was lost"
        raise StoreError(
            f"{self.uri}: table '{name}': {why} {_TRIES} times. "
            f"Run it again; finished writes are not repeated. The last error: {first_line(last_error)}"
        )


@patiently
def _open(uri: str, version: int | None = None) -> DeltaTable:
    return Table(uri, version)


def digest(value: Any) -> str:
    """SHA-256 of a JSON-like value, independent of the order of its mappings."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", compression_level=1, statistics=True)
    return buffer.getvalue()


def _cannot_write(uri: str, error: Exception) -> str:
    return (
        f"{uri}: the store cannot be written: {first_line(error)}\n"
        "Expected a folder or container that this user may write. Give another with --store or ALMANAC_STORE."
    )
