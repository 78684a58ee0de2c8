"""Promise: no kill leaves a program's scratch directory for longer than to the next command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hacktree.client.bisect.components.rpmdb import can_write

OWNER = """
import sys
from hacktree.client.scratch import scratch_directory
with scratch_directory() as scratch:
    (scratch / "rpmdb.sqlite").write_bytes(b"half of it")
    print(scratch.name, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_owner_left_goes_and_what_a_living_one_has_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    owners = [
        subprocess.Popen(
            [sys.executable, "-c", OWNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    killed, living = owners
    names = [owner.stdout.readline().strip() for owner in owners if owner.stdout is not None]
    try:
        killed.kill()
        killed.wait()
        (tmp_path / "hacktree-scratch-link").symlink_to(tmp_path)
        assert set(names) < set(os.listdir(tmp_path))
        assert can_write("sqlite"), "the machine's rpm works in one"
        assert sorted(os.listdir(tmp_path)) == sorted([names[1], "hacktree-scratch-link"])
        assert (tmp_path / names[1] / "rpmdb.sqlite").exists()
    finally:
        for owner in owners:
            owner.communicate()
    assert living.returncode == 0
    assert os.listdir(tmp_path) == ["hacktree-scratch-link"]
