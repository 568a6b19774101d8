"""The values that a page decodes from an explorer."""

import zlib
from collections.abc import Mapping

import numpy as np

from models.page.explorer import Packed


def values_of(packed: Packed, key: Mapping[str, str], track: int) -> np.ndarray:
    """The decoded values of one key in a track, (columns, times); NaN where missing.

    The page does the same in the browser.

    Raises:
        KeyError: the explorer has no such key.
    """
    header = packed.header
    number = _number_of(packed, key)
    chunk = int(np.searchsorted(header["starts"], number, side="right")) - 1
    last = [*header["starts"], header["series"]][chunk + 1]
    size, row = last - header["starts"][chunk], number - header["starts"][chunk]
    data, at = zlib.decompress(packed.chunks[chunk]), 0
    for i, track_header in enumerate(header["tracks"]):
        shape = (size, track_header["columns"], len(track_header["times"]))
        count = int(np.prod(shape))
        if i == track:
            origin, step = np.frombuffer(data, "<f8", 2 * size, at).reshape(2, size)[:, row]
            low, high = np.frombuffer(data, np.uint8, 2 * count, at + 16 * size).reshape(2, *shape)[:, row]
            codes = np.cumsum(low.astype(np.uint16) + (high.astype(np.uint16) << 8), axis=0, dtype=np.uint16)
            return np.where(codes > 0, (origin + codes - 1.0) * step, np.nan)
        planes = sum(len(mark["labels"]) for mark in track_header["marks"])
        at += 16 * size + 2 * count + planes * ((size * len(track_header["times"]) + 7) // 8)
    raise IndexError(f"track {track}: the explorer has {len(header['tracks'])}")


def _number_of(packed: Packed, key: Mapping[str, str]) -> int:
    header, size = packed.header, packed.series
    planes = np.frombuffer(zlib.decompress(packed.index), np.uint8).reshape(-1, 4, size).astype(np.uint32)
    codes = (planes << np.array([0, 8, 16, 24], np.uint32)[:, None]).sum(axis=1)
    match = np.ones(size, bool)
    for i, column in enumerate(header["key"]):
        labels = header["labels"][i]
        match &= codes[i] == (labels.index(key[column["column"]]) if key[column["column"]] in labels else -1)
    if not match.any():
        raise KeyError(f"the explorer has no key {dict(key)}")
    return int(np.flatnonzero(match)[0])
