"""An explorer's series as compressed chunks that a page holds and decodes one at a time.

Tens of thousands of series fit into one page because a value is stored as a small integer, in
steps of its own series, and each column as its difference from the one before, with low and high
bytes apart, which deflates well.
"""

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from models.page.blocks import Explorer, Line, Mark, Track

FINE, COARSE = 50_000, 1_000
"""The number of steps between a series' smallest and largest value: for few series, and for many."""
FINE_VALUES = 2_000_000
"""The steps are fine up to this many values in an explorer."""
CHUNK_VALUES = 24_000
BATCH_ROWS = 1_000_000
"""The number of rows in memory at once; only a single value of the first key column may exceed it."""


@dataclass(frozen=True)
class Packed:
    """An explorer ready to be embedded.

    `header` is JSON-ready and says how to decode the rest. `index` and `chunks` are zlib streams.
    The index holds, for each key column and then each column of `about`, one unsigned 32-bit code
    per series into the header's labels, as four byte planes. A chunk holds, for each track:
    `origin` and `step` (float64 per series), the value codes (16 bit, low bytes and then high
    bytes; series, then column, then time; a column as the difference from the one before it,
    modulo 65536), and per mark and label one bit per series and time. A value is
    `(origin + code - 1) * step`; code 0 is a missing one.
    """

    header: dict[str, Any]
    index: bytes
    chunks: list[bytes]

    @property
    def series(self) -> int:
        return int(self.header["series"])


def pack(explorer: Explorer, *, batch_rows: int = BATCH_ROWS) -> Packed:
    """Every series of the explorer's tracks; a key is included if any track has a row for it.

    Reads the tracks in batches of about `batch_rows` rows; all rows of a value of the first key column are in the
    same batch. A value is off by at most half a step; steps are 1, 2 or 5 times a power of ten.
    Whole numbers stay whole, and are exact if the range of the series is at most the number of steps.
    """
    batches, rows = _batches(explorer, batch_rows)
    width = max((len(columns(track)) for track in explorer.tracks), default=1)
    levels = FINE if rows * width <= FINE_VALUES else COARSE
    packers = [_TrackPacker(explorer, track, levels) for track in explorer.tracks]
    index = _Index(explorer)
    per_series = sum(len(p.times) * max(1, len(p.columns)) for p in packers)
    chunk_series = max(1, CHUNK_VALUES // max(1, per_series))
    chunks: list[bytes] = []
    compressing: Iterator[bytes] = iter(())
    starts: list[int] = []
    with ThreadPoolExecutor() as pool:
        for batch in batches:
            parts = [p.read(batch) for p in packers]
            keys = pl.concat([part.keys.unique() for part in parts]).unique().sort(index.key)
            first = index.add(keys)
            blocks = [p.encode(part, keys) for p, part in zip(packers, parts, strict=True)]
            del parts
            chunk_starts = range(0, keys.height, chunk_series)
            starts += [first + at for at in chunk_starts]
            plain = (
                b"".join(block.bytes_of(slice(at, at + chunk_series)) for block in blocks)
                for at in chunk_starts
            )
            before, compressing = compressing, pool.map(partial(zlib.compress, level=6), plain)
            chunks += before  # at most two batches are held uncompressed
        chunks += compressing
    header = {
        "key": [{"column": c, "label": label} for c, label in explorer.key.items()],
        "panels": explorer.panels,
        "order": list(explorer.order),
        "unit": explorer.unit,
        "start": dict(explorer.start),
        "recent": explorer.recent,
        "levels": levels,
        "series": index.size,
        "starts": starts,
        "tracks": [p.header() for p in packers],
        **index.header(),
    }
    return Packed(header, index.packed(), chunks)


def columns(track: Track) -> list[str]:
    """The value columns of a track in the order in which they are stored: from low to high, then the actual.

    >>> from models.page.blocks import Band
    >>> columns(Track(pl.LazyFrame(), Line("y", "Sold"), Line("q50", "Median"), [Band("q5", "q95", "90 %")]))
    ['q5', 'q50', 'q95', 'y']
    """
    lows = [band.low for band in track.bands]
    highs = [band.high for band in reversed(track.bands)]
    centre = [track.expected.column] if track.expected else []
    actual = [track.actual.column] if track.actual else []
    return [*lows, *centre, *highs, *actual]


def quantise(values: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(codes, origin, step)` of an array of series; codes have its shape, the others its length.

    NaN and infinite values get code 0. All values of a series, in all of its columns, have the same step, so that
    their order survives.

    >>> codes, origin, step = quantise(np.array([[3.0, 7.0, np.nan]]), 1000)
    >>> codes.tolist(), origin.tolist(), step.tolist()
    ([[1, 5, 0]], [3.0], [1.0])
    """
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
    finite = np.isfinite(flat)
    low = np.where(finite, flat, np.inf).min(axis=1, initial=np.inf)
    high = np.where(finite, flat, -np.inf).max(axis=1, initial=-np.inf)
    low, high = np.where(low > high, 0.0, low), np.where(low > high, 0.0, high)
    span = high - low
    span = np.where(span > 0, span, np.maximum(np.abs(high), 1e-300))
    step = _round_up(span / levels)
    whole = ((flat == np.rint(flat)) | ~finite).all(axis=1)
    step = np.where(whole, np.maximum(step, 1.0), step)
    origin = np.rint(low / step)
    steps = np.where(finite, flat, 0.0) / step[:, None]
    codes = np.where(finite, np.rint(steps) - origin[:, None] + 1, 0).astype(np.uint16)
    return codes.reshape(values.shape), origin, step


def _round_up(x: np.ndarray) -> np.ndarray:
    """`x`, rounded up to 1, 2 or 5 times a power of ten."""
    exponent = np.floor(np.log10(x))
    mantissa = x / 10.0**exponent
    return np.select([mantissa <= 1, mantissa <= 2, mantissa <= 5], [1.0, 2.0, 5.0], 10.0) * 10.0**exponent


def _planes(codes: np.ndarray) -> bytes:
    """The lowest bytes of the codes, then the next ones, and so on."""
    flat = np.ascontiguousarray(codes, codes.dtype.newbyteorder("<")).reshape(-1, 1)
    return flat.view(np.uint8).T.tobytes()


@dataclass(frozen=True)
class _Batch:
    """Some values of the first key column, as text, and the range of their shards."""

    values: list[str]
    shards: tuple[int, int]


def _batches(explorer: Explorer, batch_rows: int) -> tuple[list[_Batch], int]:
    """Values of the first key column, in order of shard and value, and the number of rows."""
    first = next(iter(explorer.key))
    counts = []
    for track in explorer.tracks:
        has_shard = "shard" in track.frame.collect_schema()
        shard = pl.col("shard").min().cast(pl.Int64) if has_shard else pl.lit(None, pl.Int64).alias("shard")
        counts.append(
            track.frame.group_by(pl.col(first))
            .agg(shard, pl.len().alias("rows"))
            .with_columns(pl.col(first).cast(pl.String))
        )
    table = (
        pl.concat(counts)
        .group_by(first)
        .agg(pl.col("shard").min().fill_null(0), pl.col("rows").sum())
        .sort("shard", first)
        .collect(engine="streaming")
    )
    number = (table["rows"].cum_sum() - 1) // batch_rows
    parts = table.with_columns(number.alias("batch")).partition_by("batch", maintain_order=True)
    batches = [_Batch(p[first].to_list(), (int(p["shard"][0]), int(p["shard"][-1]))) for p in parts]
    return batches, int(table["rows"].sum())


class _Index:
    """The keys in the order of their series, as codes into labels, which grow with each batch."""

    def __init__(self, explorer: Explorer) -> None:
        self.key = list(explorer.key)
        self.about = None
        self.about_columns: list[str] = []
        if explorer.about is not None:
            cast = pl.col(*self.key).cast(pl.String)
            self.about = explorer.about.with_columns(cast).collect().unique(self.key, keep="last")
            self.about_columns = [c for c in self.about.columns if c not in self.key]
        self.labels: dict[str, dict[str | None, int]] = {c: {} for c in [*self.key, *self.about_columns]}
        self.codes: dict[str, list[np.ndarray]] = {c: [] for c in self.labels}
        self.size = 0

    def add(self, keys: pl.DataFrame) -> int:
        """Append the keys, and return the number of the first one."""
        first, self.size = self.size, self.size + keys.height
        rows = keys
        if self.about is not None:
            rows = keys.join(self.about, on=self.key, how="left", maintain_order="left")
        for column, labels in self.labels.items():
            values = rows[column].cast(pl.String)
            for label in values.unique(maintain_order=True).to_list():
                labels.setdefault(label, len(labels))
            table = pl.DataFrame(
                {column: list(labels), "code": list(labels.values())},
                schema={column: pl.String, "code": pl.UInt32},
            )
            codes = values.to_frame().join(
                table, on=column, how="left", nulls_equal=True, maintain_order="left"
            )
            self.codes[column].append(codes["code"].to_numpy())
        return first

    def header(self) -> dict[str, Any]:
        return {
            "labels": [list(self.labels[c]) for c in self.key],
            "about": [{"label": c, "labels": list(self.labels[c])} for c in self.about_columns],
        }

    def packed(self) -> bytes:
        planes = [
            _planes(np.concatenate([*parts, np.empty(0, np.uint32)]).astype(np.uint32))
            for parts in self.codes.values()
        ]
        return zlib.compress(b"".join(planes), 6)


@dataclass(frozen=True)
class _Block:
    """A batch of a track, encoded: series first in every array."""

    origin: np.ndarray
    step: np.ndarray
    codes: np.ndarray
    marks: list[np.ndarray]

    def bytes_of(self, rows: slice) -> bytes:
        marks = b"".join(np.packbits(mark[rows], bitorder="little").tobytes() for mark in self.marks)
        scale = self.origin[rows].astype("<f8").tobytes() + self.step[rows].astype("<f8").tobytes()
        return scale + _planes(self.codes[rows]) + marks


@dataclass(frozen=True)
class _Rows:
    """Rows of a track, the number of each row's run, and the key of each run. A run is consecutive rows of one key.

    Tables are sorted by key, so that there are few runs.
    """

    frame: pl.DataFrame
    keys: pl.DataFrame
    run: np.ndarray


class _TrackPacker:
    """Reads and encodes one track, batch by batch."""

    def __init__(self, explorer: Explorer, track: Track, levels: int) -> None:
        self.key, self.time = list(explorer.key), explorer.time
        self.track, self.levels = track, levels
        self.columns = columns(track)
        self.schema = track.frame.collect_schema()
        self.times = (
            track.frame.select(pl.col(self.time).unique().sort()).collect(engine="streaming").to_series()
        )
        self.labels = {mark.column: self._labels(mark) for mark in track.marks}

    def _labels(self, mark: Mark) -> list[str]:
        """The texts of a mark; a single empty text if the mark is not text."""
        if self.schema[mark.column] != pl.String:
            return [""]
        texts = self.track.frame.select(pl.col(mark.column).drop_nulls().unique().sort()).collect(
            engine="streaming"
        )
        return texts.to_series().to_list()

    def header(self) -> dict[str, Any]:
        track = self.track
        at = {column: i for i, column in reversed(list(enumerate(self.columns)))}
        stamp = "%Y-%m-%d" if self.times.dtype == pl.Date else "%Y-%m-%d %H:%M:%S"

        def line(part: Line | None) -> dict[str, Any] | None:
            return {"column": at[part.column], "label": part.label, "colour": part.colour} if part else None

        return {
            "times": self.times.dt.strftime(stamp).to_list(),
            "columns": len(self.columns),
            "actual": line(track.actual),
            "expected": line(track.expected),
            "bands": [{"low": at[b.low], "high": at[b.high], "label": b.label} for b in track.bands],
            "marks": [
                {"label": m.label, "colour": m.colour, "labels": self.labels[m.column]} for m in track.marks
            ],
        }

    def read(self, batch: _Batch) -> _Rows:
        """The batch's rows: the time, the values and the marks; keys are text."""
        first = self.key[0]
        condition = pl.col(first).is_in(
            pl.Series(batch.values, dtype=pl.String).cast(self.schema[first]).implode()
        )
        if "shard" in self.schema:
            condition = pl.col("shard").is_between(*batch.shards) & condition
        names = dict.fromkeys([*self.columns, *self.labels])
        every = self.track.frame.filter(condition).select(*self.key, self.time, *names)
        rows = every.collect(engine="streaming")
        is_next = pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift()) for name in self.key)
        run = rows.select(is_next.cum_sum() - is_next.first()).to_series()
        keys = rows.select(self.key).filter(run.is_first_distinct()).cast(pl.String)
        return _Rows(rows.drop(self.key), keys, run.to_numpy())

    def encode(self, rows: _Rows, keys: pl.DataFrame) -> _Block:
        """The rows as arrays of `keys.height` series."""
        frame = rows.frame
        numbers = keys.with_row_index("__series")
        of_run = rows.keys.join(numbers, on=self.key, how="left", maintain_order="left")
        series = of_run["__series"].to_numpy()[rows.run]
        when = np.searchsorted(self.times.to_physical().to_numpy(), frame[self.time].to_physical().to_numpy())
        values = np.full((keys.height, len(self.columns), len(self.times)), np.nan)
        for i, column in enumerate(self.columns):
            values[series, i, when] = frame[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        codes, origin, step = quantise(values, self.levels)
        codes[:, 1:] -= codes[:, :-1].copy()
        marks = [
            grid for mark in self.track.marks for grid in self._marks(frame, mark, series, when, keys.height)
        ]
        return _Block(origin, step, codes, marks)

    def _marks(
        self, frame: pl.DataFrame, mark: Mark, series: np.ndarray, when: np.ndarray, size: int
    ) -> Iterator[np.ndarray]:
        column = frame[mark.column]
        for label in self.labels[mark.column]:
            boolean = column.dtype == pl.Boolean
            here = column == label if label else column if boolean else column > 0
            hit = here.fill_null(False).to_numpy()
            grid = np.zeros((size, len(self.times)), bool)
            grid[series[hit], when[hit]] = True
            yield grid
