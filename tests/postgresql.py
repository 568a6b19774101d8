"""A real PostgreSQL for tests, with a password, on the loopback interface."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.azurite import answers
from flows.server import free_port
from tests.conftest import wait_until

PASSWORD = "p@ss/word:7%"
QUOTED = "p%40ss%2Fword%3A7%25"


def find_programs() -> Path:
    """The folder of PostgreSQL's programs; skips where there is none, except on CI, where that is a failure."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    on_path = shutil.which("initdb")
    if not programs and not on_path:
        reason = "no PostgreSQL; install it with: apt-get install postgresql"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return programs[-1].parent if programs else Path(str(on_path)).parent


class Server:
    """A server that can be stopped and started again; `url` includes the password."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.port, self.folder, self._programs = free_port(), folder, programs
        self.where = f"127.0.0.1:{self.port}/postgres"
        self.url = f"postgresql://postgres:{QUOTED}@{self.where}"
        self._who: dict[str, Any] = {"user": "postgres"} if os.getuid() == 0 else {}
        (folder / "password").write_text(PASSWORD)
        if self._who:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres", "postgres")
        options = ("--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync", "-U", "postgres")
        self._run("initdb", "-D", str(folder / "data"), *options)

    def start(self) -> None:
        flags = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self._control("start", "-w", "-o", flags, "-l", str(self.folder / "log"))
        wait_until(lambda: answers(self.port), 30, "PostgreSQL answers")

    def stop(self) -> None:
        self._control("stop", "-m", "immediate")

    def serve_tls(self, host: str) -> Path:
        """Make the server speak TLS from now on, with its own certificate for `host`; returns that certificate."""
        key, certificate = self.folder / "key.pem", self.folder / "certificate.pem"
        names = ("-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}")
        files = ("-keyout", str(key), "-out", str(certificate))
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names, *files]
        subprocess.run(command, check=True, capture_output=True)
        key.chmod(0o600)
        if self._who:
            shutil.chown(key, "postgres", "postgres")
        for name, value in (("ssl_key_file", key), ("ssl_cert_file", certificate), ("ssl", "on")):
            self.ask(f"alter system set {name} = '{value}'")
        self.ask("select pg_reload_conf()")
        wait_until(
            lambda: self.ask("select current_setting('ssl')") == [("on",)], 30, "PostgreSQL speaks TLS"
        )
        return certificate

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows that a statement returns, outside any transaction."""
        from adbc_driver_postgresql import dbapi

        with dbapi.connect(self.url, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    def _control(self, *words: str) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), *words)

    def _run(self, program: str, *words: str) -> None:
        command = [str(self._programs / program), *words]
        output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(command, check=True, cwd=self.folder, timeout=120, **output, **self._who)


@contextmanager
def server() -> Iterator[Server]:
    """A server with an empty database."""
    programs = find_programs()
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    instance = Server(programs, folder)
    try:
        instance.start()
        yield instance
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            instance.stop()
        shutil.rmtree(folder, ignore_errors=True)
