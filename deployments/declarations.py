"""What `prefect.yaml` declares, with the environment filled in."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deployments.environment import PROJECT, VariableError

PREFECT_FILE = PROJECT / "prefect.yaml"
MINE = "almanac"
"""The tag of everything that this project deploys, by which it knows its own again."""

_VARIABLE = re.compile(r"\{\{\s*\$(\w+)\s*\}\}")


def declared(values: Mapping[str, str], path: Path = PREFECT_FILE) -> dict[str, Any]:
    """The file's content with `{{ $VARIABLE }}` replaced by `values`.

    Parameters and job variables without a value are left out; `active` of a schedule is true or false.
    Templates of events stay as they are: they are filled in when the event comes. Raises `VariableError`
    for a variable that is not in `values`, and for a deployment without the tag `almanac`.
    """
    content = filled(yaml.safe_load(path.read_text()), values, path)
    content.pop("definitions", None)
    for deployment in content["deployments"]:
        if MINE not in (deployment.get("tags") or []):
            raise VariableError(
                f"{path.name}: {deployment['entrypoint']} ({deployment['name']}) lacks the tag '{MINE}'. "
                "By it a deployment is known that the file has no more; add it."
            )
        deployment["parameters"] = _given(deployment.get("parameters") or {})
        pool = deployment["work_pool"]
        pool["job_variables"] = _given(pool.get("job_variables") or {})
        if "env" in pool["job_variables"]:
            pool["job_variables"]["env"] = _given(pool["job_variables"]["env"])
        for schedule in deployment.get("schedules") or []:
            schedule["active"] = str(schedule.get("active", True)).lower() == "true"
    return dict(content)


def filled(value: Any, values: Mapping[str, str], path: Path) -> Any:
    """A YAML value with the variables in its texts replaced. Raises `VariableError` for an unknown one."""
    if isinstance(value, Mapping):
        return {name: filled(one, values, path) for name, one in value.items()}
    if isinstance(value, list):
        return [filled(one, values, path) for one in value]
    if not isinstance(value, str):
        return value
    if unknown := sorted(set(_VARIABLE.findall(value)) - set(values)):
        raise VariableError(
            f"{path.name} asks for {', '.join(unknown)}. Expected a variable that deployments/environment.py "
            "names; add it there, with what it is for."
        )
    return _VARIABLE.sub(lambda found: values[found[1]], value)


def _given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value != ""}
