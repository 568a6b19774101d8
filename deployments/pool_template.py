"""A work pool's base job template with values as the defaults of its variables.

    python deployments/pool_template.py TEMPLATE.json VALUES.json > FILLED.json

so that a deployment has to name only what is its own, such as cores and memory. Standard library only.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TemplateError(Exception):
    """The template does not have the variables that were given."""


def filled(template: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`template` with each value as its variable's default, no longer required; None leaves a variable as it is.

    Raises `TemplateError` for a value that no variable of the template has the name of.
    """
    variables = template["variables"]
    properties = variables["properties"]
    if unknown := sorted(set(values) - set(properties)):
        raise TemplateError(
            f"{', '.join(unknown)}: not a variable of the template. It has {', '.join(properties)}."
        )
    given = {name: value for name, value in values.items() if value is not None}
    changed = {
        name: one | {"default": given[name]} if name in given else one for name, one in properties.items()
    }
    required = [name for name in variables.get("required", []) if name not in given]
    return {**template, "variables": {**variables, "properties": changed, "required": required}}


if __name__ == "__main__":
    try:
        print(json.dumps(filled(*(json.loads(Path(path).read_text()) for path in sys.argv[1:3])), indent=2))
    except TemplateError as error:
        sys.exit(str(error))
