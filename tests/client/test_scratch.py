"""Promise: no kill leaves a program's scratch directory for longer than to the next command."""

import fcntl
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from hacktree.client.bisect.components.rpmdb import can_write
from support.enterable import hacktree, hacktree_command
from support.sysroots import make_sysroot

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


def test_what_a_layers_command_installs_to_stays_while_it_outlives_a_kill(tmp_path: Path) -> None:
    """Also when of its processes only a child is left; then it goes, and the next one is whole."""
    sysroot = make_sysroot(tmp_path / "sysroot")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    os.mkfifo(tmp_path / "started")
    os.mkfifo(tmp_path / "go-on")
    script = (
        f'(touch "$DESTDIR/first"; echo $$ >{tmp_path}/started; '
        f'read line <{tmp_path}/go-on; touch "$DESTDIR/second") & wait'
    )
    environment = {**os.environ, "TMPDIR": str(temporary)}
    adding = subprocess.Popen(
        hacktree_command(sysroot, "layer", "add", "m", "--", "sh", "-c", script), env=environment
    )
    with open(tmp_path / "started") as started:
        shell = int(started.read())
    adding.kill()
    adding.wait()
    with open(os.pidfd_open(shell), "rb") as ended:
        os.kill(shell, 9)
        assert select.select([ended], [], [], 60)[0]
    (left,) = temporary.iterdir()

    def add(name: str) -> None:
        words = ("layer", "add", name, "--", "sh", "-c", 'touch "$DESTDIR/whole"')
        done = hacktree(sysroot, *words, TMPDIR=str(temporary))
        assert done.returncode == 0, done.stderr

    add("one")
    assert [path.name for path in left.iterdir()] == ["destdir"]
    assert [path.name for path in (left / "destdir").iterdir()] == ["first"]
    held = os.open(left, os.O_RDONLY)
    (tmp_path / "go-on").write_text("now\n")
    lock_free(held)
    os.close(held)
    assert sorted(path.name for path in (left / "destdir").iterdir()) == ["first", "second"]
    add("two")
    assert list(temporary.iterdir()) == []


def lock_free(descriptor: int) -> None:
    """Wait until nobody holds the lock of a directory, at most a minute."""
    subprocess.run(
        ["flock", "--exclusive", "--timeout", "60", str(descriptor)],
        pass_fds=[descriptor],
        check=True,
    )
    fcntl.flock(descriptor, fcntl.LOCK_UN)
