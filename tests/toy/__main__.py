"""The command line with the toy scenario: `python -m tests.toy toy score`.

The toy's flows lie beside the package `flows`, not in it; nothing else has to know of them.
"""

from pathlib import Path

import flows

flows.__path__.append(str(Path(__file__).parent / "flows"))

from flows.command_line import main  # noqa: E402

if __name__ == "__main__":
    main()
