"""The declarations of `prefect.yaml`, with the environment filled in."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deployments.environment import PROJECT, VariableError

PREFECT_FILE = PROJECT / "prefect.yaml"
MINE = "almanac"
"""The tag of everything that this project deploys; it identifies the project's own objects."""

_VARIABLE = re.compile(r"\{\{\s*\$(\w+)\s*\}\}")


def declaration(values: Mapping[str, str], path: Path = PREFECT_FILE) -> dict[str, Any]:
    """The file's content with `{{ $VARIABLE }}` replaced by `values`.

    Parameters and job variables without a value are left out; `active` of a schedule is true or false. Templates of
    events are kept: they are filled in when the event occurs. Raises `VariableError` for a variable that is not in
    `values`, and for a deployment without the tag `almanac`.
    """
    content = with_values(yaml.safe_load(path.read_text()), values, path)
    content.pop("definitions", None)
    for deployment in content["deployments"]:
        if MINE not in (deployment.get("tags") or []):
            raise VariableError(
                f"{path.name}: {deployment['entrypoint']} ({deployment['name']}) lacks the tag '{MINE}'. "
                "Add it: it identifies deployments that were removed from the file."
            )
        deployment["parameters"] = _values(deployment.get("parameters") or {})
        pool = deployment["work_pool"]
        pool["job_variables"] = _values(pool.get("job_variables") or {})
        if "env" in pool["job_variables"]:
            pool["job_variables"]["env"] = _values(pool["job_variables"]["env"])
        for schedule in deployment.get("schedules") or []:
            schedule["active"] = str(schedule.get("active", True)).lower() == "true"
    return dict(content)


def with_values(value: Any, values: Mapping[str, str], path: Path) -> Any:
    """A YAML value with the variables in its texts replaced. Raises `VariableError` for an unknown one."""
    if isinstance(value, Mapping):
        return {name: with_values(one, values, path) for name, one in value.items()}
    if isinstance(value, list):
        return [with_values(one, values, path) for one in value]
    if not isinstance(value, str):
        return value
    if extra := sorted(set(_VARIABLE.findall(value)) - set(values)):
        raise VariableError(
            f"{path.name} refers to {', '.join(extra)}. Expected a variable that deployments/environment.py "
            "names; add it there, with its purpose."
        )
    return _VARIABLE.sub(lambda match: values[match[1]], value)


def _values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value != ""}
