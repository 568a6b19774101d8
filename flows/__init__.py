"""Flows, and the command line that calls them."""

import atexit
import gc

gc.set_threshold(50_000, 20, 50)
"""Imports and Prefect create many objects that stay: with Python's own thresholds, the search for cycles among them takes
a twentieth of the processor time of a small run."""

atexit.register(gc.freeze)
"""A process that ends does not look for cycles in all that it still has: that took a second, a tenth of a small run."""
