"""Fixtures that several test modules share. What is heavy is imported where it is used."""

import fcntl
import functools
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent

MadeOnce = Callable[[str, Callable[[Path], object]], Path]
"""See the fixture `made_once`."""

AUTHORITY = str(ROOT / "tests" / "authority.pem")
"""The only authority that tests trust, expired: no test leaves this machine, and each client would read all of them."""

os.environ["PREFECT_TASKS_REFRESH_CACHE"] = "true"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["PREFECT_SERVER_EPHEMERAL_ENABLED"] = "false"  # no test starts a server that it does not name
os.environ["PREFECT_API_SSL_CERT_FILE"] = os.environ["SSL_CERT_FILE"] = AUTHORITY
os.environ["DO_NOT_TRACK"] = "true"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["PREFECT_LOGGING_LEVEL"] = os.environ["PREFECT_LOGGING_ROOT_LEVEL"] = "WARNING"
os.environ["DASK_LOGGING__DISTRIBUTED"] = "critical"
os.environ |= dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)  # as in a worker
for variable in (
    "ALMANAC_STORE",
    "ALMANAC_SCHEDULER",
    "ALMANAC_SQL_URL",
    "ALMANAC_WORKERS",
    "MLFLOW_TRACKING_URI",
    "PREFECT_API_URL",
):
    os.environ.pop(variable, None)

settings.register_profile("almanac", deadline=None)  # no test asserts a time
settings.load_profile("almanac")

MIGRATION = """
import asyncio
from prefect.server.database import provide_database_interface
from prefect.server.models.block_registration import run_block_auto_registration

async def migrate():
    database = provide_database_interface()
    await database.create_db()
    async with await database.session() as session:
        await run_block_auto_registration(session=session)

asyncio.run(migrate())

from flows.server import _remember_schema

_remember_schema()
"""
"""What a Prefect server does to its database when it first starts, and what `flows.server` notes of it."""

SERVED = {"prefect_api", "dask_cluster", "command", "azurite", "together", "local", "client"}
"""Fixtures that start a server or processes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `served` what uses a server or processes, which `make quick` leaves out; what takes long comes first.

    So no process still has minutes to go when the others have nothing left.
    """
    for item in items:
        if SERVED & {*getattr(item, "fixturenames", ())}:
            item.add_marker("served")
    slow, served = (
        {item.path for item in items if item.get_closest_marker(mark)} for mark in ("slow", "served")
    )
    items.sort(key=lambda item: -(item.path in slow) - (item.path in served))


@pytest.fixture(scope="session", autouse=True)
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Prefect keeps its files, here and in every process that a test starts; those without a server share one."""
    home = tmp_path_factory.mktemp("prefect")
    os.environ["PREFECT_HOME"] = str(home)
    os.environ["ALMANAC_SERVER_IDLE_SECONDS"] = "60"
    return home


@pytest.fixture(scope="session")
def prefect_database(prefect_home: Path, made_once: MadeOnce) -> Path:
    """A folder with an empty database for a Prefect server, which takes six processor seconds to make one.

    A command's server that finds a copy of the folder as its home starts as after an earlier one; `PREFECT_HOME` is one.
    """

    def migrate(folder: Path) -> None:
        words = [sys.executable, "-c", MIGRATION]
        environment = os.environ | {"PREFECT_HOME": str(folder)}
        subprocess.run(words, env=environment, cwd=ROOT, check=True, capture_output=True)

    folder = made_once("prefect-database", migrate)
    shutil.copytree(folder, prefect_home, dirs_exist_ok=True)
    return folder


MIGRATED = {
    "PREFECT_API_DATABASE_MIGRATE_ON_START": "false",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
}
"""Variables of a server whose database is that of `prefect_database`."""


@pytest.fixture(scope="session")
def prefect_api(prefect_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the one Prefect server of all tests of this process; it plans no runs and calls none late."""
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    from flows.server import RECORDED_TOGETHER

    folder = tmp_path_factory.mktemp("prefect-server")
    shutil.copy(prefect_database / "prefect.db", folder / "prefect-test.db")
    with ExitStack() as server, pytest.MonkeyPatch.context() as patch:
        for service in ("SCHEDULER", "LATE_RUNS", "FOREMAN", "PAUSE_EXPIRATIONS"):
            patch.setenv(f"PREFECT_SERVER_SERVICES_{service}_ENABLED", "false")
        for name, value in (RECORDED_TOGETHER | MIGRATED).items():
            patch.setenv(name, value)
        patch.setattr("prefect.testing.utilities.mkdtemp", lambda: str(folder))
        server.enter_context(prefect_test_harness(server_startup_timeout=120))
        server.enter_context(
            temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
        )  # as in `prefect_server`
        patch.undo()
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="session")
def dask_cluster() -> Iterator[Any]:
    """Two worker processes that all runs of the tests in this process share.

    A key that kills its worker is given up after the second worker.
    """
    import dask
    from distributed import LocalCluster

    from flows.cluster import LOCAL_SETTINGS
    from flows.workers import WORKER_ENVIRONMENT, begin_imports

    begin_imports("flows.sales")
    settings = LOCAL_SETTINGS | {"distributed.scheduler.allowed-failures": 1}
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs="CRITICAL",
            preload=["tests.toy.__main__"],
            env=WORKER_ENVIRONMENT,
        ) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="session")
def mlflow_database(made_once: MadeOnce) -> Path:
    """An empty database of MLflow, `mlflow.db`, which takes three processor seconds to make; a test takes a copy."""

    def begin(folder: Path) -> None:
        from mlflow import MlflowClient

        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()

    return made_once("mlflow", begin) / "mlflow.db"


@pytest.fixture(scope="session")
def mlflow_records(mlflow_database: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of the one MLflow database, in this process, of the stores that do not care where it is."""
    return f"sqlite:///{shutil.copy(mlflow_database, tmp_path_factory.mktemp('mlflow-records'))}"


@pytest.fixture(scope="session")
def command(prefect_api: str, dask_cluster: Any, mlflow_records: str) -> Callable[..., SimpleNamespace]:
    """`command("sales", "run", ...)`: the command line, called in this process; what it printed and its status."""
    import contextlib
    import io

    import tests.toy.__main__
    from flows import command_line

    application = functools.cache(command_line.application)

    def run(*arguments: str) -> SimpleNamespace:
        words = [str(argument) for argument in arguments]
        out, err = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.setattr("sys.argv", ["python -m flows", *words])
            patch.setattr(command_line, "application", application)
            patch.setenv("ALMANAC_SCHEDULER", dask_cluster.scheduler_address)
            patch.setenv("MLFLOW_TRACKING_URI", mlflow_records)
            try:
                tests.toy.__main__.main()
            except SystemExit as ended:
                status = ended.code
        result = SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue(), json=None)
        if "--json" in words and status == 0:
            result.json = json.loads(result.out)
        return result

    return run


@pytest.fixture
def without_run_logger() -> Iterator[None]:
    """Lets `task.fn(...)` be called outside a run."""
    from prefect.logging import disable_run_logger

    with disable_run_logger():
        yield


@pytest.fixture
def store(tmp_path: Path):
    """An empty store on local disk."""
    from tasks.storage.store import Store

    return Store(str(tmp_path / "store"))


@pytest.fixture(scope="session")
def orange_juice() -> Path:
    """The folder of the real sales; skips where it is absent."""
    root = Path(os.environ.get("ALMANAC_TEST_DATA", ROOT.parent / "shared" / "data"))
    folder = root / "orange_juice"
    if not (folder / "sales.parquet").exists():
        pytest.skip(
            f"no real sales at {folder}; set ALMANAC_TEST_DATA to the folder with the public data sets"
        )
    return folder


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A real Blob service on this machine; `container()` makes an empty container and gives its URI.

    Found as `node_modules/.bin/azurite-blob` under the project, or on the path. Without it tests are
    skipped, except on CI, where that is a failure.
    """
    from benchmarks.azurite import executable, serving

    program = executable()
    if not program:
        reason = "no azurite-blob; install it with: npm install --no-save azurite@3.35.0"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with serving(program, tmp_path_factory.mktemp("azurite")) as url:
        yield from _blob_service(url)


def _blob_service(url: str) -> Iterator[SimpleNamespace]:
    from benchmarks.azurite import create_container

    environment = {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": url}
    numbers = iter(range(1_000))

    def container() -> str:
        name = f"almanac-{next(numbers)}"
        create_container(url, name)
        return f"az://{name}"

    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield SimpleNamespace(container=container, environment=environment)


@pytest.fixture(scope="session")
def together() -> Iterator[Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]]:
    """`together(function, arguments)`: `function(*each)` for each, at once, in processes of their own."""
    from flows.workers import begin_imports

    begin_imports("flows.sales")
    context = multiprocessing.get_context("forkserver")
    with context.Manager() as manager, ProcessPoolExecutor(4, mp_context=context) as pool:

        def run(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
            assert len(arguments) <= 4
            barrier = manager.Barrier(len(arguments))
            azure = {name: value for name, value in os.environ.items() if name.startswith("AZ")}
            futures = [pool.submit(_meet, barrier, azure, function, each) for each in arguments]
            return [future.result(timeout=120) for future in futures]

        yield run


def _meet(
    barrier: Any, azure: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    os.environ.update(azure)
    barrier.wait(100)
    return function(*arguments)


def wait_until(condition, seconds: float, what: object) -> None:
    """Wait until `condition()` holds, asking less often the longer it takes; fails the test when it never does.

    `what` is put into the message, as it is then.
    """
    start = time.monotonic()
    deadline = start + seconds
    while not condition():
        if start > deadline:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(min(max(0.05, 5 * (time.monotonic() - start)), 0.25))
        start = time.monotonic()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """`made_once(name, make)`: a folder that all processes of the tests share, after `make(folder)` in the first of them."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder, complete = root / name, root / f"{name}.made"
            if not complete.exists():
                folder.mkdir()
                make(folder)
                complete.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def sales_store(command: Callable[..., SimpleNamespace], made_once: MadeOnce) -> SimpleNamespace:
    """A store after one `sales run` on a small simulated chain: `uri`, `sources` by name, the run's `result`.

    All processes of the tests share it: a test that changes a store takes a copy.
    """
    from models.sales.simulation import simulate

    market = simulate(skus=8, stores=4, weeks=96, seed=3)
    names = {"source": "history", "plan": "plan", "stores": "stores"}

    def run(folder: Path) -> None:
        words = []
        for option, name in names.items():
            getattr(market, name).write_parquet(folder / f"{name}.parquet")
            words += [f"--{option}", folder / f"{name}.parquet"]
        output = command("sales", "run", *words, "--shards", "2", "--store", folder / "store", "--json")
        assert output.status == 0, output.err
        (folder / "result.json").write_text(json.dumps(output.json))

    folder = made_once("sales", run)
    return SimpleNamespace(
        uri=str(folder / "store"),
        sources={name: str(folder / f"{name}.parquet") for name in names.values()},
        result=json.loads((folder / "result.json").read_text()),
        made=market,
    )


@pytest.fixture(scope="session")
def machines_store(command: Callable[..., SimpleNamespace], made_once: MadeOnce) -> Path:
    """A store with a bundle of machines from the fleet of `tests.fleet` as it was at `CUT`, in two shards.

    All processes of the tests share it: each test file takes a copy.
    """
    from tests import fleet

    def train(folder: Path) -> None:
        where = ["--store", folder / "store"]
        words = fleet.sources(folder / "sources", fleet.until_cut(fleet.fleet()))
        for stage in (["ingest", *words, "--shards", "2"], ["train", *fleet.OPTIONS]):
            output = command("machines", *stage, *where)
            assert output.status == 0, output.err

    return made_once("machines", train) / "store"
