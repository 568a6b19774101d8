"""Changing the champion by hand, and reading the decisions."""

import json
from pathlib import Path

import pytest

from tasks.registry import bundles
from tasks.registry.bundles import BundleError, BundleFormatError
from tasks.registry.listings import bundle_lines, run_lines
from tasks.registry.promotion import promote, roll_back
from tests import steps, toy
from tests.toy import TOY

pytestmark = pytest.mark.usefixtures("without_run_logger")


@pytest.fixture
def trained(store):
    """A store with three bundles, of which each was better than the one before."""
    steps.put(store)
    for loss in (3.0, 2.0, 1.0):
        steps.train(store, loss=loss)
    return store


def champion(store) -> int | None:
    return bundles.champion(store, "toy")


def history(store) -> list[tuple[str, int]]:
    return bundles.events(store, "toy").select("event", "bundle").rows()


def test_a_bundle_is_promoted_with_its_reason(trained):
    promotion = promote.fn(TOY, trained, 1, "3 doubles too much")
    assert (promotion.champion, promotion.before, promotion.changed) == (1, 3, True)
    assert champion(trained) == 1
    assert bundles.events(trained, "toy")["reason"][-1] == "3 doubles too much"


def test_promoting_the_champion_changes_nothing(trained):
    before = history(trained)
    assert promote.fn(TOY, trained, 3, "once more").changed is False
    assert history(trained) == before


def test_rolling_back_again_goes_one_further_back_until_the_first_champion(trained):
    assert roll_back.fn(TOY, trained, "bad week").champion == 2
    assert history(trained)[-2:] == [("rolled_back", 3), ("promoted", 2)]
    assert roll_back.fn(TOY, trained, "worse week").champion == 1
    with pytest.raises(BundleError, match="no champion before bundle 1"):
        roll_back.fn(TOY, trained, "no way")
    assert champion(trained) == 1


def test_what_was_rolled_back_and_promoted_again_is_rolled_back_again(trained):
    roll_back.fn(TOY, trained, "bad week")
    promote.fn(TOY, trained, 3, "it was the data")
    assert roll_back.fn(TOY, trained, "it was not").champion == 2
    assert roll_back.fn(TOY, trained, "nor this").champion == 1


def test_two_that_roll_back_at_once_go_back_once(trained):
    bundles.roll_back(trained, "toy", 3, 2, "mine")
    bundles.roll_back(trained, "toy", 3, 2, "yours")
    assert champion(trained) == 2
    assert roll_back.fn(TOY, trained, "further").champion == 1


def test_a_bundle_that_is_unknown_changed_or_of_another_version_is_refused(trained):
    folder = Path(trained.uri) / "toy" / "bundles"
    with pytest.raises(BundleError, match=r"no bundle 9 of toy. Found: 1, 2, 3"):
        promote.fn(TOY, trained, 9, "why not")
    (folder / "1" / "remark.txt").write_text("halves")
    with pytest.raises(BundleError, match=r"remark\.txt: changed since it was saved"):
        promote.fn(TOY, trained, 1, "why not")
    manifest = json.loads((folder / "2" / "manifest.json").read_text())
    del manifest["files"]["factor.json"]
    steps.forge(trained, 2, manifest)
    with pytest.raises(BundleError, match=r"KeyError.*promote another"):
        roll_back.fn(TOY, trained, "why not")
    (folder / "2" / "manifest.json").write_text(json.dumps({**manifest, "format": 7}))
    with pytest.raises(BundleFormatError, match=r"in format 7. This version reads 1\."):
        roll_back.fn(TOY, trained, "why not")
    assert champion(trained) == 3


def test_without_a_bundle_it_says_how_to_train_one(store):
    for attempt in (lambda: promote.fn(TOY, store, 1, "why"), lambda: roll_back.fn(TOY, store, "why")):
        with pytest.raises(BundleError, match="Train one: python -m flows toy train"):
            attempt()
    assert not Path(store.uri).exists()


def test_bundles_are_listed_with_what_they_know_and_what_was_decided(trained):
    steps.train(trained, loss=9.0)
    roll_back.fn(TOY, trained, "bad week")
    lines = {line["bundle"]: line for line in bundle_lines(trained, "toy", 10)}
    assert list(lines) == [4, 3, 2, 1]
    assert [n for n, line in lines.items() if line["champion"]] == [2]
    assert lines[1]["trained_on"] == {"values": "version 0 (36 rows)"}
    assert lines[1]["why"].startswith("promoted: The first bundle")
    assert lines[2]["why"] == "promoted: Back from bundle 3: bad week"
    assert lines[3]["why"] == "rolled back: bad week"
    assert lines[4]["why"].startswith("refused: Loss 9.0000 >= 1.0000 of champion 3")
    assert lines[4]["headline"] == {"loss": 9.0}
    assert [line["bundle"] for line in bundle_lines(trained, "toy", 1)] == [4]


def test_a_bundle_that_does_not_tell_its_rows_is_listed_all_the_same(trained):
    path = Path(trained.uri) / "toy" / "bundles" / "1" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["rows"]
    path.write_text(json.dumps(manifest))
    assert bundle_lines(trained, "toy", 10)[-1]["trained_on"] == {"values": "version 0"}


def test_runs_are_listed_newest_first(trained):
    assert run_lines(trained, "toy", 5) == []
    steps.score(trained, bundle=1)
    steps.put(trained, toy.values(days=4))
    steps.score(trained, bundle=3)
    lines = run_lines(trained, "toy", 5)
    assert [(line["as_of"], line["bundle"], line["requested"]) for line in lines] == [
        ("2024-01-04", 3, 12),
        ("2024-01-03", 1, 12),
    ]
    assert [line["bundle"] for line in run_lines(trained, "toy", 1)] == [3]
    assert run_lines(trained, "another", 5) == []
