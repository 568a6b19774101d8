"""Folders for what a command needs while it runs."""

import subprocess
import sys
import tempfile

from tasks.storage.scratch import scratch

KILLED = """
import os, signal
from tasks.storage.scratch import scratch
with scratch("test") as folder:
    (folder / "rows").write_text("1")
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_command_left_is_removed_by_the_next_of_its_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = {"TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", KILLED], env=environment, check=False, timeout=60)
    (leftover,) = tmp_path.iterdir()
    (tmp_path / "almanac-test-of-others").mkdir()
    with scratch("other"):
        assert leftover.exists()
    with scratch("test") as folder, scratch("test") as second:
        assert not leftover.exists()
        assert folder.exists()
        assert second != folder
    assert [path.name for path in tmp_path.iterdir()] == ["almanac-test-of-others"]
