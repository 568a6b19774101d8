"""A whole run of the smallest scenario, as docs/own_scenario.md shows it."""

from pathlib import Path

import pytest

from models.checks import check_scenario
from tasks.page.run_page import write_page
from tasks.scoring.publishing import complete
from tests import steps
from tests.conftest import ROOT
from tests.toy import values
from tests.toy.smallest import MEANS

pytestmark = pytest.mark.usefixtures("without_run_logger")


def test_the_page_shows_the_whole_file_and_it_is_short():
    text = (ROOT / "tests/toy/smallest.py").read_text()
    assert text in (ROOT / "docs/own_scenario.md").read_text()
    assert len([line for line in text.splitlines() if line.strip()]) < 60


def test_it_keeps_all_rules():
    check_scenario(MEANS, {"values": values(days=6)})


def test_it_is_ingested_trained_scored_and_published_with_a_page(store):
    steps.put(store, values(days=4), scenario=MEANS)
    challenger, verdict = steps.train(store, scenario=MEANS)
    assert (verdict.promoted, challenger.bundle) == (True, 1)
    run = steps.resolve(store, scenario=MEANS)
    shards = steps.outcomes(run)
    publication = steps.commit(run, shards)
    rows = store.scan("means/means").sort("name").collect()
    assert rows["mean"].to_list() == pytest.approx([name + 0.15 for name in range(12)])
    assert not publication.already
    address = write_page.fn(run, shards, complete.fn(run, shards))
    assert "Means: means" in Path(address.removeprefix("file://")).read_text()
