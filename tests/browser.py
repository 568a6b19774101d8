"""A real Chromium for tests, controlled over a pipe with the DevTools protocol."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe",
]  # fmt: skip


def find_chromium() -> str:
    """Path of the browser; skips where there is none, except on CI, where that is a failure."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path:
        return path
    if os.environ.get("CI"):
        pytest.fail("no chromium on PATH; CI must install it: apt-get install chromium")
    pytest.skip("no chromium on PATH; install it (apt-get install chromium) to run the browser tests")


class Page:
    """One tab. `errors` are console errors and uncaught exceptions, `requests` all requested addresses."""

    def __init__(self, write: int, reading_end: int) -> None:
        self._write, self._number, self._session = write, 0, ""
        self._answers: dict[int, Queue] = {}
        self.errors: list[str] = []
        self.requests: list[str] = []
        threading.Thread(target=self._listen, args=(reading_end,), daemon=True).start()
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        answers = self._answers[number] = Queue()
        os.write(self._write, json.dumps(message).encode() + b"\0")
        try:
            answer = answers.get(timeout=60)
        except Empty:
            raise TimeoutError(f"chromium did not answer {method} within 60 s") from None
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _listen(self, reading_end: int) -> None:
        with os.fdopen(reading_end, "rb") as stream:
            pending = b""
            while data := stream.read1(1 << 16):
                *messages, pending = (pending + data).split(b"\0")
                for message in messages:
                    self._take(json.loads(message))
        for answers in list(self._answers.values()):
            answers.put({"error": "chromium ended"})

    def _take(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case None:
                self._answers.pop(message["id"]).put(message)
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description") or details["text"])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning"):
                self.errors.append(str([a.get("description") or a.get("value") for a in params["args"]]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.errors.append(params["entry"]["text"])

    def show(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        scale = 2 if phone else 1
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, file: Path, fragment: str = "") -> None:
        """Open a file and wait until everything is drawn, or until the page says why it is not."""
        self.send("Page.navigate", url=file.resolve().as_uri() + fragment)
        self.wait(
            "document.documentElement?.dataset.ready || document.querySelector('#problem')?.textContent"
        )

    def run(self, expression: str) -> Any:
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 60) -> Any:
        """The expression's value as soon as it is true."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if value := self.run(expression):
                return value
            time.sleep(0.05)
        raise TimeoutError(f"not true within {seconds} s: {expression}. Errors: {self.errors}")

    def screenshot(self, path: Path, *, full: bool = False) -> None:
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(shot["data"]))


def _pipe() -> tuple[int, int]:
    """The two ends of a pipe, with numbers above 3 and 4, which the browser expects."""
    low = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low)
    for end in low:
        os.close(end)
    return high[0], high[1]


@contextmanager
def browser() -> Iterator[Page]:
    """A fresh Chromium with one tab, closed at the end."""
    to_browser, from_us = _pipe()
    to_us, from_browser = _pipe()
    profile = tempfile.mkdtemp(prefix="chromium-")
    shell = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
    command = ["bash", "-c", shell, find_chromium(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        command, pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Page(from_us, to_us)
    finally:
        os.close(from_us)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(profile, ignore_errors=True)
