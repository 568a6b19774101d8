"""The process of a Prefect server that ends when it has not been used for a while; see `flows.server`."""

import asyncio
import json
import os
import sqlite3
import sys
import time
from contextlib import suppress
from pathlib import Path

import uvicorn

from flows._locking import lock_when_transactions_begin


class Server(uvicorn.Server):
    """A server that ends `idle` seconds after its last connection closes, unless a command looking for it holds `lock`.

    `record` is the file with its address, which it removes. A server that never gets a connection also ends.
    """

    FIRST_SECONDS = 300

    def __init__(self, config: uvicorn.Config, idle: float, lock: Path, record: Path) -> None:
        super().__init__(config)
        self._idle, self._lock, self._record = idle, lock, record
        self._until = time.monotonic() + max(idle, self.FIRST_SECONDS)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end; called ten times a second."""
        if self.server_state.connections:
            self._until = time.monotonic() + self._idle
        return await super().on_tick(counter) or (time.monotonic() >= self._until and self._leave())

    def _leave(self) -> bool:
        lock = sqlite3.connect(self._lock, timeout=0, isolation_level=None)
        try:
            lock.execute("begin exclusive")
        except sqlite3.OperationalError:
            lock.close()
            return False
        if self.server_state.connections:
            lock.close()
            return False
        self._held = lock  # until the process ends
        with suppress(OSError, ValueError, KeyError):
            if json.loads(self._record.read_text())["server"]["pid"] == os.getpid():
                self._record.unlink()
        return True


def main() -> None:
    """`python -m flows._server PORT IDLE LOCK RECORD`."""
    port, idle, lock, record = sys.argv[1:]
    lock_when_transactions_begin()
    factory = "prefect.server.api.server:create_app"
    config = uvicorn.Config(
        factory, factory=True, host="127.0.0.1", port=int(port), log_level="critical", access_log=False
    )
    asyncio.run(Server(config, float(idle), Path(lock), Path(record)).serve())


if __name__ == "__main__":
    main()
