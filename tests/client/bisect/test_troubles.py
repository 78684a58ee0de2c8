"""A search while the farm is out of order, or somebody else is at it."""

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hacktree.client.bisect.store import find_bisection, hold_bisection
from hacktree.client.remote import Remote, add_remote
from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.main import main
from hacktree.common.repository.objectnames import meta_name
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository
from support.bisectfarm import bisect, make_farm, versions
from support.enterable import hacktree_command
from support.servers import RunningServer, nginx_serving
from support.sysroots import make_sysroot

START = ("start", "fastqa", "--good", "47.1", "--no-deploy", "--no-prefetch")
TEST = ("--host", "sh", "-c", 'grep -q fine "$HACKTREE_ROOT/usr/share/state"')


@pytest.fixture
def farm(tmp_path: Path) -> Repository:
    return make_farm(tmp_path / "farm", 12, 7)


@pytest.fixture
def server(farm: Repository) -> Iterator[RunningServer]:
    with nginx_serving(farm.path) as server:
        yield server


@pytest.fixture
def sysroot(tmp_path: Path, server: RunningServer) -> Sysroot:
    sysroot = make_sysroot(tmp_path / "sysroot")
    (sysroot.repository.path / "config.toml").write_text('min-free-space = "0"\n')
    add_remote(sysroot.repository, Remote("farm", server.url, "unsigned"))
    return sysroot


def test_a_run_skips_nothing_while_the_farm_has_lost_its_disk(
    sysroot: Sysroot, farm: Repository, tmp_path: Path
) -> None:
    """All builds seem pruned then. The run stops, and goes on when the farm is there again."""
    bisect(sysroot, *START)
    os.rename(farm.objects, tmp_path / "away")
    farm.objects.mkdir()
    stopped = bisect(sysroot, "run", *TEST, status=4)
    assert "can't be tested" in stopped.stdout
    saved = find_bisection(sysroot)
    assert saved is not None
    assert len(saved.session.events) == 1, "of the build that was here already"
    farm.objects.rmdir()
    os.rename(tmp_path / "away", farm.objects)
    assert "First bad build: fastqa 7 47.7 (" in bisect(sysroot, "run", *TEST).stdout


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"x")])
def test_a_build_that_is_damaged_on_the_farm_can_be_skipped(
    sysroot: Sysroot, farm: Repository, damage: Callable[[Path], object]
) -> None:
    """A person is told so; a run stops, as all builds may be served like this."""
    build = list_refs(farm)["fastqa"]
    while (commit := farm.load_commit(build)).version != "47.6":
        build = commit.parents[0]
    damage(farm.objects / meta_name(commit.root.id))
    begun = bisect(sysroot, *START, status=4)
    assert "`hacktree bisect skip` takes another build" in begun.stderr
    assert "takes another build" in bisect(sysroot, "run", *TEST, status=4).stderr
    bisect(sysroot, "skip")
    outcome = json.loads(bisect(sysroot, "run", "--json", *TEST, status=1).stdout)["outcome"]
    assert versions(outcome["suspects"]) == ["47.6", "47.7"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_who_hangs_up_leaves_no_test_behind(
    sysroot: Sysroot, tmp_path: Path, number: signal.Signals
) -> None:
    """Else a test would go on beside the next one. Nothing is answered for the build."""
    bisect(sysroot, *START)
    os.mkfifo(tmp_path / "begun")
    test = f"sleep 1000 & echo $! $$ >{tmp_path}/begun; wait"
    command = hacktree_command(sysroot, "bisect", "run", "--host", "sh", "-c", test)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        with open(tmp_path / "begun") as begun:
            processes = [os.pidfd_open(int(word)) for word in begun.read().split()]
        running.send_signal(number)
        assert running.wait() == -number
    for process in processes:
        with open(process, "rb"):
            assert select.select([process], [], [], 60)[0]
    saved = find_bisection(sysroot)
    assert saved is not None
    assert saved.session.events == ()


@pytest.mark.parametrize(("words", "kept"), [(("good",), 1), (("bad", "47.9"), 2)])
def test_an_answer_is_not_taken_for_a_build_that_came_meanwhile(
    sysroot: Sysroot,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    kept: int,
) -> None:
    """While a command waits for the lock another one answers; who names a build means that one."""

    @contextmanager
    def holding_late(sysroot: Sysroot) -> Iterator[None]:
        bisect(sysroot, "good")
        with hold_bisection(sysroot):
            yield

    bisect(sysroot, *START)
    monkeypatch.setattr("hacktree.client.commands.bisect_steps.hold_bisection", holding_late)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(sysroot.path))
    assert main(["bisect", *words]) == (2 if kept == 1 else 0)
    assert ("went on with the bisection meanwhile" in capsys.readouterr().err) is (kept == 1)
    saved = find_bisection(sysroot)
    assert saved is not None
    assert len(saved.session.events) == kept
