"""A command that records when its phases ended.

python -m benchmarks.marks FILE WORDS...    # as python -m flows WORDS..., with the times in FILE
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def main(path: Path, words: Sequence[str]) -> None:
    """Run the command `words`, and write to `path` when its phases ended; nothing for one without a server."""
    from flows import command_line
    from flows.workers import ONE_THREAD

    marks: dict[str, Any] = {}
    on_a_server = command_line._on_a_server

    def watched(*arguments: Any) -> Any:
        os.environ.update(ONE_THREAD)
        _watch(marks)
        return on_a_server(*arguments)

    command_line._on_a_server = watched  # type: ignore[assignment]
    sys.argv = ["python -m flows", *words, *([] if words == ["--help"] else ["--json"])]
    try:
        command_line.main()
    finally:
        path.write_text(json.dumps(marks))


def _watch(marks: dict[str, Any]) -> None:
    """Patch `flows.server` to record in `marks` when a command was loaded and its server answered, and its result."""
    from distributed import LocalCluster

    from flows import command_line, server

    original, start = server.prefect_server, LocalCluster.__init__
    show = command_line.json.dumps

    @contextmanager
    def prefect_server(*, leave_up: bool, meanwhile: Callable[[], object] = lambda: None) -> Iterator[Any]:
        def load() -> None:
            meanwhile()
            marks["loaded"] = time.time()

        with original(leave_up=leave_up, meanwhile=load) as api:
            marks["served"] = time.time()
            marks.setdefault("loaded", marks["served"])
            yield api
            marks["returned"] = time.time()

    def begin(cluster: Any, *arguments: Any, **options: Any) -> None:
        since = time.time()
        start(cluster, *arguments, **options)
        marks["cluster"] = time.time() - since

    def dumps(result: Any, **options: Any) -> str:
        marks["stages"] = result["stages"]
        return show(result, **options)

    server.prefect_server = prefect_server
    LocalCluster.__init__ = begin  # type: ignore[method-assign, assignment]
    command_line.json = type("Json", (), {"dumps": staticmethod(dumps)})  # type: ignore[assignment]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
