"""The command line of a benchmark: the parameters of its function are the options."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cyclopts import App, Parameter


def run_benchmark(main: Callable[..., None], about: str | None) -> None:
    """Call `main` with the options of the command line; `about` is the help."""
    every = Parameter(consume_multiple=True, negative=())
    app = App(help=about, help_format="plaintext", version_flags=[], default_parameter=every)
    app.default(main)
    app()


@contextmanager
def folder_or_temporary(folder: Path | None) -> Iterator[Path]:
    """The folder, which is kept, or a temporary one."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="almanac-benchmark-") as name:
        yield Path(name)
