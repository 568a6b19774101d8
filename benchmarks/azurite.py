"""Azurite, a Blob service on this machine, for benchmarks and tests."""

import base64
import hashlib
import hmac
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import httpx

from flows.server import free_port

_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Account and key of every Azurite, from its documentation."""
_FLAGS = ("--silent", "--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence")
_START_SECONDS = 60


def executable() -> str | None:
    """The path of Azurite: in the project as `node_modules/.bin/azurite-blob`, or on the path."""
    local = Path(__file__).parent.parent / "node_modules" / ".bin" / "azurite-blob"
    return str(local) if local.exists() else shutil.which("azurite-blob")


@contextmanager
def serving(command: str, folder: Path) -> Iterator[str]:
    """The address of a new Azurite without containers, whose log is in `folder`.

    Raises `RuntimeError` with the log if it does not answer.
    """
    port, log = free_port(), folder / "log"
    words = [command, *_FLAGS, "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    with log.open("wb") as out:
        server = subprocess.Popen(words, cwd=folder, stdout=out, stderr=out)
    try:
        if not answers_in_time(port, _START_SECONDS, server):
            raise RuntimeError(f"Azurite does not answer on port {port}: {log.read_text()}")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def create_container(url: str, name: str) -> None:
    """Create a container by the Blob REST API, signed with the key that every Azurite has."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    canonical = "".join(f"{header}:{value}\n" for header, value in sorted(headers.items()))
    resource = f"/{_ACCOUNT}/{_ACCOUNT}/{name}\nrestype:container"
    text = "\n".join(["PUT", *[""] * 11, canonical + resource])
    digest = hmac.new(base64.b64decode(_KEY), text.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {_ACCOUNT}:{base64.b64encode(digest).decode()}"
    httpx.put(f"{url}/{_ACCOUNT}/{name}?restype=container", headers=headers).raise_for_status()


def answers(port: int) -> bool:
    """Whether something listens on a port of the loopback interface."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers_in_time(port: int, seconds: float, server: "subprocess.Popen[bytes] | None" = None) -> bool:
    """Whether something listens on a port within `seconds`, and before `server` ends."""
    deadline = time.monotonic() + seconds
    while not answers(port):
        if time.monotonic() > deadline or (server is not None and server.poll() is not None):
            return False
        time.sleep(0.05)
    return True
