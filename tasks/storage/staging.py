"""Rows collected on their way into a table; they need not fit into memory."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

_BATCH = 200_000


class Staged:
    """Frames that are collected in memory or, beyond `spill` rows, in files in `folder`.

    Frames may differ in their columns: a missing column is null.
    """

    def __init__(self, folder: Path, spill: int | None = None) -> None:
        self._folder, self._spill = folder, spill
        self._frames: list[pl.DataFrame] = []
        self._files: list[Path] = []
        self._held = self.height = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Add a frame; a frame without rows contributes its columns."""
        self._frames.append(frame)
        self._held += frame.height
        self.height += frame.height
        if self._spill is not None and self._held >= self._spill:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{len(self._files):06d}.parquet"
            pl.concat(self._frames, how="diagonal_relaxed").write_parquet(path, compression="lz4")
            self._files.append(path)
            self._frames, self._held = [], 0

    def rows(self) -> pl.LazyFrame:
        """All rows in the order in which they were added. At least one frame must have been added."""
        files = [pl.scan_parquet(path, glob=False) for path in self._files]
        memory = [pl.concat(self._frames, how="diagonal_relaxed").lazy()] if self._frames else []
        return pl.concat([*files, *memory], how="diagonal_relaxed")


def reader(rows: pl.LazyFrame) -> pa.RecordBatchReader:
    """Rows as a stream of Arrow batches; they need not fit into memory."""
    schema = rows.head(0).collect().to_arrow().schema

    def batches() -> Iterator[pa.RecordBatch]:
        for frame in rows.collect_batches(chunk_size=_BATCH, maintain_order=True):
            yield from frame.to_arrow().cast(schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())
