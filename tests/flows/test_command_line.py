import inspect
import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import deployments.__main__
import flows.devices
import flows.machines
import flows.sales
from flows import command_line
from flows.command_line import _is_not_told_at_the_end, application
from flows.modules import Direct, with_commands
from models.errors import AlmanacError
from tasks.storage.store import Store
from tests import steps, toy
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

SCORING = {
    "run_id", "as_of", "bundle", "requested", "scored", "fallback", "skipped", "failed", "table", "version", "page",
    "seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory) -> Path:
    """A store of the toy with a bundle, and the file of its values."""
    folder = tmp_path_factory.mktemp("command-line")
    toy.values().write_parquet(folder / "values.parquet")
    for words in (["ingest", "--source", folder / "values.parquet", "--shards", "4"], ["train"]):
        output = command("toy", *words, "--store", folder / "store")
        assert output.status == 0, output.err
    return folder / "store"


def python(*words, **environment) -> subprocess.CompletedProcess:
    """A separate process, started as a person would, in an unrelated folder."""
    command = [sys.executable, *map(str, words)]
    paths = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=paths, cwd=ROOT)


# help


def test_without_a_command_all_that_can_be_run_is_listed_with_a_line_each(command):
    for words in ([], ["--help"]):
        output = command(*words)
        assert output.status == 0
        for module in with_commands():
            assert module.__name__.rpartition(".")[2].replace("_", "-") in output.out
            for flow in module.COMMANDS:
                about = (inspect.getdoc(flow.fn) or "").partition("\n")[0].replace("`", "")
                scenario = module.__name__.rpartition(".")[2]
                command_name = f"{scenario} {flow.name.removeprefix(f'{scenario}-')}"
                command_name = command_name if flow.name.startswith(f"{scenario}-") else flow.name
                assert f"{command_name} {about}" in " ".join(output.out.split())
        assert "quantile forecasts of unit sales" in " ".join(output.out.replace("│", " ").split())


def test_a_scenario_lists_its_commands(command):
    output = command("sales", "--help")
    for name in ("ingest", "train", "forecast", "evaluate", "run"):
        assert name in output.out
    assert "Ingest, train if there is no champion yet, and forecast." in output.out


SCENARIOS = [flows.sales, flows.devices, flows.machines]


@pytest.mark.parametrize(
    ("scenario", "flow"),
    [(module.__name__.rpartition(".")[2], flow) for module in SCENARIOS for flow in module.COMMANDS],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_help_of_a_command_explains_every_parameter_of_its_flow(command, monkeypatch, scenario, flow):
    monkeypatch.setenv("COLUMNS", "1000")
    output = command(scenario, flow.name.removeprefix(f"{scenario}-"), "--help")
    words = " ".join(output.out.replace("│", " ").split())
    letters = words.replace(" ", "")
    for name in inspect.signature(flow.fn).parameters:
        assert f"--{name.rstrip('_').replace('_', '-')} " in words, name
        if isinstance(flow, Direct):
            continue
        explained = flow.parameters.properties[name].get("description", "")
        assert explained, f"{name} is not explained in the Prefect form"
        assert "".join(explained.replace("`", "").split()) in letters, f"the help of {name} lost characters"
    everywhere = ("--json", "--store")
    of_flows = ("--workers", "--scheduler", "--ui")
    for name in everywhere if isinstance(flow, Direct) else (*everywhere, *of_flows):
        assert name in words


def test_a_list_is_given_by_one_option_or_by_several():
    for words in (["--totals", "total", "sku*region"], ["--totals", "total", "--totals", "sku*region"]):
        _, bound, _ = application().parse_args(["sales", "forecast", *words, "--store", "s"])
        assert bound.arguments["totals"] == ["total", "sku*region"]


def test_a_flow_refuses_in_the_prefect_form_what_it_refuses_on_the_command_line():
    schema = flows.sales.train.parameters.properties
    assert schema["horizon"]["anyOf"][0]["minimum"] == 1
    assert schema["as_of"]["anyOf"][0]["format"] == "date"


# results


def test_a_scoring_run_prints_one_json_object_with_all_that_happened(command, trained):
    output = command("toy", "score", "--store", trained, "--json")
    assert output.status == 0, output.err
    assert set(output.json) >= SCORING
    assert output.json["table"] == "toy/doubled"
    assert Path(output.json["page"]).read_text().startswith("<!doctype html>")
    assert (output.json["requested"], output.json["scored"], output.json["failed"]) == (12, 12, 0)
    assert output.json["published"] is True
    assert output.json["reused_shards"] == 0


def test_the_same_run_again_says_so_and_changes_nothing(command, trained):
    store = Store(str(trained))
    first = command("toy", "score", "--store", trained, "--json").json
    rows = steps.published(store)
    again = command("toy", "score", "--store", trained, "--json").json
    assert again["reused_shards"] == 4
    assert again["version"] == first["version"]
    assert "These rows had been published before." in again["notes"]
    assert steps.published(store).equals(rows)


def test_without_json_a_person_can_read_the_result(command, trained):
    output = command("toy", "score", "--store", trained).out
    assert "requested" in output
    assert "toy/doubled" in output
    assert not output.lstrip().startswith("{")


def test_a_person_reads_moments_to_the_minute_and_figures_to_four_digits(capsys):
    command_line._show({"as_of": "2026-03-03T03:00:00+00:00", "psi": 0.004573682408248902, "seconds": 30.4})
    assert capsys.readouterr().out.split() == [
        "as_of",
        "2026-03-03T03:00Z",
        "psi",
        "0.004574",
        "seconds",
        "30.4",
    ]


def test_a_dry_run_accounts_for_every_key_and_publishes_nothing(command, trained):
    store = Store(str(trained))
    before = store.version("toy/doubled")
    summary = command("toy", "score", "--store", trained, "--dry-run", "--seconds", "0.001", "--json").json
    assert (summary["requested"], summary["scored"]) == (12, 12)
    assert (summary["published"], summary["version"], summary["page"]) == (False, None, None)
    assert store.version("toy/doubled") == before
    real = command("toy", "score", "--store", trained, "--seconds", "0.001", "--json").json
    assert real["run_id"] == summary["run_id"]
    assert real["reused_shards"] == 4


def test_figures_that_are_no_numbers_are_still_json(command, trained):
    output = command("toy", "train", "--loss", "nan", "--store", trained, "--json")
    assert output.status == 0, output.err
    strict = json.loads(output.out, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert strict["loss"] is None
    assert strict["promoted"] is False


def test_an_older_day_is_scored_with_as_of(command, trained):
    refusal = command("toy", "score", "--as-of", "2024-01-02", "--store", trained)
    assert refusal.status == 1
    assert "no bundle of toy was trained on data up to 2024-01-02 or earlier" in refusal.err
    summary = command(
        "toy", "score", "--as-of", "2024-01-02", "--bundle", "1", "--store", trained, "--json"
    ).json
    assert summary["as_of"] == "2024-01-02"
    assert any("use some of their own future" in note for note in summary["notes"])


# mistakes


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (["toy", "score", "--as-of", "yesterday"], "as-of"),
        (["toy", "score", "--as-of", "2024-02-30"], "as-of"),
        (["toy", "score", "--bundle", "first"], "bundle"),
        (["toy", "score", "--no-such-option", "1"], "no-such-option"),
        (["toy", "scores"], "scores"),
        (["toy", "ingest"], "source"),
        (["toy", "score", "--max-failed-share", "1.5"], "max.failed.share"),
        (["toy", "score", "--workers", "0"], "workers"),
        (["toy", "score", "--scheduler", "tcp://127.0.0.1:1"], "no Dask scheduler answers there"),
        (["toy", "score", "--scheduler", "nonsense"], "Expected tcp://HOST:PORT"),
        (["sales", "train", "--horizon", "0"], "horizon"),
        (["sales", "train", "--quantiles", "1.5"], r"for --quantiles\. Expected a value less than 1\. ╰"),
        (["sales", "ingest", "--source", "x.csv", "--shards", "0"], "shards"),
        (["sales", "ingest", "--source", "x.csv", "--column", "week"], "expected TABLE_COLUMN=SOURCE_COLUMN"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_in_words(command, trained, words, pattern):
    store = [] if words[1] in ("scores",) else ["--store", str(trained)]
    output = command(*words, *store)
    assert output.status != 0
    text = " ".join((output.err + output.out).replace("│", " ").split()).lower()
    assert "traceback" not in text

    assert re.search(pattern.lower().replace("(", r"\("), text), text[-2000:]


def test_a_path_that_the_locale_cannot_read_is_told_with_a_way_out():
    words = ("-m", "flows", "sales", "ingest", "--source", "d\u00e9j\u00e0.csv", "--dry-run")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    process = python(*words, **ascii_only)
    assert process.returncode == 1
    assert process.stderr.startswith("EncodingError: --source")
    assert "Set PYTHONUTF8=1" in process.stderr


def test_too_many_failed_keys_stop_the_run_with_their_reasons(command, trained):
    store = Store(str(trained))
    before = store.version("toy/doubled")
    output = command("toy", "score", "--raises", "n03", "--store", trained)
    assert output.status == 1
    assert "1 of 12 keys failed; at most 5% may fail. Nothing was published." in output.err
    assert "ValueError: n03 cannot be doubled" in output.err
    assert store.version("toy/doubled") == before
    allowed = command(
        "toy", "score", "--raises", "n03", "--max-failed-share", "0.1", "--store", trained, "--json"
    ).json
    assert (allowed["failed"], allowed["scored"], allowed["rows"]) == (1, 11, 11)


def test_an_error_in_the_code_is_shown_with_its_traceback_and_is_a_failure(command, trained, monkeypatch):
    def broken(self, tables, as_of, now):
        raise ZeroDivisionError("a mistake in the code")

    monkeypatch.setattr(toy.Toy, "resolve_as_of", broken)
    with pytest.raises(ZeroDivisionError):
        command("toy", "score", "--store", trained)


@pytest.mark.parametrize(
    ("program", "step", "words"),
    [(command_line, "_run", ["health"]), (deployments.__main__, "environment", ["check"])],
)
def test_who_interrupts_a_command_is_told_how_to_go_on(monkeypatch, capsys, program, step, words):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(program, step, interrupted)
    monkeypatch.setattr("sys.argv", ["python -m program", *words])
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as exit:
            program.main()
    finally:
        signal.signal(signal.SIGINT, handler)
    assert exit.value.code == 130
    assert "Stopped. Start it again with the same parameters" in capsys.readouterr().err


def test_the_store_can_be_named_by_the_environment(command, trained, monkeypatch):
    monkeypatch.setenv("ALMANAC_STORE", str(trained))
    assert command("toy", "score", "--json").json["table"] == "toy/doubled"


def test_a_mistake_in_the_environment_is_told_in_words(command, trained, monkeypatch):
    monkeypatch.setenv("ALMANAC_WORKERS", "many")
    output = command("toy", "score", "--seconds", "0.002", "--store", trained)
    assert output.status == 1
    assert "ALMANAC_WORKERS" in output.err.upper()
    assert "Traceback" not in output.err


# a process of its own


def test_in_a_process_of_its_own_only_the_result_is_on_standard_output(prefect_api, dask_cluster, trained):
    scheduler = dask_cluster.scheduler_address
    process = python(
        "-m", "tests.toy", "toy", "score", "--store", trained, "--scheduler", scheduler, "--json",
        PREFECT_API_URL=prefect_api,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["requested"] == 12
    assert "Traceback" not in process.stderr


def test_in_a_process_of_its_own_an_error_is_one_message_and_a_status(prefect_api, tmp_path):
    words = ["-m", "flows", "sales", "forecast", "--store", tmp_path / "store", "--json"]
    process = python(*words, PREFECT_API_URL=prefect_api)
    assert process.returncode == 1
    assert process.stdout == ""
    assert process.stderr.startswith("StoreError: ")
    assert "python -m flows sales ingest --help" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_prefect_server_that_does_not_answer_is_named(tmp_path):
    words = ["-m", "flows", "sales", "forecast", "--store", tmp_path / "store"]
    process = python(*words, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert process.returncode == 1
    assert "http://127.0.0.1:9/api" in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    ("error", "is_logged"),
    [(AlmanacError("no data"), False), (httpx.ConnectError("refused"), False), (ValueError("a bug"), True)],
)
def test_a_log_has_no_traceback_of_an_error_that_is_told_at_the_end(error, is_logged):
    record = logging.makeLogRecord({"msg": "an error", "exc_info": (type(error), error, None)})
    assert _is_not_told_at_the_end(record) == is_logged
