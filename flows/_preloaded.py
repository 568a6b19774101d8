"""For the process that workers are forked from: what their tasks import at the first use of a block or of LightGBM."""

import atexit
import os
import sys

import distributed  # noqa: F401
import prefect_azure  # noqa: F401

import models.boosting  # noqa: F401

if "multiprocessing.forkserver" in sys.orig_argv[-1]:
    # That process has nothing to tidy up, and whoever reads the run's output waits for its end.
    atexit.register(os._exit, 0)
