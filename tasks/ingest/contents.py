"""The bytes of a file: its beginning, its whole content, unpacked, and the encoding of its text."""

import gzip
import re
import zlib
from pathlib import Path

import obstore
import polars as pl

from models.errors import AlmanacError
from tasks.storage.uris import is_remote, object_store

HEAD = 1 << 20
"""The most bytes that are examined to recognise a file."""
LINES = 200
ZIP, _GZIP, _ZSTD = b"PK\x03\x04", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BEGIN = 16
"""The number of bytes that reveal Latin text in UTF-16 without a byte order mark."""

_WESTERN = "cp1252"
_ODD_WORD = r"\w*(?:[^\W\d_][‚„†‡ˆ‰‹“”•˜™›¹¿¯£¥][^\W\d_]|\b[¯£¥][a-zà-ÿ]|[ðÐýÝþÞšŠžŽŸ])\w*"
"""Matches words that are wrong in Windows-1252: of Turkey or central Europe, or written by DOS or an old Mac."""
_FEWEST_LETTERS = 4
"""A word of as many different letters, none of which is of the English alphabet, is of no language of western Europe."""


class DialectError(AlmanacError):
    """The file is of an unsupported kind, or could be read in more than one way."""


def beginning(path: str) -> bytes:
    """The first bytes of a file, at most `HEAD`."""
    if not is_remote(path):
        with Path(path).open("rb") as file:
            return file.read(HEAD)
    folder, _, name = path.rpartition("/")
    size = int(obstore.head(object_store(folder), name)["size"])
    return bytes(obstore.get_range(object_store(folder), name, start=0, end=min(size, HEAD))) if size else b""


def bytes_of(path: str) -> bytes:
    """All bytes of a file."""
    if not is_remote(path):
        return Path(path).read_bytes()
    folder, _, name = path.rpartition("/")
    return bytes(obstore.get(object_store(folder), name).bytes())


def unpacked_head(source: str | bytes, head: bytes) -> bytes:
    """The beginning of a compressed file's content; `head` for a plain file."""
    if head.startswith(_GZIP):
        return zlib.decompressobj(wbits=31).decompress(head, HEAD)
    if not head.startswith(_ZSTD):
        return head
    lines = pl.scan_csv(
        source, has_header=False, separator="\x01", quote_char=None, infer_schema=False, glob=False
    ).head(LINES)
    return "\n".join(lines.collect().to_series().fill_null("").to_list()).encode()


def unpacked(source: str | bytes) -> bytes:
    """The whole content of a file, unpacked. Raises `DialectError` for zstd."""
    content = bytes_of(source) if isinstance(source, str) else source
    if content.startswith(_ZSTD):
        raise DialectError(
            "this is compressed with zstd. Expected CSV in UTF-8 or JSON lines inside, or gzip."
        )
    return gzip.decompress(content) if content.startswith(_GZIP) else content


def encoding_of(head: bytes) -> str:
    """The encoding of text: UTF-16 if it has a byte order mark or every second byte at the beginning is zero; else
    UTF-8 if valid, or Windows-1252, which includes Latin-1."""
    if head.startswith(_UTF16):
        return "utf-16"
    zeros = [not any(head[start:_BEGIN:2]) for start in (0, 1)]
    if len(head) > 1 and any(zeros):
        return "utf-16-be" if zeros[0] else "utf-16-le"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        is_partial = len(head) >= HEAD and error.start >= len(head) - 4
        return "utf-8" if is_partial else _WESTERN
    return "utf-8"


def encoding_of_text(head: bytes, other: str | None) -> str:
    """The encoding of a text file; that of text in neither UTF-8 nor UTF-16 is `other` or, by default, Windows-1252.

    Raises `DialectError` if there is no `other`, and text has words that no language of Windows-1252 has.
    """
    encoding = encoding_of(head)
    if encoding != _WESTERN or other:
        return other if other and encoding == _WESTERN else encoding
    text = head.decode(_WESTERN, "replace")
    foreign = (w for w in re.findall(r"[^\W\d_a-zA-Z]{4,}", text) if len({*w.lower()}) >= _FEWEST_LETTERS)
    odd = re.search(_ODD_WORD, text)
    word = odd[0] if odd else next(foreign, None)
    if "\ufffd" in text or word:
        example = f", where it has words such as {word}" if word else ""
        raise DialectError(
            f"this text is neither in UTF-8 nor, it seems, in Windows-1252{example}. Name its encoding with --encoding, "
            "such as cp1250 (central Europe), cp1251 (Cyrillic), cp1254 (Turkish), cp850 (DOS), cp932 (Japanese) "
            "or cp1252 if it is right; or save the file as UTF-8."
        )
    return _WESTERN


def begins(head: bytes, pattern: str) -> bool:
    """Whether text begins with `pattern`, in any encoding."""
    return bool(re.match(rf"\ufeff?\s*(?:{pattern})", head[:1000].decode(encoding_of(head), "ignore")))
