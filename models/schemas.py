"""dataframely, imported without SQLAlchemy.

It imports SQLAlchemy and two of its dialects for conversions that nothing here uses; every process of a run would pay
a quarter of a processor second for them.
"""

import sys

_UNUSED = "sqlalchemy"

if _UNUSED in sys.modules:
    import dataframely as dy
else:
    sys.modules[_UNUSED] = None  # type: ignore[assignment]
    try:
        import dataframely as dy
    finally:
        del sys.modules[_UNUSED]

__all__ = ["dy"]
