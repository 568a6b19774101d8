"""The notebooks on sales run from top to bottom, on a small simulated chain."""

import pytest

from tests.notebooks import execute, names


@pytest.mark.slow
@pytest.mark.parametrize("name", names("sales"))
def test_a_sales_notebook_runs_from_top_to_bottom(name, sales_store, kernel):
    execute(name, kernel, sales_store.uri)
