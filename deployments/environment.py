"""The environment variables of deployments, and their purposes."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prefect.settings import PREFECT_API_URL

from models.addresses import carries_credential
from models.errors import AlmanacError
from models.moments import is_timezone
from tasks.storage.uris import check_uri, is_remote

PROJECT = Path(__file__).parent.parent
POOLS = PROJECT / "deployments" / "work_pools"
PROCESS = "process"
"""The type of work pool whose runs are processes on the worker's machine."""


class VariableError(AlmanacError):
    """A variable of the environment is missing or has an invalid value."""


@dataclass(frozen=True)
class Variable:
    """A variable and its purpose. With `default` None it is required; an empty default leaves it unset."""

    name: str
    purpose: str
    default: str | None = ""


VARIABLES = (
    Variable("PREFECT_API_URL", "API of the Prefect server to deploy to, such as http://HOST:4200/api", None),
    Variable("ALMANAC_STORE", "store of all runs: az://, abfss://, or a folder on a laptop", None),
    Variable("ALMANAC_POOL", "name of the work pool", "almanac"),
    Variable("ALMANAC_POOL_TYPE", "type of the work pool; its template is deployments/work_pools/TYPE.json", PROCESS),
    Variable("ALMANAC_IMAGE", "image of the runs; required unless the pool's type is process"),
    Variable("ALMANAC_HOME", "folder of the code of runs; default: this one, or /app in containers"),
    Variable("ALMANAC_TIMEZONE", "time zone of days, weeks and schedules, such as Europe/Zurich", "UTC"),
    Variable("ALMANAC_PAGES_URL", "address below which `python -m deployments pages` serves the pages of runs"),
    Variable("ALMANAC_TIMEOUT_SECONDS", "seconds after which any run is ended; default: by its kind"),
    Variable("ALMANAC_SALES_SOURCE", "sales to ingest every week; without it they are ingested by hand"),
    Variable("ALMANAC_SALES_PLAN", "marketing plan to ingest with them"),
    Variable("ALMANAC_SALES_STORES", "attributes of the stores to ingest with them"),
    Variable("ALMANAC_SALES_SKUS", "attributes of the SKUs to ingest with them"),
    Variable("ALMANAC_SALES_COVARIATES", "covariates of stores, such as the weather, to ingest with them"),
    Variable("ALMANAC_SALES_EVENTS", "days that affect sales, such as fairs, to ingest with them"),
    Variable("ALMANAC_DEVICES_SOURCE", "readings to ingest every hour; without it they are ingested by hand"),
    Variable("ALMANAC_DEVICES_TIMEZONE", "time zone of readings' times without an offset"),
    Variable("ALMANAC_DEVICES_LIMITS", "physical limits of the readings"),
    Variable("ALMANAC_MACHINES_TELEMETRY", "telemetry to ingest every day; without it, it is ingested by hand"),
    Variable("ALMANAC_MACHINES_MAINTENANCE", "replacements of components; required with the telemetry"),
    Variable("ALMANAC_MACHINES_FAILURES", "failures of components; required with the telemetry"),
    Variable("ALMANAC_MACHINES_ERRORS", "errors that machines reported"),
    Variable("ALMANAC_MACHINES_MACHINES", "attributes of the machines"),
    Variable("ALMANAC_MACHINES_TIMEZONE", "time zone of the machines' times without an offset"),
    Variable("ALMANAC_RESOURCE_GROUP", "resource ID of the Azure resource group of container runs, for housekeeping"),
    Variable("ALMANAC_ALERT_BLOCK", "notification block on the server for alerts, such as slack-webhook/ops"),
)  # fmt: skip

_SCHEDULED_BY = {
    "ALMANAC_SALES_SCHEDULED": "ALMANAC_SALES_SOURCE",
    "ALMANAC_DEVICES_SCHEDULED": "ALMANAC_DEVICES_SOURCE",
    "ALMANAC_MACHINES_SCHEDULED": "ALMANAC_MACHINES_TELEMETRY",
}
_URIS = ("SOURCE", "PLAN", "STORES", "LIMITS", "TELEMETRY", "MAINTENANCE", "FAILURES", "ERRORS", "MACHINES")


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Every variable of `prefect.yaml` with its value, from `variables` (default: this process's environment).

    A variable without a value is empty. `…_SCHEDULED` says whether a scenario has a source; without one, none of its
    schedules is active. Raises one `VariableError` that names all missing and invalid variables.
    """
    source_values = {
        "PREFECT_API_URL": PREFECT_API_URL.value() or "",
        **(os.environ if variables is None else variables),
    }
    values = {one.name: source_values.get(one.name, "").strip() or one.default or "" for one in VARIABLES}
    process = values["ALMANAC_POOL_TYPE"] == PROCESS
    values["ALMANAC_HOME"] = values["ALMANAC_HOME"] or (str(PROJECT) if process else "/app")
    problems = [*_missing(values, process=process), *_wrong(values, process=process)]
    if problems:
        raise VariableError("Nothing was deployed. Correct the environment first.\n" + "\n".join(problems))
    if not is_remote(values["ALMANAC_STORE"]):
        values["ALMANAC_STORE"] = str(Path(values["ALMANAC_STORE"]).expanduser().resolve())
    return values | {name: str(bool(values[source])).lower() for name, source in _SCHEDULED_BY.items()}


def _missing(values: Mapping[str, str], *, process: bool) -> list[str]:
    names = [one.name for one in VARIABLES if one.default is None]
    names += [] if process else ["ALMANAC_IMAGE"]
    if values["ALMANAC_MACHINES_TELEMETRY"]:
        names += ["ALMANAC_MACHINES_MAINTENANCE", "ALMANAC_MACHINES_FAILURES"]
    purposes = {one.name: one.purpose for one in VARIABLES}
    return [f"{name} is not set: {purposes[name]}." for name in names if not values[name]]


def _wrong(values: Mapping[str, str], *, process: bool) -> list[str]:
    secret = [name for name, value in values.items() if name != "ALMANAC_IMAGE" and carries_credential(value)]
    if secret:
        return [f"{name} carries a credential. Expected a value without one." for name in secret]
    problems = []
    for name in ("ALMANAC_TIMEZONE", "ALMANAC_DEVICES_TIMEZONE", "ALMANAC_MACHINES_TIMEZONE"):
        if values[name] and not is_timezone(values[name]):
            problems.append(
                f"{name}={values[name]}: there is no such time zone. Expected a name such as Europe/Zurich or UTC."
            )
    if not re.fullmatch(r"(\d+(\.\d+)?)?", values["ALMANAC_TIMEOUT_SECONDS"]):
        problems.append(
            f"ALMANAC_TIMEOUT_SECONDS={values['ALMANAC_TIMEOUT_SECONDS']}: expected seconds, such as 7200."
        )
    if not (POOLS / f"{values['ALMANAC_POOL_TYPE']}.json").exists():
        types = ", ".join(sorted(path.stem for path in POOLS.glob("*.json")))
        problems.append(
            f"ALMANAC_POOL_TYPE={values['ALMANAC_POOL_TYPE']}: there is no such template. Expected one of: {types}."
        )
    for name in ("ALMANAC_STORE", *(name for name in values if name.endswith(_URIS))):
        try:
            check_uri(values[name])
        except AlmanacError as error:
            problems.append(f"{name}: {str(error).splitlines()[0]}")
    store = values["ALMANAC_STORE"]
    if store and not process and not is_remote(store):
        problems.append(
            f"ALMANAC_STORE={store}: a container does not keep folders. Expected az:// or abfss://."
        )
    return problems
