"""A bisection that is killed at any durable step, and run again, finds the same build.

One program forks a child for each step, which spares starting Python some hundred times. The child
is killed by SIGKILL right before its Nth call that publishes a name, removes one, or syncs.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hacktree.client.bisect.core.state import Found, current_state
from hacktree.client.bisect.store import (
    Local,
    Saved,
    find_bisection,
    read_bisection,
    write_bisection,
)
from hacktree.client.recovery import find_leftovers
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import open_sysroot
from hacktree.common.cli.main import main
from hacktree.common.objects.ids import parse_object_id
from support.bisectfarm import make_farm, make_tester
from support.pulling import assert_whole
from support.sysroots import assert_live_root_is_complete, assert_nothing_left_over

MOST_CALLS = 500

PROGRAM = """
import os, shutil, signal, subprocess, sys, traceback
from pathlib import Path
from hacktree.client.bisect.driver import Machine
from hacktree.client.bisect.ending import end
from hacktree.client.bisect.loop import Check, check_all
from hacktree.client.bisect.store import find_bisection, hold_bisection, read_bisection
from hacktree.client.bisect.farm.transfers import Transfers
from hacktree.client.sysroot import open_sysroot
from hacktree.common.repository import durable

CALLS = ("rename", "unlink", "fsync")
TEST = Check(("sh", "-c", 'grep -q fine "$HACKTREE_ROOT/usr/share/state"'))

def run(machine):
    check_all(machine, read_bisection(machine.sysroot), TEST, lambda *told: None)

def reset(machine):
    if find_bisection(machine.sysroot) is not None:
        end(machine)

def act(action, path):
    sysroot = open_sysroot(path)
    with hold_bisection(sysroot):
        action(Machine(sysroot, Transfers(sysroot.repository)))

def counted(function, last):
    own = os.getpid()
    def call(*words, **named):
        if os.getpid() == own:
            last[0] -= 1
            if last[0] == 0:
                os.kill(own, signal.SIGKILL)
        return function(*words, **named)
    return call

def killed(action, path, number):
    child = os.fork()
    if child == 0:
        last = [number]
        for name in CALLS:
            setattr(os, name, counted(getattr(os, name), last))
        durable.sync_filesystem = counted(durable.sync_filesystem, last)
        try:
            act(action, path)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 1:
        sys.exit(f"call {number} failed")
    return code == -signal.SIGKILL

action, template, place = globals()[sys.argv[1]], sys.argv[2], Path(sys.argv[3])
number, going = 0, True
while going:
    number += 1
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run(["cp", "-a", template, place], check=True)
    going = killed(action, place, number)
    print("killed" if going else "ended", flush=True)
    sys.stdin.readline()
    if going:
        killed(action, place, 0)
        print("resumed", flush=True)
        sys.stdin.readline()
"""


def every_kill(action: str, template: Path, place: Path) -> Iterator[str]:
    """Yield at each step "killed", and once it was done again "resumed"; at last "ended"."""
    with subprocess.Popen(
        [sys.executable, "-B", "-c", PROGRAM, action, template, place],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number, line in enumerate(process.stdout):
            assert number < 2 * MOST_CALLS, f"{action} has no end"
            yield line.strip()
            process.stdin.write("\n")
            process.stdin.flush()
    assert process.returncode == 0


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four builds, of which the third is the first bad one; the search has begun, and is to have
    its old end here before anything is tested."""
    path = tmp_path_factory.mktemp("bisect")
    farm = make_farm(path / "farm", 4, 3)
    sysroot = make_tester(path / "sysroot", farm)
    words = ("--sysroot", str(sysroot.path))
    assert main([*words, "bisect", "start", "fastqa", "--good", "~3", "--verify", "never"]) == 0
    session = read_bisection(sysroot).session
    assert main([*words, "bisect", "reset"]) == 0
    write_bisection(sysroot, Saved(session, Local(old_end=session.line[0].commit)))
    return sysroot.path


def test_a_run_killed_at_every_step_finds_the_same(template: Path, tmp_path: Path) -> None:
    """Whenever it dies, the live root is whole; run again, it finds the build with two answers."""
    place, seen = tmp_path / "sysroot", []
    for stage in every_kill("run", template, place):
        seen.append(stage)
        assert_live_root_is_complete(place)
        if stage == "killed":
            continue
        state = current_state(read_bisection(open_sysroot(place)).session)
        assert isinstance(state.outcome, Found)
        assert (state.outcome.first.version, state.tests) == ("47.3", 2)
        repository = open_sysroot(place).repository
        assert_whole(repository, parse_object_id(state.line[0].commit))
        assert not find_leftovers(open_sysroot(place))
    assert seen.count("killed") > 40
    assert seen[-1] == "ended"


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A search that began while a root was live, and that root."""
    path = tmp_path_factory.mktemp("bisect")
    farm = make_farm(path / "farm", 4, 3)
    sysroot = make_tester(path / "sysroot", farm)
    words = ("--sysroot", str(sysroot.path))
    assert main([*words, "pull", "fastqa"]) == 0
    started = read_roots(sysroot).current
    assert started is not None
    assert main([*words, "bisect", "start", "--good", "fastqa~3", "--bad", "current"]) == 0
    assert main([*words, "bisect", "good"]) == 0
    return sysroot.path, started


def test_a_reset_killed_at_every_step_goes_back(deployed: tuple[Path, str], tmp_path: Path) -> None:
    """Done again, the root of the start is live and unpinned, and nothing of the search is left."""
    template, started = deployed
    place, seen = tmp_path / "sysroot", []
    for stage in every_kill("reset", template, place):
        seen.append(stage)
        sysroot = open_sysroot(place)
        assert read_roots(sysroot).live is not None
        if stage == "killed":
            continue
        assert find_bisection(sysroot) is None
        roots = read_roots(sysroot)
        assert (roots.current, set(roots.records)) == (started, {started})
        assert not roots.records[started].pinned
        assert assert_live_root_is_complete(place)
        assert_nothing_left_over(place)
    assert seen.count("killed") > 20
    assert seen[-1] == "ended"
