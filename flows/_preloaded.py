"""Imports for the process from which workers are forked: those that tasks need on first use of a block or LightGBM."""

import atexit
import os
import sys

import distributed  # noqa: F401
import prefect_azure  # noqa: F401

import models.boosting  # noqa: F401

if "multiprocessing.forkserver" in sys.orig_argv[-1]:
    # This process has nothing to clean up, and a reader of the run's output waits for its end.
    atexit.register(os._exit, 0)
