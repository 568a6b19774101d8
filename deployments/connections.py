"""Live checks of everything that deployments and runs depend on: server, password, worker, store, leases, alerts."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from deployments.automations import check_block
from deployments.local import LEASES_ON_DISK
from deployments.server import check_version, connected
from flows.server import KEPT_BY_THE_SERVER
from models.addresses import refuse_credential
from models.errors import AlmanacError
from tasks.storage.store import Store

_LEASES = LEASES_ON_DISK["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"]
_REFUSED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)


@dataclass(frozen=True)
class Finding:
    """Whether something is `right`, and a message with its state or with what to do."""

    what: str
    right: bool
    message: str

    def __str__(self) -> str:
        return f"{'right' if self.right else 'WRONG'}  {self.what}: {self.message}"


def findings(values: Mapping[str, str]) -> Iterator[Finding]:
    """The findings of all checks; without a server, only the store is checked."""
    yield _store(values)
    try:
        with connected(values) as client:
            server = _Server(client, values)
            for what in ("server", "password", "worker", "leases", "retention", "alerts"):
                yield _finding(what, getattr(server, what))
    except AlmanacError as error:
        yield Finding("server", False, str(error))


def _finding(what: str, ask: Callable[[], str]) -> Finding:
    """The finding of a check; it is right unless the check raises."""
    try:
        return Finding(what, True, ask())
    except AlmanacError as error:
        return Finding(what, False, str(error))
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        return Finding(what, False, f"the server does not say: {str(error).splitlines()[0]}")


def _store(values: Mapping[str, str]) -> Finding:
    def write() -> str:
        refuse_credential("ALMANAC_STORE", values["ALMANAC_STORE"])
        Store(values["ALMANAC_STORE"]).check_writable()
        return f"{values['ALMANAC_STORE']} can be written from here"

    return _finding("store", write)


class WrongError(AlmanacError):
    """Something that runs depend on does not meet their needs."""


@dataclass(frozen=True)
class _Server:
    """The checks of the server; each raises `WrongError` with what to do."""

    client: SyncPrefectClient
    values: Mapping[str, str]

    def server(self) -> str:
        return f"{self.values['PREFECT_API_URL']} runs Prefect {check_version(self.client)}"

    def password(self) -> str:
        url = self.values["PREFECT_API_URL"]
        answer = httpx.get(f"{url.rstrip('/')}/admin/version", timeout=30)
        if answer.status_code in _REFUSED:
            return "the server requires one, and accepts ours"
        raise WrongError(
            f"{url} requires no password, and a deployment can run any command. Start the server with "
            "PREFECT_SERVER_API_AUTH_STRING=USER:PASSWORD, and set PREFECT_API_AUTH_STRING to it here and for the worker."
        )

    def worker(self) -> str:
        pool = self.values["ALMANAC_POOL"]
        try:
            self.client.read_work_pool(pool)
        except ObjectNotFound:
            raise WrongError(
                f"there is no work pool {pool} yet; python -m deployments deploy creates it."
            ) from None
        answer = self.client.request(
            "POST",
            "/work_pools/{work_pool_name}/workers/filter",
            path_params={"work_pool_name": pool},
            json={},
        )
        up = sorted(one["name"] for one in answer.json() if one["status"] == "ONLINE")
        if not up:
            raise WrongError(f"no worker serves the work pool {pool}: prefect worker start --pool {pool}")
        return f"{', '.join(up)} serves the work pool {pool}"

    def leases(self) -> str:
        storage = self._setting("concurrency", "lease_storage")
        if storage.endswith(".memory"):
            raise WrongError(
                f"{storage} forgets concurrency slots when the server restarts. Start the server with "
                f"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE={_LEASES}"
            )
        return f"{storage} survives a restart of the server"

    def retention(self) -> str:
        vacuum = self._setting("services", "db_vacuum")
        if not (vacuum["enabled"] is True or "flow_runs" in (vacuum["enabled"] or ())):
            variables = " ".join(f"{name}={value}" for name, value in KEPT_BY_THE_SERVER.items())
            raise WrongError(f"the server keeps every run forever, and grows. Start it with {variables}")
        return f"finished runs are kept for {vacuum['retention_period']}"

    def alerts(self) -> str:
        if not self.values["ALMANAC_ALERT_BLOCK"]:
            return "ALMANAC_ALERT_BLOCK is not set: failures appear in the server's event feed only"
        check_block(self.client, self.values["ALMANAC_ALERT_BLOCK"])
        return f"{self.values['ALMANAC_ALERT_BLOCK']} exists"

    def _setting(self, group: str, name: str) -> Any:
        settings = self.client.request("GET", "/admin/settings").json()["server"]
        if name not in settings.get(group, {}):
            raise WrongError(f"the server does not have the setting {group}.{name}: upgrade it")
        return settings[group][name]
