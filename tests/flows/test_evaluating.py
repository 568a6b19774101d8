"""The evaluation flow of every scenario, called for the toy as a user would."""

from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from flows.modules import with_commands
from tasks.storage.layout import Layout
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
        output = command("toy", *each, *where)
        assert output.status == 0, output.err
    return folder / "store"


def test_what_was_published_is_judged_measured_charted_and_shown_on_the_next_page(command, scored):
    output = command("toy", "evaluate", "--store", scored, "--json")
    assert output.status == 0, output.err
    summary = output.json
    assert (summary["judged"], summary["rows"], summary["pending"], summary["left"]) == (6, 36, 0, 0)
    rows = Store(str(scored)).scan("toy/evaluations").collect()
    error = (rows["value"] - rows["actual"]).abs().mean()
    assert summary["metrics"]["all"] == {"rows": 36, "mean_error": pytest.approx(error, abs=1e-4)}
    assert len(summary["metrics"]["at"]) == 6
    assert summary["mlflow_run"]
    paces = Store(str(scored)).get_json(Layout("toy").pace)
    assert paces.keys() >= {"evaluate publish", "evaluate control"}, (
        "each step has a limit from its own history"
    )
    (newest,) = summary["control"]
    assert newest["period"] == str(DAYS[7])
    assert newest["verdict"] in ("degraded", "improved")
    again = command("toy", "evaluate", "--store", scored, "--json").json
    assert again["judged"] == 0
    assert again["control"] == summary["control"]
    assert again["announced"] is None
    page = command("toy", "score", "--as-of", DAYS[7], "--store", scored, "--json").json["page"]
    assert "Accuracy so far" in Path(page).read_text()


def test_a_person_can_read_what_came_of_it(command, scored):
    output = command("toy", "evaluate", "--from", DAYS[2], "--to", DAYS[3], "--store", scored)
    assert output.status == 0, output.err
    assert "mean_error" in output.out
    assert "observed_until" in output.out


@pytest.mark.parametrize("scenario", ["sales", "devices", "machines", "toy"])
def test_on_a_store_with_nothing_in_it_it_says_what_to_do_first(command, tmp_path, scenario):
    output = command(scenario, "evaluate", "--store", tmp_path / "store")
    assert output.status == 1
    assert f"python -m flows {scenario} ingest --help" in output.err
    assert "Traceback" not in output.err


def test_every_scenario_has_the_command_and_its_help_tells_every_parameter(command):
    for module in with_commands():
        flows = [one for one in module.COMMANDS if one.name.endswith("-evaluate")]
        for one in flows:
            scenario = one.name.removesuffix("-evaluate")
            text = " ".join(command(scenario, "evaluate", "--help").out.replace("│", " ").split())
            for name, about in one.parameters.properties.items():
                assert f"--{name.strip('_').replace('_', '-')}" in text
                assert about.get("description"), name
