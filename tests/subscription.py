"""A simulation of an Azure subscription as `deploy.sh` and `delete.sh` use it, which refuses what Azure would refuse.

Container groups of runs go to `tests.resource_manager`, whose records it shares.
"""

import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.arm import GROUP, Known, Template
from tests.azure_permissions import granted
from tests.resource_manager import MOST_RECORDS, ResourceManager

AZ = f"""#!{sys.executable} -IS
import http.client, json, os, sys
connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["SUBSCRIPTION"]))
connection.request("POST", "/", json.dumps(sys.argv[1:]))
answer = json.load(connection.getresponse())
print(answer["out"])
sys.exit(answer["error"] or 0)
"""
_ASSIGNMENT, _ROLE = "Microsoft.Authorization/roleAssignments", "Microsoft.Authorization/roleDefinitions"
_CONTAINERS, _STORAGE = "Microsoft.ContainerInstance/containerGroups", "Microsoft.Storage/storageAccounts"
_IDENTITY, _REGISTRY = (
    "Microsoft.ManagedIdentity/userAssignedIdentities",
    "Microsoft.ContainerRegistry/registries",
)
_GLOBAL = (_STORAGE, _REGISTRY, "Microsoft.DBforPostgreSQL/flexibleServers")
_LISTED_CHILD = "Microsoft.Network/privateDnsZones/virtualNetworkLinks"
ACR_PULL = "7f951dda-4ed3-4680-a7ca-43fe172d538d"


class Refusal(Exception):  # noqa: N818 - what Azure answers
    """The code and the message of a refusal."""


class _Deployment(Template):
    def __init__(self, template: dict[str, Any], principals: Counter[str], **parameters: Any) -> None:
        super().__init__(template, **parameters)
        self._principals = principals

    def _reference(self, identifier: str, version: str) -> Any:
        name = identifier.rpartition("/")[2]
        if _REGISTRY in identifier:
            return {"loginServer": f"{name}.azurecr.io"}
        if _IDENTITY in identifier:
            principal = f"{name}#{self._principals[identifier]}"
            return {"principalId": principal, "clientId": principal}
        return Known(f"reference {identifier}")


@dataclass
class Subscription:
    """One resource group and what outlives it: role definitions, and names that others have taken."""

    manager: ResourceManager
    faults: Any = lambda _: []
    """The faults of a resource by its schema."""
    resources: dict[str, dict[str, Any]] | None = None
    roles: dict[str, dict[str, Any]] = field(default_factory=dict)
    assignments: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)
    cores: float = 10.0
    principals: Counter[str] = field(default_factory=Counter)
    """How often each identity has been created: each time it is another principal."""
    refusals: list[str] = field(default_factory=list)

    def az(self, words: list[str]) -> str:
        """The output of a command; raises `Refusal`."""
        options: dict[str, list[str]] = {}
        for word in words:
            if word.startswith("--"):
                values = options.setdefault(word, [])
            elif options:
                values.append(word)
        verb = " ".join(words[: next(i for i, word in enumerate(words) if word.startswith("--"))])
        return str(getattr(self, "_" + verb.replace(" ", "_"))(options) or "")

    def worker_may(self) -> set[str]:
        """The actions of the worker's identity as it is now."""
        worker = next(one for one in self.principals if one.endswith("-worker"))
        principal = f"{worker.rpartition('/')[2]}#{self.principals[worker]}"
        names = {
            one["role"].rpartition("/")[2] for one in self.assignments.values() if one["who"] == principal
        }
        return granted("worker") if names & {*self.roles} else set()

    def _group_create(self, _: Any) -> None:
        self.resources = {} if self.resources is None else self.resources

    def _group_show(self, _: Any) -> str:
        if self.resources is None:
            raise Refusal("ResourceGroupNotFound")
        return GROUP

    def _group_delete(self, _: Any) -> None:
        self.resources, self.assignments, self.images = None, {}, set()
        self.manager.records.clear()

    def _acr_build(self, options: dict[str, list[str]]) -> None:
        registry = self._there()[f"{GROUP}/providers/{_REGISTRY}/{options['--registry'][0]}"]
        rules = registry["properties"].get("networkRuleSet")
        if rules and rules["defaultAction"] == "Deny":
            raise Refusal("DENIED: client with IP is not allowed access.")
        self.images.add(f"{registry['name']}.azurecr.io/{options['--image'][0]}")

    def _resource_list(self, options: dict[str, list[str]]) -> str:
        kept = re.findall(r"type!='([^']+)'", options["--query"][0])
        rows = self._there().items()
        listed = [i for i, one in rows if one["type"].count("/") == 1 or one["type"] == _LISTED_CHILD]
        return "\n".join(i for i in listed if self._there()[i]["type"] not in kept)

    def _resource_delete(self, options: dict[str, list[str]]) -> None:
        (identifier,) = options["--ids"]
        rest = {i: one for i, one in self._there().items() if not f"{i}/".startswith(f"{identifier}/")}
        for other in [
            one
            for i, one in self._there().items()
            if f"{i}/".startswith(f"{identifier}/") and i != identifier
        ]:
            if other["type"] == _LISTED_CHILD:
                raise Refusal("CannotDeleteResource: it has nested resources")
        users = [
            i for i, one in rest.items()
            if one["type"] != _STORAGE and f'"{identifier}' in json.dumps([one["properties"], one.get("identity")])
        ]  # fmt: skip
        if users:
            raise Refusal(f"InUse: {identifier} by {users}")
        self.resources = rest
        self.assignments = {
            name: one for name, one in self.assignments.items() if not one["scope"].startswith(identifier)
        }

    def _role_definition_list(self, _: Any) -> str:
        return "\n".join(n for n, one in self.roles.items() if one["assignableScopes"] == [GROUP])

    def _role_assignment_delete(self, options: dict[str, list[str]]) -> None:
        role, scope = options["--role"][0], options["--scope"][0]
        self.assignments = {
            name: one
            for name, one in self.assignments.items()
            if not (one["scope"] == scope and one["role"].endswith(role))
        }

    def _role_definition_delete(self, options: dict[str, list[str]]) -> None:
        (name,) = options["--name"]
        if any(one["role"].endswith(name) for one in self.assignments.values()):
            raise Refusal("RoleDefinitionHasAssignments")
        del self.roles[name]

    def _deployment_group_create(self, options: dict[str, list[str]]) -> str:
        template = json.loads(Path(options["--template-file"][0]).read_text())
        values: dict[str, Any] = {}
        for word in options["--parameters"]:
            if word.startswith("@"):
                content = json.loads(Path(word[1:]).read_text())["parameters"]
                values |= {name: one["value"] for name, one in content.items()}
            else:
                name, _, text = word.partition("=")
                values[name] = text == "true" if template["parameters"][name]["type"] == "bool" else text
        if len(self.manager.records) >= MOST_RECORDS:
            raise Refusal("DeploymentQuotaExceeded")
        self.manager.records[options["--name"][0]] = ("Succeeded", datetime.now(UTC))
        for one in template["resources"]:
            identity = f"{GROUP}/providers/{_IDENTITY}/{Template(template, **values).value(one['name'])}"
            if one["type"] == _IDENTITY and identity not in self._there():
                self.principals[identity] += 1
        deployment = _Deployment(template, self.principals, **values)
        resources = {one["id"]: one for one in deployment.resources()}
        waiting = {i: [d for d in one.get("dependsOn", []) if d in resources] for i, one in resources.items()}
        for identifier in TopologicalSorter(waiting).static_order():
            self._put(identifier, resources[identifier])
        return json.dumps(deployment.value(template["outputs"]))

    def _there(self) -> dict[str, dict[str, Any]]:
        if self.resources is None:
            raise Refusal("ResourceGroupNotFound")
        return self.resources

    def _put(self, identifier: str, resource: dict[str, Any]) -> None:
        kind, name, properties = resource["type"], resource["name"], resource.get("properties", {})
        content = {key: value for key, value in resource.items() if key != "id"}
        if faults := self.faults(content):
            raise Refusal(f"InvalidTemplate: {faults}")
        if kind in _GLOBAL and name in self.taken:
            raise Refusal(f"{name} AlreadyTaken")
        if kind == _ROLE:
            if any(one["roleName"] == properties["roleName"] for n, one in self.roles.items() if n != name):
                raise Refusal("RoleDefinitionWithSameNameExists")
            self.roles[name] = properties
        elif kind == _ASSIGNMENT:
            self._assign(name, resource.get("scope", GROUP), properties)
        else:
            if kind == _CONTAINERS:
                self._check_container_group(identifier, resource)
            self._there()[identifier] = {"type": kind, "name": name, **resource, "properties": properties}

    def _assign(self, name: str, scope: str, properties: dict[str, Any]) -> None:
        new = {"scope": scope, "role": properties["roleDefinitionId"], "who": properties["principalId"]}
        if self.assignments.get(name, new) != new:
            raise Refusal("RoleAssignmentUpdateNotPermitted")
        if any(one == new for n, one in self.assignments.items() if n != name):
            raise Refusal("RoleAssignmentExists")
        self.assignments[name] = new

    def _check_container_group(self, identifier: str, resource: dict[str, Any]) -> None:
        others = [one for i, one in self._there().items() if one["type"] == _CONTAINERS and i != identifier]
        containers = [c["properties"] for one in (*others, resource) for c in one["properties"]["containers"]]
        own = [one["properties"] for one in resource["properties"]["containers"]]
        if sum(one["resources"]["requests"]["cpu"] for one in containers) > self.cores:
            raise Refusal("ContainerGroupQuotaReached")
        if any(sum(one["resources"]["requests"][name] for one in own) < 1 for name in ("cpu", "memoryInGB")):
            raise Refusal("a container group has at least 1 core and 1 GB")
        if containers[-1]["image"] not in self.images:
            raise Refusal(f"InaccessibleImage: {containers[-1]['image']}")
        (identity,) = resource["identity"]["userAssignedIdentities"]
        who = f"{identity.rpartition('/')[2]}#{self.principals[identity]}"
        if not any(one["who"] == who and ACR_PULL in one["role"] for one in self.assignments.values()):
            raise Refusal("InaccessibleImage: the identity may not pull")


@contextmanager
def answering(subscription: Subscription, folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which `az` is a command that changes the subscription."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            words = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                answer = {"out": subscription.az(words), "error": 0}
            except Refusal as refusal:
                subscription.refusals.append(str(refusal))
                answer = {"out": "", "error": f"ERROR: {refusal}"}
            payload = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: Any) -> None:
            pass

    (folder / "az").write_text(AZ)
    (folder / "az").chmod(0o755)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {"SUBSCRIPTION": str(server.server_address[1])}
    finally:
        server.shutdown()
        server.server_close()
