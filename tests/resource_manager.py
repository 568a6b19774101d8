"""A simulation of Azure Resource Manager as the container worker uses it: a container is a process on this machine."""

import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from tests.azure_permissions import REQUESTS, granted, lacking, needed_by_template
from tests.conftest import ROOT

Answer = tuple[int, dict[str, Any], dict[str, str]]

_DEPLOYMENT = re.compile(
    r"(?i)/subscriptions/[^/]+/resourcegroups/[^/]+/providers/Microsoft.Resources/deployments/([^/]+)$"
)
_GROUP = re.compile(
    r"(?i)/subscriptions/[^/]+/resourcegroups/[^/]+/providers/Microsoft.ContainerInstance/containerGroups/([^/]+)$"
)
_LIST = re.compile(
    r"(?i)(/subscriptions/[^/]+/resourcegroups/[^/]+/providers/(?:Microsoft.Resources/deployments|"
    r"Microsoft.ContainerInstance/containerGroups)/?(?:page/\d+)?)$"
)
_STOP = re.compile(_GROUP.pattern.replace("$", "/stop$"))
_LOGS = re.compile(_GROUP.pattern.replace("$", "/containers/[^/]+/logs$"))
_OPERATION = re.compile(r"/operations/([^/]+)$")
_DELETION = re.compile(_GROUP.pattern.replace("$", "/operationResults/1$"))
_OF_SUBSCRIPTION = re.compile(r"/subscriptions/[^/]+/operationresults/[^/]+$")
"""The result of deleting a deployment record. No role on a resource group allows to read it."""
_KINDS = {
    "list": _LIST,
    "deployment": _DEPLOYMENT,
    "group": _GROUP,
    "stop": _STOP,
    "logs": _LOGS,
    "operation": _OPERATION,
    "deletion": _DELETION,
}
_SOON = {"retry-after-ms": "50"}


MOST_RECORDS = 800
"""How many deployment records a resource group holds."""


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


@dataclass
class ResourceManager:
    """The requests it received, and its resources. It refuses what the caller's roles do not allow."""

    output: Path
    url: str = ""
    deployments: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    refuse: dict[str, int] = field(default_factory=dict)
    """How many of the next requests of a kind to refuse."""
    pulls: bool = True
    """Whether images can be pulled."""
    records: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    """Records of older deployments: their states, and when they ended."""
    left: list[str] = field(default_factory=list)
    """Names of container groups that are there, whoever started them."""
    page: int = 2
    """How many records are listed at a time."""
    may: set[str] = field(default_factory=lambda: granted("worker"))
    """The actions of the caller."""

    @property
    def submitted(self) -> dict[str, Any]:
        """The properties of the only deployment."""
        (one,) = self.deployments.values()
        return one

    def answer(self, method: str, path: str, body: Any) -> Answer:
        for kind, pattern in _KINDS.items():
            if match := pattern.search(path):
                request = f"{method} {kind}"
                self.asked[request] += 1
                if self.refuse.get(request, 0) > 0:
                    self.refuse[request] -= 1
                    return 503, _error("ServiceUnavailable", "Try again."), _SOON
                resource = "group" if "containergroups" in path.lower() else "deployment"
                needed = [REQUESTS[request if kind != "list" else f"GET {resource}"]]
                if request == "PUT deployment":
                    needed += needed_by_template(body["properties"]["template"])
                if missing := lacking(needed, self.may):
                    return 403, _error("AuthorizationFailed", f"The client may not {', '.join(missing)}"), {}
                return getattr(self, f"_{method.lower()}_{kind}")(match[1], body)
        if _OF_SUBSCRIPTION.search(path):
            return (
                403,
                _error("AuthorizationFailed", "The client may not read operations of the subscription"),
                {},
            )
        return 404, _error("NotFound", path), {}

    def _get_list(self, path: str, _: Any) -> Answer:
        first_path, _, page = path.partition("/page/")
        if first_path.rstrip("/").lower().endswith("groups"):
            groups = [
                {"name": name, "properties": {"osType": "Linux", "containers": []}} for name in self.left
            ]
            return 200, {"value": groups}, {}
        first, names = self.page * int(page or 0), sorted(self.records)
        records = [
            {"name": name, "properties": {"provisioningState": state, "timestamp": end.isoformat()}}
            for name in names[first : first + self.page]
            for state, end in [self.records[name]]
        ]
        after = f"{self.url}{first_path.rstrip('/')}/page/{int(page or 0) + 1}"
        return 200, {"value": records} | ({"nextLink": after} if first + self.page < len(names) else {}), {}

    def _delete_deployment(self, name: str, _: Any) -> Answer:
        if self.records.pop(name, None) is None:
            return 204, {}, {}
        return 202, {}, {"Location": f"{self.url}/subscriptions/0/operationresults/{name}", **_SOON}

    def _put_deployment(self, name: str, body: Any) -> Answer:
        if len(self.records) + len(self.deployments) >= MOST_RECORDS and not self._groomed():
            return 409, _error("DeploymentQuotaExceeded", f"The limit of '{MOST_RECORDS}' is reached."), {}
        self.deployments[name] = body["properties"]
        if self.pulls:
            group, resource = resolved(body["properties"])
            self.groups[group] = self._start(group, resource["properties"])
        where = {"Azure-AsyncOperation": f"{self.url}/operations/{name}", **_SOON}
        return 201, {"name": name, "properties": {"provisioningState": "AcceptResult"}}, where

    def _groomed(self) -> bool:
        """Whether Azure has deleted old records, which it does for a caller who may, oldest first."""
        if lacking([REQUESTS["DELETE deployment"]], self.may):
            return False
        for name, _ in sorted(self.records.items(), key=lambda one: one[1][1])[:50]:
            del self.records[name]
        return True

    def _get_operation(self, name: str, _: Any) -> Answer:
        if self.pulls:
            return 200, {"status": "Succeeded"}, _SOON
        return 200, {"status": "Failed", **_error("InaccessibleImage", "The image is not accessible.")}, _SOON

    def _get_deployment(self, name: str, _: Any) -> Answer:
        return 200, {"name": name, "properties": {"provisioningState": "Succeeded"}}, {}

    def _get_group(self, name: str, _: Any) -> Answer:
        if name not in self.groups:
            return 404, _error("ResourceNotFound", name), {}
        status = self.groups[name].poll()
        state: dict[str, Any] = {"state": "Running"}
        if status is not None:
            state = {"state": "Terminated", "exitCode": status if status >= 0 else 128 - status}
        container = {"name": "main", "properties": {"instanceView": {"currentState": state}}}
        properties = {"provisioningState": "Succeeded", "osType": "Linux", "containers": [container]}
        return 200, {"name": name, "location": "here", "properties": properties}, {}

    def _delete_group(self, name: str, _: Any) -> Answer:
        if name not in self.groups:
            return 204, {}, {}
        kill(self.groups.pop(name))
        where = (
            f"/subscriptions/0/resourceGroups/g/providers/Microsoft.ContainerInstance/containerGroups/{name}"
        )
        return 202, {}, {"Location": f"{self.url}{where}/operationResults/1", **_SOON}

    def _get_deletion(self, name: str, _: Any) -> Answer:
        return 204, {}, {}

    def _start(self, name: str, properties: dict[str, Any]) -> subprocess.Popen[bytes]:
        """The container's command, with its environment and no more, where the image has the flows."""
        container = properties["containers"][0]["properties"]
        environment = {
            v["name"]: v.get("value", v.get("secureValue")) for v in container["environmentVariables"]
        }
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with (self.output / f"{name}.log").open("wb") as output:
            return subprocess.Popen(
                container["command"],
                env={"PATH": path, "HOME": str(self.output), **environment},
                cwd=ROOT,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def told(self) -> str:
        """The output of all containers."""
        return "\n".join(path.read_text() for path in sorted(self.output.glob("*.log")))


def resolved(deployment: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and content of the container group that a deployment's template makes with its parameters."""
    template = deployment["template"]
    values = {name: one.get("defaultValue") for name, one in template["parameters"].items()}
    values |= {name: one["value"] for name, one in deployment["parameters"].items()}

    def put_in(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: put_in(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [put_in(inner) for inner in value]
        match = re.fullmatch(r"\[parameters\('(\w+)'\)\]", value) if isinstance(value, str) else None
        return values[match[1]] if match else value

    (resource,) = template["resources"]
    whole = put_in(resource)
    return whole["name"], whole


def kill(container: subprocess.Popen[bytes]) -> None:
    """End a container with all its processes, as running out of memory does."""
    if container.poll() is None:
        first = psutil.Process(container.pid)
        whole = [first, *first.children(recursive=True)]
        for step in (psutil.Process.suspend, psutil.Process.kill):  # so that none sees another one end
            for one in whole:
                with suppress(psutil.NoSuchProcess):
                    step(one)
    container.wait(20)


@contextmanager
def serving(output: Path) -> Iterator[ResourceManager]:
    """A resource manager that answers at its `url`; its containers end with it."""
    manager = ResourceManager(output)

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, content, headers = manager.answer(self.command, urlsplit(self.path).path, body)
            payload = b"" if status == 204 else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_PUT = do_DELETE = do_POST = do_HEAD = _handle  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    manager.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield manager
    finally:
        server.shutdown()
        server.server_close()
        for container in manager.groups.values():
            kill(container)
