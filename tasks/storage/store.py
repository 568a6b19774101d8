"""The store: Delta tables and small files under one URI, on local disk or in Azure Blob.

Credentials come from the environment only (managed identity or the standard `AZURE_*` variables);
one object store library reads and writes everything, so there is one way to configure it.
"""

import errno
import functools
import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import obstore
import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, TableNotFoundError
from deltalake.transaction import AddAction
from obstore.exceptions import AlreadyExistsError, NotFoundError
from obstore.store import LocalStore, ObjectStore
from tenacity import (
    RetryError,
    Retrying,
    retry,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from models.addresses import refuse_credential
from models.errors import AlmanacError

REMOTE = ("az://", "abfss://", "abfs://", "azure://")
_TRIES = 8
FILE_BYTES, ROW_GROUP = 16_000_000, 100_000
"""Data files are held in memory until they are this large, and row groups until they have so many rows."""
FILES_OF_A_PARTITION = 20
"""So many small files of a partition, or of a table without, are made one by the writer who finds them."""

T = TypeVar("T")


class StoreError(AlmanacError):
    """The store cannot be opened, read or written."""

    passing = True


def _broke_off(error: BaseException) -> bool:
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


def _lost_race(error: BaseException | None) -> bool:
    return isinstance(error, CommitFailedError) or "already exists" in str(error)


patiently = retry(
    retry=retry_if_exception(_broke_off),
    wait=wait_random_exponential(multiplier=0.1, max=2),
    stop=stop_after_delay(10),
    reraise=True,
)
"""For what may be done twice: done again while a request gets no answer, for ten seconds.

The object store has its own retries, which last some three seconds and know only some of the ways in
which a connection is lost. An address that is wrong is to be told soon, hence no more than ten.
"""


def _telling(write: Callable[..., T]) -> Callable[..., T]:
    """A method of a store that writes, with a `StoreError` for what trying again does not end."""

    @functools.wraps(write)
    def telling(store: "Store", *args: Any, **kwargs: Any) -> T:
        try:
            return write(store, *args, **kwargs)
        except Exception as error:
            if told := lasting_error(store.uri, error):
                raise told from None
            raise

    return telling


def is_remote(uri: str) -> bool:
    """Whether `uri` is in Blob storage."""
    return uri.startswith(REMOTE)


def check_uri(uri: str) -> None:
    """Raise `StoreError` for a URI that is neither a folder nor in Blob storage, `CredentialError` for one with a key."""
    refuse_credential("The address of a store", uri)
    if not is_remote(uri) and "://" in uri:
        scheme = uri.split("://")[0]
        raise StoreError(
            f"{scheme}:// is not a kind of store. Expected a local folder, az:// or abfss://. "
            "Give one with --store or ALMANAC_STORE."
        )


def object_store(uri: str, *, create: bool = False) -> ObjectStore:
    """The objects under a folder or container URI; see `check_uri` for what it raises."""
    check_uri(uri)
    return obstore.store.from_url(encoded(uri)) if is_remote(uri) else LocalStore(uri, mkdir=create)


def encoded(uri: str) -> str:
    """A folder or container URI as a URL, which is what opens a Delta table whatever its path consists of.

    Paths are written as they are, in Blob storage, too: a `%` stands for itself.

    >>> encoded("az://data/my store"), encoded("/srv/50%")
    ('az://data/my%20store', 'file:///srv/50%25')
    """
    if not is_remote(uri):
        return Path(uri).absolute().as_uri()
    scheme, _, rest = uri.partition("://")
    container, slash, path = rest.partition("/")
    return f"{scheme}://{container}{slash}{quote(path)}"


def check_holds_tables(uri: str) -> None:
    """Raise `StoreError` for a path at which delta-rs or polars would look for a Delta table elsewhere."""
    unfit = re.search(r"[][^|\\*?=]|%[0-9A-Fa-f]{2}", uri)
    if unfit:
        raise StoreError(
            f"{uri}: no Delta table can be kept at a path with '{unfit[0]}'. Spaces, % and letters of any alphabet "
            "are fine; [ ] ^ | \\ * ? = and % before two hexadecimal digits are not. Give another folder."
        )


class Table(DeltaTable):
    """A Delta table whose URI is given as it is, and not as a URL."""

    def __init__(self, uri: str, version: int | None = None) -> None:
        check_holds_tables(uri)
        super().__init__(encoded(uri), version=version)
        self._uri = uri.rstrip("/")

    def file_uris(self, *arguments: Any, **options: Any) -> list[str]:
        """The addresses of the data files as polars reads them: the table's path is plain."""
        url = encoded(self._uri)
        root = url if is_remote(url) else url.removeprefix("file://")
        found = super().file_uris(*arguments, **options)
        return [self._uri + one.removeprefix(root) if one.startswith(f"{root}/") else one for one in found]


@dataclass(frozen=True)
class Store:
    """Tables and files under `uri`. Cheap to make; hands over nothing but its URI between processes."""

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
        """The store's objects; a local folder is made when it is first asked for."""
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

    @_telling
    @patiently
    def put(self, path: str, content: bytes) -> None:
        """Write a file as a whole: readers see all of it or what was there before."""
        self.files.put(path, content)

    @_telling
    @patiently
    def create(self, path: str, content: bytes) -> bool:
        """Write a file unless it exists; whether it was written. Of several writers one wins."""
        try:
            self.files.put(path, content, mode="create")
        except AlreadyExistsError:
            return False
        return True

    @patiently
    def get(self, path: str) -> bytes | None:
        """The content of a file, None where there is none."""
        try:
            return bytes(self.files.get(path).bytes())
        except (NotFoundError, FileNotFoundError):
            return None

    @patiently
    def size(self, path: str) -> int | None:
        """Size of a file in bytes, None where there is none."""
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
        """Write a frame as one Parquet file, as a whole; its size in bytes."""
        content = _parquet(frame)
        self.put(path, content)
        return len(content)

    def put_part(self, stem: str, frame: pl.DataFrame) -> tuple[str, int]:
        """Write a frame as a Parquet file whose name ends in a digest of its content; its path and size.

        So a file that readers of a table see is never changed: other content is another file.
        """
        content = _parquet(frame)
        path = f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}.parquet"
        self.put(path, content)
        return path, len(content)

    def write_source(self, path: str, frame: pl.DataFrame) -> str:
        """Write a frame as a Parquet file that can be ingested; its URI."""
        self.put_frame(path, frame)
        return self.uri_of(path)

    def get_frame(self, path: str) -> pl.DataFrame | None:
        """A frame from a Parquet file, None where there is none."""
        content = self.get(path)
        return None if content is None else pl.read_parquet(content)

    def uri_of(self, path: str) -> str:
        return f"{self.uri}/{path}"

    def url_of(self, path: str) -> str:
        """The address under which a table is created."""
        return encoded(self.uri_of(path))

    # tables

    def table(self, name: str, version: int | None = None) -> DeltaTable:
        """A table at a version (default: the newest). Raises `StoreError` where it does not exist."""
        try:
            return _open(self.uri_of(name), version)
        except TableNotFoundError:
            raise StoreError(
                f"{self.uri}: there is no table '{name}'. Ingest data first, or give another --store."
            ) from None
        except Exception as error:
            if version is not None and self.version(name) is not None:
                raise StoreError(
                    f"{self.uri}: table '{name}' has no version {version} any more; its newest is "
                    f"{self.version(name)}. A version is readable until its files are vacuumed."
                ) from None
            raise StoreError(f"{self.uri}: table '{name}' cannot be read: {first_line(error)}") from None

    def version(self, name: str) -> int | None:
        """The newest version of a table, None where it does not exist."""
        try:
            return int(_open(self.uri_of(name)).version())
        except TableNotFoundError:
            return None
        except Exception as error:
            raise StoreError(f"{self.uri}: table '{name}' cannot be read: {first_line(error)}") from None

    def scan(self, name: str, version: int | None = None, shard: int | None = None) -> pl.LazyFrame:
        """A table's rows, lazily; with `shard`, only the files of that shard."""
        return scan_table(self.table(name, version), shard)

    def rows(self, name: str, version: int | None = None) -> int:
        """The number of a table's rows, as its log tells it."""
        return int(pl.DataFrame(self.table(name, version).get_add_actions())["num_records"].sum())

    def as_ofs(self, name: str) -> list[Any]:
        """Each `as_of` of a table's partitions, as its log tells them, rising."""
        files = pl.DataFrame(self.table(name).get_add_actions(flatten=True))
        return [] if files.is_empty() else files["partition.as_of"].unique().sort().to_list()

    def append(self, name: str, frame: pl.DataFrame, *, once: str, partition_by: str | None = None) -> bool:
        """Append rows in one commit unless this was done before under the name `once`; whether it was.

        A table without partitions is compacted at times, see `compact_at_times`.
        """

        def attempt() -> bool:
            table = None if self.version(name) is None else self.table(name)
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

        appended = self.retrying(name, attempt)
        if appended and partition_by is None:
            self.compact_at_times(name)
        return appended

    def compact_at_times(self, name: str) -> None:
        """Make one file of the small ones of a partition that has many, so that a reader opens no more than that.

        Where another writer is first, it is left to the next time.
        """
        table = self.table(name)
        if (found := crowded_partitions(table, FILES_OF_A_PARTITION)).height:
            with suppress(CommitFailedError):
                compact(table, found["partition"].to_list())
                table.create_checkpoint()

    def retrying(self, name: str, attempt: Callable[[], T]) -> T:
        """The result of `attempt`, made again when another writer commits first or the connection is lost.

        So an attempt begins with a look at whether an earlier one came through. Raises `StoreError`
        after a bounded number of attempts.
        """
        attempts = Retrying(
            retry=retry_if_exception(lambda error: _lost_race(error) or _broke_off(error)),
            wait=wait_random_exponential(multiplier=0.02),
            stop=stop_after_attempt(_TRIES),
        )
        try:
            return attempts(attempt)
        except RetryError as error:
            lost = error.last_attempt.exception()
        except Exception as error:
            if told := lasting_error(self.uri, error):
                raise told from None
            raise
        why = "other writers came first" if _lost_race(lost) else "the connection was lost"
        raise StoreError(
            f"{self.uri}: table '{name}': {why} {_TRIES} times. "
            f"Run it again; what was written is not repeated. The last time: {first_line(lost)}"
        )


@patiently
def _open(uri: str, version: int | None = None) -> DeltaTable:
    return Table(uri, version)


def scan_table(table: DeltaTable, shard: int | None = None) -> pl.LazyFrame:
    """The rows of an open table, lazily; with `shard`, only the files of that shard."""
    frame = pl.scan_delta(table)
    return frame if shard is None else frame.filter(pl.col("shard") == shard)


def partition_column(table: DeltaTable) -> str | None:
    """The column that a table is partitioned by, if it is."""
    return next(iter(table.metadata().partition_columns), None)


def crowded_partitions(table: DeltaTable, many: int) -> pl.DataFrame:
    """The partitions with so `many` small files or more: `partition`, empty in a table without, and `files`."""
    column = partition_column(table)
    files = pl.DataFrame(table.get_add_actions(flatten=True))
    if files.is_empty():
        return pl.DataFrame(schema={"partition": pl.String, "files": pl.UInt32})
    files = files.filter(pl.col("size_bytes") < FILE_BYTES // 2)
    partition = pl.lit("") if column is None else pl.col(f"partition.{column}")
    count = files.group_by(partition.alias("partition")).agg(files=pl.len())
    return count.filter(pl.col("files") >= many).sort("partition")


def compact(table: DeltaTable, partitions: Sequence[Any]) -> int:
    """Rewrite the small files of these partitions into fewer, in one commit; how many files there were."""
    column = partition_column(table)
    done = table.optimize.compact(
        partition_filters=[(column, "in", [str(one) for one in partitions])] if column else None,
        target_size=FILE_BYTES,
        writer_properties=WriterProperties(max_row_group_size=ROW_GROUP),
        commit_properties=CommitProperties(max_commit_retries=0),
    )
    return int(done["numFilesRemoved"])


def add_action(path: str, size: int, rows: int, partition: Mapping[str, str]) -> AddAction:
    """A data file that is in place already, to be committed into a table."""
    modified = int(datetime.now(UTC).timestamp() * 1000)
    return AddAction(path, size, dict(partition), modified, True, json.dumps({"numRecords": rows}))


def with_shard(frame: pl.DataFrame, columns: Sequence[str], shards: int) -> pl.DataFrame:
    """`frame` with `shard`: the CRC-32 of `columns`, joined by the unit separator, modulo `shards`."""
    keys = frame.select(columns).unique()
    numbers = [zlib.crc32("\x1f".join(map(str, row)).encode()) % shards for row in keys.iter_rows()]
    lookup = keys.with_columns(pl.Series("shard", numbers, dtype=pl.Int32))
    return frame.drop("shard", strict=False).join(lookup, on=list(columns), how="left", maintain_order="left")


def digest(value: Any) -> str:
    """SHA-256 of a JSON-like value, independent of the order of its mappings."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def concat_lazy(frames: Iterable[pl.LazyFrame]) -> pl.LazyFrame:
    """One frame after the other; columns that some lack are null there."""
    return pl.concat(list(frames), how="diagonal")


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", compression_level=1, statistics=True)
    return buffer.getvalue()


def _cannot_write(uri: str, error: Exception) -> str:
    return (
        f"{uri}: the store cannot be written: {first_line(error)}\n"
        "Expected a folder or container that this user may write. Give another with --store or ALMANAC_STORE."
    )


def first_line(error: BaseException | None) -> str:
    """What an error says: what the Blob service answered, or the first line."""
    text = str(error).strip()
    answered = re.search(r"<Message>([^<\n]+)", text)
    return answered[1] if answered else text.split("\n")[0][:300]
