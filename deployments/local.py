"""A Prefect server, a worker and the pages of runs on this machine, which outlast the command that started them."""

import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from deployments.environment import PROJECT
from flows.server import KEPT_BY_THE_SERVER, RECORDED_TOGETHER, spare_loopback, wait_for_start
from models.errors import AlmanacError

_STOP_SECONDS = 30
SERVER, WORKER, PAGES = "server", "worker", "pages"
LEASES_ON_DISK = {
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}
"""On disk, leases of concurrency limits survive a restart of the server. In memory, Prefect's default, they do not: a
run cannot renew its lease and crashes, and the slot of a pending run is never released."""


class LocalError(AlmanacError):
    """The local server or worker cannot be started."""


class Local:
    """The project's processes on this machine by name, with their logs, in one folder."""

    def __init__(self, port: int, folder: Path = PROJECT / ".deploy") -> None:
        self.port, self.folder = port, folder
        self.ui = f"http://127.0.0.1:{port}"
        self.url = f"{self.ui}/api"

    def environment(self) -> dict[str, str]:
        """This process's environment, for a server on the loopback interface that keeps its files in the folder.

        The server requires its password, and lets no web page except its own UI read its answers.
        """
        spare_loopback()
        password = self.password()
        own = {
            "PREFECT_API_AUTH_STRING": password,
            "PREFECT_SERVER_API_AUTH_STRING": password,
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{self.ui},http://localhost:{self.port}",
            "PREFECT_API_URL": self.url,
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "true",
            **LEASES_ON_DISK,
            **KEPT_BY_THE_SERVER,
            **RECORDED_TOGETHER,
        }
        store = {"ALMANAC_STORE": str(PROJECT / "store"), "ALMANAC_PAGES_URL": self.pages}
        return {**store, **os.environ, **own}

    @property
    def pages(self) -> str:
        """The address of the pages of runs, at the next port; its path is a secret, which follows from the password."""
        secret = hashlib.sha256(f"pages/{self.password()}".encode()).hexdigest()[:32]
        return f"http://127.0.0.1:{self.port + 1}/{secret}"

    @property
    def password_file(self) -> Path:
        """The file with the password of the API and its UI, which only its owner can read."""
        return self.folder / "password"

    def password(self) -> str:
        """The password of the API, which the first call generates at random."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            file = os.open(self.password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return self.password_file.read_text()
        with open(file, "w") as new:
            new.write(secrets.token_urlsafe(24))
        return self.password_file.read_text()

    def start_server(self) -> bool:
        """Start the server unless it is running; return whether it did. Raises `LocalError` if the port is in use."""
        if server := self.running(SERVER):
            if (port := _port_of(server)) != self.port:
                raise LocalError(
                    f"The server of `make deploy` is running on port {port}, and so is its worker. Continue with "
                    f"make deploy PORT={port}, or stop them first: make undeploy"
                )
            self._wait()
            return False
        if self._answers():
            raise LocalError(
                f"Something that `make deploy` did not start answers at {self.ui}. Stop it, or use another "
                "port: make deploy PORT=4201"
            )
        words = (
            "deployments.prefect_server",
            "server",
            "start",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        )
        self._start(SERVER, words, self.environment())
        self._wait()
        return True

    def start_worker(self, values: Mapping[str, str]) -> bool:
        """Start a worker of the process pool unless it is running; return whether it was started."""
        if self.running(WORKER):
            return False
        words = ("prefect", "worker", "start", "--pool", values["ALMANAC_POOL"], "--type", "process")
        self._start(WORKER, (*words, "--name", "local", "--limit", "2"), {**self.environment(), **values})
        return True

    def start_pages(self, values: Mapping[str, str]) -> bool:
        """Serve the pages of runs unless that runs, or `ALMANAC_PAGES_URL` is another address; return whether it started.

        Raises `LocalError` if the port is in use.
        """
        if values["ALMANAC_PAGES_URL"] != self.pages or self.running(PAGES):
            return False
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port + 1), timeout=2):
            raise LocalError(
                f"Something that `make deploy` did not start answers at port {self.port + 1}, where the pages of runs are "
                f"served. Stop it, or use another port: make undeploy deploy PORT={self.port + 2}"
            )
        words = ("deployments", "pages", "--port", str(self.port + 1))
        self._start(PAGES, words, {**self.environment(), **values})
        return True

    def stop(self) -> list[str]:
        """Stop everything, with the runs that the worker started; return the names of what was stopped."""
        names = []
        for name in (WORKER, PAGES, SERVER):
            process = self.running(name)
            if process:
                children = process.children(recursive=True)
                process.terminate()
                psutil.wait_procs([process], timeout=_STOP_SECONDS)
                survivors = [one for one in (process, *children) if one.is_running()]
                for one in survivors:
                    one.kill()
                psutil.wait_procs(survivors, timeout=_STOP_SECONDS)
                names.append(name)
            self._record(name).unlink(missing_ok=True)
        return names

    def running(self, name: str) -> psutil.Process | None:
        """The process of that name; None if it is not running, even if another process has its number."""
        try:
            record = json.loads(self._record(name).read_text())
            process = psutil.Process(record["pid"])
            same = process.is_running() and abs(process.create_time() - record["started"]) < 1
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return None

    def _start(self, name: str, words: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=PROJECT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        record = {"pid": process.pid, "started": psutil.Process(process.pid).create_time()}
        self._record(name).write_text(json.dumps(record))

    def _wait(self) -> None:
        if not wait_for_start(self._answers, lambda: self.running(SERVER) is not None):
            raise LocalError(f"The Prefect server did not start. Its log says why: {self._log(SERVER)}.")

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _record(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def _port_of(server: psutil.Process) -> int:
    """The port that a server was started on."""
    words = server.cmdline()
    return int(words[words.index("--port") + 1])
