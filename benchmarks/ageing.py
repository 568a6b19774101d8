"""What recording and looking up a run costs as the ledger ages, by simulated runs.

    python -m benchmarks.ageing --runs 9000 [--store az://CONTAINER/FOLDER]

A line at 1, 100, 1,000 and all runs: seconds to record one and to look one up, what a reader opens (commits since the
last checkpoint and data files, each a request where the store is remote), and the ledger's bytes with its log.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.registry import ledger
from tasks.storage.store import Store

_BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
_COUNTS = {"requested": 500, "scored": 480, "fallback": 20, "skipped": 0, "failed": 0}


def main() -> None:
    """Record runs, measure at some of them, and print a line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--store")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(given.store or folder)
        for number in range(1, given.runs + 1):
            hour = _BEGIN + timedelta(hours=number)
            seconds = _seconds(lambda hour=hour: _record(store, hour))  # type: ignore[misc]
            if number in (1, 100, 1000, given.runs):
                print(json.dumps({"runs": number, "record_seconds": seconds, **_measured(store, hour)}))


def _record(store: Store, hour: datetime) -> None:
    ledger.record(
        store,
        run_id=f"{hour:%Y-%m-%dT%H%MZ}-score",
        scenario="devices",
        flow="score",
        as_of=hour,
        bundle=1,
        versions={"readings": 1},
        counts=_COUNTS,
        reasons={},
        started=hour,
    )


def _measured(store: Store, hour: datetime) -> dict[str, Any]:
    seconds = _seconds(lambda: ledger.last(store, "devices", "score", hour))
    table = store.table(ledger.PATH)
    checkpoint = (store.get_json(f"{ledger.PATH}/_delta_log/_last_checkpoint") or {}).get("version", -1)
    size = sum(int(item["size"]) for batch in store.files.list(f"{ledger.PATH}/") for item in batch)
    return {
        "look_up_seconds": seconds,
        "commits_since_checkpoint": table.version() - checkpoint,
        "files": len(table.file_uris()),
        "bytes": size,
    }


def _seconds(what: Callable[[], object]) -> float:
    begun = time.perf_counter()
    what()
    return round(time.perf_counter() - begun, 3)


if __name__ == "__main__":
    main()
