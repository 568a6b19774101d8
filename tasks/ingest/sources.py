"""Reading rows from anywhere: a file of any dialect, a folder or glob of files, or a Delta table."""

import codecs
import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import obstore
import polars as pl

from models.addresses import refuse_credential
from models.contracts import ROW
from models.errors import AlmanacError
from models.layouts import SourceFile
from tasks.ingest.contents import DialectError
from tasks.ingest.dialect import SUFFIXES, dialect_in_words, is_table, longest_line, scan
from tasks.ingest.numbers import Notation, plain_numbers
from tasks.storage.faults import first_line
from tasks.storage.tables import Table
from tasks.storage.uris import encoded, is_remote, object_store


class SourceError(AlmanacError):
    """The source cannot be found, or lacks something that is needed."""


class UnreadableError(SourceError):
    """The source cannot be read: it is damaged, or the service that holds it does not answer."""

    is_temporary = True


@dataclass(frozen=True)
class Source(SourceFile):
    """Rows of one file or Delta table. `name` is for people, `path` the file's, `notation` that of its numbers in text."""

    notation: Notation | None = None
    path: str | None = None

    def rows(self) -> pl.DataFrame:
        """All rows. Raises `UnreadableError` if a later part of the file cannot be read."""
        try:
            return self.frame.collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UnreadableError(_unreadable(self.name, error, self.path)) from None

    def batches(self, rows: int | None) -> Iterator[pl.DataFrame]:
        """All rows, numbered by `ROW` from 1, about `rows` at a time; None: all at once. Raises the errors of `rows()`."""
        if rows is None:
            yield self.rows().with_row_index(ROW, offset=1)
            return
        try:
            yield from self.frame.with_row_index(ROW, offset=1).collect_batches(chunk_size=rows)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UnreadableError(_unreadable(self.name, error, self.path)) from None


def read(uri: str, encoding: str | None = None) -> Iterator[Source]:
    """The sources at `uri`, in the order of their names.

    Add the name of a sheet of an Excel file, `sales.xlsx#Sheet 1`, or of a member of a zip, `all.zip#sales.csv`.

    `encoding` is that of text that is neither UTF-8 nor UTF-16; by default Windows-1252.
    CSV columns are read as text, so that nothing is lost; the contract sets the types. Raises `SourceError` if nothing
    is there or a file cannot be read.
    """
    check_source(uri)
    _check_encoding(encoding)
    place = uri if is_remote(uri) else str(Path(uri).expanduser())
    if _is_delta(place):
        try:
            rows = plain_numbers(pl.scan_delta(Table(place)), has_points=True)
        except Exception as error:
            raise UnreadableError(_unreadable(uri, error)) from None
        yield Source(uri, *rows)
        return
    place, part = _with_part(uri)
    for path in _files(place):
        name = _name(path, place)
        try:
            tables = [
                (Source(name + member, frame, notation, path), frame.collect_schema())
                for member, frame, notation in scan(path, part, encoding)
            ]
        except pl.exceptions.NoDataError:
            raise SourceError(f"{name}: the file is empty. Expected a header and at least one row.") from None
        except DialectError as error:
            raise SourceError(f"{name}: {error}") from None
        except (Exception, pl.exceptions.PanicException) as error:
            raise UnreadableError(_unreadable(name, error, path)) from None
        for source, columns in tables:
            if not columns:
                raise SourceError(
                    f"{source.name}: the file has no columns. Expected a header and at least one row."
                )
            yield source


def described(uri: str, encoding: str | None = None) -> str:
    """A description of how the first file at `uri` is written."""
    place = uri if is_remote(uri) else str(Path(uri).expanduser())
    return "a Delta table" if _is_delta(place) else dialect_in_words(_files(_with_part(uri)[0])[0], encoding)


def small_table(uri: str) -> pl.DataFrame:
    """All rows of a small source at once. Raises the errors of `read`."""
    return pl.concat([source.rows() for source in read(uri)], how="diagonal_relaxed")


def check_source(uri: str) -> None:
    """Raise `SourceError` for an address of an unsupported kind, `CredentialError` for one with a key."""
    refuse_credential("The address of a source", uri)
    if "://" in uri and not is_remote(uri):
        raise SourceError(
            f"{uri}: {uri.partition('://')[0]}:// is not a kind of source. Expected a local path, az:// or abfss://."
        )


def _check_encoding(name: str | None) -> None:
    try:
        codecs.lookup(name or "utf-8")
    except LookupError:
        raise SourceError(
            f"--encoding {name}: no such encoding. Expected one that Python knows, such as cp1250 or cp1254."
        ) from None


def unlisted(uri: str, error: Exception) -> str:
    """The message for a place in Blob Storage whose files cannot be listed."""
    return (
        f"{uri}: cannot be listed: {first_line(error)}\n"
        "Expected a container that exists and that this user or identity may read."
    )


def _unreadable(name: str, error: Exception, path: str | None = None) -> str:
    if "more fields than defined" in str(error):
        line = longest_line(path) if path else None
        where = f"line {line:,}" if line else "a row"
        return (
            f"{name}: cannot be read: {where} has more fields than the header. Put quotes around text that contains the "
            "separator, or name all columns."
        )
    return f"{name}: cannot be read: {str(error).strip().splitlines()[0][:200]}"


def _name(path: str, uri: str) -> str:
    """`path` relative to the folder that `uri` names, or in which its wildcards begin."""
    literal = re.split(r"[*?\[]", uri)[0]
    if not is_remote(uri) and literal:
        literal = str(Path(literal).expanduser())
    literal = literal.rstrip("/")
    folder = literal if path.startswith(f"{literal}/") else literal.rpartition("/")[0]
    return path.removeprefix(folder).lstrip("/")


def _with_part(uri: str) -> tuple[str, str | None]:
    """A place, and the sheet or the member of a zip that is named after it.

    >>> _with_part("az://raw/sales.xlsx#Sheet 1"), _with_part("a#b.xlsx")
    (('az://raw/sales.xlsx', 'Sheet 1'), ('a#b.xlsx', None))
    """
    place, _, part = uri.rpartition("#")
    return (place, part) if place.lower().endswith((".xlsx", ".xls", ".zip")) else (uri, None)


def _is_delta(uri: str) -> bool:
    if is_remote(uri):
        return not uri.lower().endswith(SUFFIXES) and not _is_glob(uri) and Table.is_deltatable(encoded(uri))
    return (Path(uri) / "_delta_log").is_dir()


def _is_glob(uri: str) -> bool:
    return any(c in uri for c in "*?[")


def _files(uri: str) -> list[str]:
    """The files at a path, folder or glob. Raises `SourceError` if there are none."""
    files = _remote_files(uri) if is_remote(uri) else _local_files(uri)
    if not files:
        other = next((path.suffix for path in Path(uri).expanduser().rglob("*") if path.is_file()), None)
        if other is not None:
            raise SourceError(
                f"{uri}: this folder has no files that end in {', '.join(SUFFIXES)}. Read other files with a glob, such as "
                f"'{uri.rstrip('/')}/*{other}'."
            )
        raise SourceError(
            f"{uri}: no such file, and no folder or glob with files that end in {', '.join(SUFFIXES)}. "
            "Check the path; relative paths start at the working directory."
        )
    return files


def _local_files(uri: str) -> list[str]:
    path = Path(uri).expanduser()
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        return sorted(str(p) for p in path.rglob("*") if is_table(p.name))
    if _is_glob(uri):
        anchor = Path(path.anchor) if path.anchor else Path()
        return sorted(str(p) for p in anchor.glob(str(path.relative_to(path.anchor))) if p.is_file())
    return []


def _remote_files(uri: str) -> list[str]:
    """Files in Blob Storage with that name, in a folder of that name, or matching it as a glob."""
    literal = uri.split("*")[0].split("?")[0]
    folder = uri if literal == uri else literal.rsplit("/", 1)[0]
    scheme, _, rest = folder.partition("://")
    container, _, prefix = rest.partition("/")
    root = f"{scheme}://{container}"
    try:
        listing = obstore.list(object_store(root), prefix or None)
        paths = sorted(str(item["path"]) for batch in listing for item in batch)
        if not paths and prefix:
            obstore.head(object_store(root), prefix)
            paths = [prefix]
    except FileNotFoundError:
        return []
    except obstore.exceptions.BaseError as error:
        raise UnreadableError(unlisted(uri, error)) from None
    pattern = uri.partition("://")[2].partition("/")[2]
    if literal != uri:
        of_that_name = [p for p in paths if p == pattern or (p.startswith(f"{pattern}/") and is_table(p))]
        paths = of_that_name or [p for p in paths if fnmatch.fnmatch(p, pattern)]
    elif paths != [pattern]:
        paths = [p for p in paths if is_table(p)]
    return [f"{root}/{p}" for p in paths]
