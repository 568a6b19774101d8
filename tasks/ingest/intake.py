"""What was read from one source of a table."""

from dataclasses import dataclass, field

from tasks.ingest.batches import SourceRows
from tasks.storage.staging import Staged


@dataclass
class Intake:
    """What was read from one source: `good` rows with their shard, `bad` ones with the columns of the quarantine.

    `read` includes rows that were `merged` into others; `ignored` are names of columns.
    """

    source: SourceRows
    good: Staged
    bad: Staged
    notes: list[str]
    read: int = 0
    merged: int = 0
    ignored: set[str] = field(default_factory=set)
