"""A disk that is really full wherever a run writes: one message, nothing is half-written, and the next run goes on."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from tasks.storage.faults import StoreError
from tasks.storage.store import Store
from tests import steps
from tests.conftest import ROOT

PAGE_BYTES = 4096


def on_a_small_disk(whole: str, folder: str) -> None:
    """Score the store `whole` on a disk with room for one page, and one more at each further start, until it is done.

    What each start came to, and the rows that readers saw after it, are printed.
    """
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], check=True)
    store = Store(shutil.copytree(whole, f"{folder}/store"))
    attempts: list[tuple[str, int]] = []
    while not attempts or attempts[-1][0]:
        pages = len(attempts) + 1
        size = shutil.disk_usage(folder).used + pages * PAGE_BYTES
        subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)
        error = ""
        with disable_run_logger():
            try:
                steps.score(store)
            except StoreError as store_error:
                error = str(store_error)
        height = 0 if store.version("toy/doubled") is None else steps.published(store).height
        attempts.append((error, height))
    print(json.dumps(attempts))


@pytest.mark.slow
def test_a_run_that_finds_no_room_says_so_and_the_next_one_goes_on(without_run_logger, store, tmp_path: Path):
    if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    steps.put(store)
    steps.train(store)
    (tmp_path / "disk").mkdir()
    code = (
        f"from {__name__} import on_a_small_disk as score; score({store.uri!r}, {str(tmp_path / 'disk')!r})"
    )
    process = subprocess.run(
        ["unshare", "--map-root-user", "--mount", sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert process.returncode == 0, process.stderr
    *full, (_, rows) = json.loads(process.stdout)
    assert {height for _, height in full} == {0, rows}, "it was full before and after the commit"
    assert all("No space left on device. Free some space" in error for error, _ in full)
    assert rows == 12
