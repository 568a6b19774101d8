"""The flow that every scenario has its evaluation by, on the toy, as a user calls it."""

from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from flows.modules import with_commands
from tasks.storage.store import Store
from tests import toy

pytestmark = pytest.mark.slow

DAYS = [date(2024, 1, 1) + timedelta(days=n) for n in range(9)]


@pytest.fixture(scope="module")
def scored(command, tmp_path_factory) -> Path:
    """A store of the toy in which six days were scored; on the seventh, values are ten times as high."""
    folder = tmp_path_factory.mktemp("evaluating")
    jump = pl.when(pl.col("at") == DAYS[7]).then(pl.col("value") * 10).otherwise("value")
    toy.values(names=6, days=8).with_columns(jump).write_parquet(folder / "values.parquet")
    where = ["--store", folder / "store"]
    words = [
        ["ingest", "--source", folder / "values.parquet", "--shards", "1"],
        ["train", "--as-of", DAYS[0]],
    ]
    for day in DAYS[1:7]:
        words.append(["score", "--as-of", day])
    for each in words:
        done = command("toy", *each, *where)
        assert done.status == 0, done.err
    return folder / "store"


def test_what_was_published_is_judged_measured_charted_and_shown_on_the_next_page(command, scored):
    done = command("toy", "evaluate", "--store", scored, "--json")
    assert done.status == 0, done.err
    found = done.json
    assert (found["judged"], found["rows"], found["pending"], found["left"]) == (6, 36, 0, 0)
    rows = Store(str(scored)).scan("toy/evaluations").collect()
    error = (rows["value"] - rows["actual"]).abs().mean()
    assert found["metrics"]["all"] == {"rows": 36, "mean_error": pytest.approx(error, abs=1e-4)}
    assert len(found["metrics"]["at"]) == 6
    assert found["mlflow_run"]
    (newest,) = found["control"]
    assert newest["period"] == str(DAYS[7])
    assert newest["verdict"] in ("degraded", "improved")
    again = command("toy", "evaluate", "--store", scored, "--json").json
    assert again["judged"] == 0
    assert again["control"] == found["control"]
    assert again["announced"] is None
    page = command("toy", "score", "--as-of", DAYS[7], "--store", scored, "--json").json["page"]
    assert "Accuracy so far" in Path(page).read_text()


def test_a_person_can_read_what_came_of_it(command, scored):
    shown = command("toy", "evaluate", "--from", DAYS[2], "--to", DAYS[3], "--store", scored)
    assert shown.status == 0, shown.err
    assert "mean_error" in shown.out
    assert "observed_until" in shown.out


@pytest.mark.parametrize("scenario", ["sales", "devices", "machines", "toy"])
def test_on_a_store_with_nothing_in_it_it_says_what_to_do_first(command, tmp_path, scenario):
    done = command(scenario, "evaluate", "--store", tmp_path / "store")
    assert done.status == 1
    assert f"python -m flows {scenario} ingest --help" in done.err
    assert "Traceback" not in done.err


def test_every_scenario_has_the_command_and_its_help_tells_every_parameter(command):
    for module in with_commands():
        found = [one for one in module.COMMANDS if one.name.endswith("-evaluate")]
        for one in found:
            scenario = one.name.removesuffix("-evaluate")
            shown = " ".join(command(scenario, "evaluate", "--help").out.replace("│", " ").split())
            for name, about in one.parameters.properties.items():
                assert f"--{name.strip('_').replace('_', '-')}" in shown
                assert about.get("description"), name
