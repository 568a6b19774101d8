"""Fill in the variables of a work pool's base job template: given values become their defaults.

    python deployments/pool_template.py TEMPLATE.json VALUES.json > FILLED.json

A deployment then names only its own values, such as cores and memory. Standard library only.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TemplateError(Exception):
    """The template lacks a given variable."""


def with_defaults(template: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`template` with each value as its variable's default, no longer required; None leaves a variable unchanged.

    Raises `TemplateError` for a value whose name is not a variable of the template.
    """
    variables = template["variables"]
    properties = variables["properties"]
    if extra := sorted(set(values) - set(properties)):
        raise TemplateError(
            f"{', '.join(extra)}: not a variable of the template. Expected {', '.join(properties)}."
        )
    defaults = {name: value for name, value in values.items() if value is not None}
    updates = {
        name: one | {"default": defaults[name]} if name in defaults else one
        for name, one in properties.items()
    }
    required_names = [name for name in variables.get("required", []) if name not in defaults]
    return {**template, "variables": {**variables, "properties": updates, "required": required_names}}


if __name__ == "__main__":
    try:
        print(
            json.dumps(
                with_defaults(*(json.loads(Path(path).read_text()) for path in sys.argv[1:3])), indent=2
            )
        )
    except TemplateError as error:
        sys.exit(str(error))
