"""The scripts, run with a stand-in for the Azure command line that records its calls."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.arm import Template
from tests.conftest import ROOT
from tests.deployments.test_container_pool import TEMPLATE as POOL

FOLDER = ROOT / "deployments/azure"
NAMES = ("deploy.sh", "show.sh", "delete.sh")
SECRETS = {
    "PREFECT_API_KEY": "secret-one",
    "POSTGRESQL_PASSWORD": "secret-two",
    "PREFECT_API_AUTH_STRING": "u:secret",
}

WORDS = (
    "--resource-group",
    "g",
    "--location",
    "westeurope",
    "--prefect-api-url",
    "https://prefect.example/api",
    "--tag",
    "7",
)

AZ = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$CALLS"
for word in "$@"; do
  if [[ "$word" == @* ]]; then cat "${word#@}" >> "$CALLS.files"; stat -c %a "${word#@}" >> "$CALLS.modes"; fi
done
case "$1 $2 $3" in
  "deployment group create") cat "$OUTPUTS" ;;
  "group show --name") echo /subscriptions/S/resourceGroups/G ;;
  "role definition list") echo one-role ;;
esac
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """`script("deploy.sh", *words, typed="", **environment)`: status, output, and the calls of `az`."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/az").write_text(AZ)
    (tmp_path / "bin/az").chmod(0o755)
    template = json.loads((FOLDER / "main.json").read_text())
    outputs = Template(template, prefectApiUrl="https://prefect.example/api").value(template["outputs"])
    outputs["registry"]["value"] = "almanacx.azurecr.io"
    (tmp_path / "outputs.json").write_text(json.dumps(outputs))
    calls = tmp_path / "calls"

    def run(name: str, *words: str, typed: str = "", **environment: str) -> SimpleNamespace:
        variables = {"CALLS": str(calls), "OUTPUTS": str(tmp_path / "outputs.json"), "TMPDIR": str(tmp_path)}
        process = subprocess.run(
            ["bash", str(FOLDER / name), *words],
            cwd=tmp_path,
            env={
                "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
                "HOME": str(tmp_path),
                **variables,
                **environment,
            },
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
        )
        requests = calls.read_text().splitlines() if calls.exists() else []
        return SimpleNamespace(
            status=process.returncode, out=process.stdout, err=process.stderr, calls=requests
        )

    return run


@pytest.mark.parametrize("name", NAMES)
def test_scripts_are_valid_stop_at_errors_and_explain_themselves(name, script):
    text = (FOLDER / name).read_text()
    assert subprocess.run(["bash", "-n", str(FOLDER / name)]).returncode == 0
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text
    assert os.access(FOLDER / name, os.X_OK)
    output = script(name, "--help")
    assert output.status == 0
    assert f"usage: deployments/azure/{name} --resource-group" in output.out
    assert "cost" in output.out
    assert output.calls == []


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        ([], {}, "--resource-group is missing"),
        (["--resource-group"], {}, "--resource-group needs a value"),
        (["--resource-group", "g"], {}, "--location is missing"),
        (["--resource-group", "g", "--location", "l"], {}, "give --prefect-api-url, or --self-hosted"),
        (["--resource-group", "g", "--location", "l", "--self-hosted"], {}, "POSTGRESQL_PASSWORD is not set"),
        (
            ["--resource-group", "g", "--location", "l", "--self-hosted"],
            {"POSTGRESQL_PASSWORD": "x"},
            "PREFECT_API_AUTH_STRING is not set",
        ),
        (["--resource-grup", "g"], {}, "--resource-grup is not an option"),
        ([*WORDS, "--name", "My-App"], {}, "--name My-App: Azure takes this in no name of an account"),
        ([*WORDS, "--name", "almanacforall"], {}, "Expected 3 to 11 small letters and digits"),
        (
            [*WORDS, "--prefect-api-url", "https://admin:word@prefect.example/api"],
            {},
            "--prefect-api-url carries a credential. Expected https://HOST/api",
        ),
    ],
)
def test_what_is_missing_is_named_before_anything_is_done(script, words, environment, message):
    output = script("deploy.sh", *words, **environment)
    assert output.status == 2
    assert message in output.err
    assert "word@" not in output.err
    assert output.calls == []


def test_nothing_is_deployed_without_a_yes_and_the_costs_are_told_first(script):
    output = script("deploy.sh", *WORDS, typed="n\n")
    assert output.status == 2
    assert "What costs while nothing runs: the worker" in output.out
    assert output.calls == []


def test_deploying_makes_the_registry_before_the_images_and_the_worker_after_them(script, tmp_path):
    output = script("deploy.sh", *WORDS, "--yes", "--base-image", "r.example/python:3.11")
    assert output.status == 0, output.err
    group, first, flows, worker, second = output.calls
    assert group.startswith("group create --name g --location westeurope")
    assert first.startswith("deployment group create --resource-group g")
    assert "workerImage" not in first
    assert "building=true" in first
    assert "building" not in second
    assert "--image almanac:7 --file" in flows
    assert "--image almanac-worker:7 --file" in worker
    for build, dockerfile in ((flows, "deployments/Dockerfile"), (worker, "deployments/worker/Dockerfile")):
        assert build.startswith("acr build --registry almanacx ")
        assert f"--file {ROOT / dockerfile} --build-arg BASE_IMAGE=r.example/python:3.11" in build
    assert "workerImage=almanac-worker:7" in second
    assert "name=almanac selfHosted=false prefectApiUrl=https://prefect.example/api" in second
    filled = json.loads((tmp_path / "g-pool.json").read_text())
    assert filled["job_configuration"] == POOL["job_configuration"]
    assert filled["variables"]["required"] == []
    assert filled["variables"]["properties"]["registry"]["default"]
    assert "--base-job-template g-pool.json --overwrite" in output.out


def test_secrets_are_on_no_command_line_and_in_no_file_that_is_left(script, tmp_path):
    output = script("deploy.sh", *WORDS, "--yes", **SECRETS)
    assert output.status == 0, output.err
    passed = (tmp_path / "calls.files").read_text()
    assert set((tmp_path / "calls.modes").read_text().split()) == {"600"}
    for secret in SECRETS.values():
        assert secret in passed
        assert secret not in "\n".join(output.calls) + output.out + output.err
        files = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "calls.files"]
        assert not [p for p in files if secret in p.read_text()]


def test_a_failing_step_stops_the_rest(script, tmp_path):
    (tmp_path / "bin/az").write_text(
        AZ.replace('"group show', '"acr build --registry") exit 3 ;;\n  "group show')
    )
    output = script("deploy.sh", *WORDS, "--yes")
    assert output.status != 0
    assert "almanac:7" in output.calls[-1]
    assert not (tmp_path / "g-pool.json").exists()


def test_deleting_wants_the_groups_name_and_takes_the_roles_with_it(script):
    refusal = script("delete.sh", "--resource-group", "g", typed="yes\n")
    assert refusal.status == 2
    assert not [call for call in refusal.calls if " delete" in call]
    output = script("delete.sh", "--resource-group", "g", typed="g\n")
    assert output.status == 0, output.err
    deleted = [" ".join(call.split()[:4]) for call in output.calls if " delete" in call]
    assert deleted == [
        "role assignment delete --role",
        "role definition delete --name",
        "group delete --name g",
    ]


def test_the_store_can_be_kept(script):
    output = script("delete.sh", "--resource-group", "g", "--keep-store", "--yes")
    assert output.status == 0, output.err
    assert not [call for call in output.calls if call.startswith("group delete")]
    kinds_to_keep = ("Microsoft.Storage/storageAccounts", "Microsoft.ManagedIdentity/userAssignedIdentities")
    assert [call for call in output.calls if all(f"type!='{kind}'" in call for kind in kinds_to_keep)]


def test_showing_changes_nothing(script):
    output = script("show.sh", "--resource-group", "g")
    assert output.status == 0, output.err
    assert {call.split()[1] for call in output.calls} <= {"list", "logs", "group"}
    assert all(call.split()[2] in ("list", "show") for call in output.calls if call.startswith("deployment"))
