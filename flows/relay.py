"""Run a command, and send what it writes to Azure Monitor as well: `python -m flows.relay prefect flow-run execute`.

`ALMANAC_LOG_ENDPOINT` and `ALMANAC_LOG_RULE` name a data collection endpoint and the rule that takes the lines; without
them the command is run and nothing else. Everything is sent that a container would log: native stacks and errors before
the run reaches Prefect, too, and the signal that killed the command. Sending never delays nor ends the command: lines that
cannot be sent are tried again with the next ones, and the oldest of too many are dropped.
"""

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import IO, Any

STREAM = "Custom-AlmanacRun_CL"
"""The stream of the rule; its columns are those of the lines."""
_EVERY_SECONDS, _LAST_SECONDS = 10.0, 8.0
"""The time between two uploads, and that of the last: after SIGTERM, a container has 30 s."""
_MOST_LINES, _LONGEST_LINE = 50_000, 30_000
_AT_ONCE = 2000
"""The most lines of an upload: usually one request of less than 1 MB, so that none is sent again if another fails."""

Line = dict[str, str]
Upload = Callable[[list[Line]], None]


def uploader(endpoint: str, rule: str, **options: Any) -> Upload:
    """A function that sends lines to a data collection rule by the identity of the container."""
    from azure.identity import DefaultAzureCredential
    from azure.monitor.ingestion import LogsIngestionClient

    quickly = {"retry_total": 1, "connection_timeout": 5, "read_timeout": 5}
    client = LogsIngestionClient(endpoint, DefaultAzureCredential(), **quickly, **options)
    return lambda lines: client.upload(rule, STREAM, [*lines])


class Relay:
    """Lines of one container, which a thread sends in batches; `make` is called in that thread, as imports take time."""

    def __init__(self, group: str, make: Callable[[], Upload]) -> None:
        self._group, self._make = group, make
        self._lines: deque[Line] = deque(maxlen=_MOST_LINES)
        self._has_complained = False
        self._end = threading.Event()
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._sender.start()

    def add(self, message: str) -> None:
        """Keep a line until it is sent."""
        now = datetime.now(UTC).isoformat()
        self._lines.append(
            {"TimeGenerated": now, "ContainerGroup": self._group, "Message": message[:_LONGEST_LINE]}
        )

    def finish(self) -> None:
        """Send what is left, for a few seconds at most."""
        self._end.set()
        self._sender.join(_LAST_SECONDS)
        if self._sender.is_alive():
            self._complain("no answer")

    def _send(self) -> None:
        upload, is_last = None, False
        while not is_last:
            is_last = self._end.wait(_EVERY_SECONDS)
            batch = list[Line]()
            try:
                upload, rest = upload or self._make(), len(self._lines)
                while rest:
                    batch = [self._lines.popleft() for _ in range(min(rest, _AT_ONCE))]
                    rest -= len(batch)
                    upload(batch)
            except Exception as error:
                room = _MOST_LINES - len(self._lines)
                self._lines.extendleft([*reversed(batch)][:room])
                self._complain(str(error))

    def _complain(self, reason: str) -> None:
        """Say once, in the container's own output, that lines cannot be sent."""
        if not self._has_complained:
            print(f"The output cannot be sent to Azure Monitor: {reason}", file=sys.stderr, flush=True)
        self._has_complained = True


def run(words: Sequence[str], relay: Relay, output: IO[bytes]) -> int:
    """Run a command and pass its output on; return its exit status, 128 and the signal if one killed it."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: process.send_signal(received))
    assert process.stdout is not None
    reader = threading.Thread(target=_pass_on, args=(process.stdout, relay, output), daemon=True)
    reader.start()
    status = process.wait()
    reader.join(2)  # a process that outlives the command may hold its output open
    if status < 0:
        relay.add(f"The run's process was ended by {signal.Signals(-status).name}.")
    relay.finish()
    return status if status >= 0 else 128 - status


def _pass_on(lines: IO[bytes], relay: Relay, output: IO[bytes]) -> None:
    """Pass each line on; a container whose output nobody takes any more still sends it, and the command never waits."""
    for line in lines:
        with suppress(OSError):
            output.write(line)
            output.flush()
        if text := line.decode(errors="replace").rstrip():
            relay.add(text)


def main(words: list[str], environment: Mapping[str, str]) -> int:
    """Run a command as the container's only one."""
    endpoint, rule = environment.get("ALMANAC_LOG_ENDPOINT"), environment.get("ALMANAC_LOG_RULE")
    if not (endpoint and rule):
        os.execvp(words[0], words)  # noqa: S606
    group = f"{environment.get('PREFECT__FLOW_NAME')}-{environment.get('PREFECT__FLOW_RUN_ID')}"
    return run(words, Relay(group, lambda: uploader(endpoint, rule)), sys.stdout.buffer)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
