"""The expressions of Azure Resource Manager templates, as far as the project's templates use them."""

# ruff: noqa: N802 - the functions have the names that templates call them by

import hashlib
import re
from collections.abc import Callable
from typing import Any

_TOKEN = re.compile(r"\s*('(?:[^']|'')*'|\d+|[A-Za-z]\w*|[().,\[\]])")
GROUP = "/subscriptions/S/resourceGroups/G"


def resource_id(kind: str, *names: str, scope: str = GROUP) -> str:
    """The id of a resource, in which the parts of its type and its names alternate."""
    provider, *types = kind.split("/")
    assert len(types) == len(names), f"{kind} has {len(types)} names, not {names}"
    return f"{scope}/providers/{provider}/" + "/".join(f"{t}/{n}" for t, n in zip(types, names, strict=True))


class Template:
    """A template with values for its parameters. `looked_up` collects what `reference` and `listKeys` ask for."""

    def __init__(self, template: dict[str, Any], **parameters: Any) -> None:
        self.template = template
        self.parameters = {
            name: one.get("defaultValue") for name, one in template["parameters"].items()
        } | parameters
        self.looked_up: list[str] = []

    def value(self, expression: Any) -> Any:
        """`expression` with every template expression in it evaluated."""
        if isinstance(expression, dict):
            return {self.value(key): self.value(inner) for key, inner in expression.items()}
        if isinstance(expression, list):
            return [self.value(inner) for inner in expression]
        if not (isinstance(expression, str) and expression.startswith("[") and expression.endswith("]")):
            return expression
        text, tokens, at = expression[1:-1], [], 0
        while at < len(text.rstrip()):
            match = _TOKEN.match(text, at)
            assert match, f"cannot be read: {text[at:]}"
            tokens.append(match[1])
            at = match.end()
        result = self._term(tokens)()
        assert not tokens, f"too much: {' '.join(tokens)} in {expression}"
        return result

    def resources(self) -> list[dict[str, Any]]:
        """Resources whose condition holds, evaluated, with their `id`."""
        evaluated = []
        for resource in self.template["resources"]:
            if self.value(resource.get("condition", True)):
                whole = self.value({k: v for k, v in resource.items() if k != "condition"})
                whole["id"] = resource_id(
                    whole["type"], *whole["name"].split("/"), scope=whole.get("scope", GROUP)
                )
                evaluated.append(whole)
        return evaluated

    def _term(self, tokens: list[str]) -> Callable[[], Any]:
        token = tokens.pop(0)
        result: Callable[[], Any]
        if token.startswith("'"):
            result = lambda: token[1:-1].replace("''", "'")  # noqa: E731
        elif token.isdigit():
            result = lambda: int(token)  # noqa: E731
        else:
            assert tokens.pop(0) == "(", f"{token} is not called"
            arguments = []
            while tokens[0] != ")":
                arguments.append(self._term(tokens))
                if tokens[0] == ",":
                    tokens.pop(0)
            tokens.pop(0)
            result = lambda: self._call(token, arguments)  # noqa: E731
        while tokens and tokens[0] == ".":
            tokens.pop(0)
            result = self._member(result, tokens.pop(0))
        return result

    @staticmethod
    def _member(of: Callable[[], Any], name: str) -> Callable[[], Any]:
        return lambda: of()[name]

    def _call(self, name: str, arguments: list[Callable[[], Any]]) -> Any:
        if name == "if":
            return arguments[1]() if arguments[0]() else arguments[2]()
        values = [argument() for argument in arguments]
        return getattr(self, f"_{name}")(*values)

    def _parameters(self, name: str) -> Any:
        return self.value(self.parameters[name])

    def _variables(self, name: str) -> Any:
        return self.value(self.template["variables"][name])

    def _reference(self, identifier: str, version: str) -> Any:
        self.looked_up.append(identifier)
        return Known(f"reference {identifier}")

    def _listKeys(self, identifier: str, version: str) -> Any:
        self.looked_up.append(identifier)
        return Known(f"keys of {identifier}")

    def _resourceId(self, kind: str, *names: str) -> str:
        return resource_id(kind, *names)

    def _subscriptionResourceId(self, kind: str, *names: str) -> str:
        return resource_id(kind, *names, scope="/subscriptions/S")

    def _extensionResourceId(self, scope: str, kind: str, *names: str) -> str:
        return resource_id(kind, *names, scope=scope)

    def _resourceGroup(self) -> dict[str, str]:
        return {"id": GROUP, "name": "G", "location": "L"}

    def _subscription(self) -> dict[str, str]:
        return {"subscriptionId": "S"}

    def _concat(self, *values: Any) -> Any:
        return (
            [one for value in values for one in value]
            if isinstance(values[0], list)
            else "".join(map(str, values))
        )

    def _createObject(self, *values: Any) -> dict[str, Any]:
        return dict(zip(values[::2], values[1::2], strict=True))

    def _createArray(self, *values: Any) -> list[Any]:
        return list(values)

    def _guid(self, *values: str) -> str:
        return hashlib.sha256("-".join(values).encode()).hexdigest()[:32]

    def _uniqueString(self, *values: str) -> str:
        return self._guid(*values)[:13]

    def _null(self) -> None:
        return None

    def _empty(self, value: Any) -> bool:
        return not value

    def _not(self, value: bool) -> bool:
        return not value

    def _and(self, *values: bool) -> bool:
        return all(values)

    def _or(self, *values: bool) -> bool:
        return any(values)

    def _take(self, value: str, length: int) -> str:
        return value[:length]

    def _toLower(self, value: str) -> str:
        return value.lower()

    def _uriComponent(self, value: str) -> str:
        from urllib.parse import quote

        return quote(value, safe="")


class Known(str):
    """Azure's answer; every request is expected."""

    def __getitem__(self, name: Any) -> "Known":
        return Known(f"{self}.{name}")
