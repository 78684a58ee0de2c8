"""Namespaces: gone with whoever made them, possible without root, refused with the reason."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hacktree.client.replay.namespaces import (
    InsideDiedError,
    run_isolated,
)
from hacktree.client.replay.step import Root
from hacktree.common.repository.fsck import fsck
from support.steps import FunctionStep, replaying
from support.sysroots import assert_nothing_left_over, deploy, make_build, make_sysroot
from support.unprivileged import AsNobody, nobody

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")

KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from hacktree.client.sysroot import open_sysroot
from support.steps import replaying, shell
from support.sysroots import deploy
sysroot = open_sysroot(Path(sys.argv[1]))
commit = sysroot.repository.path.joinpath("commit").read_text()
script = f"touch changed; setsid sleep {sys.argv[3]} & sleep {sys.argv[3]}"
from hacktree.common.objects.ids import parse_object_id
deploy(sysroot, parse_object_id(commit), replaying(shell("endless", script)))
"""


def running(argument: str) -> list[int]:
    """The processes `sleep <argument>`."""
    wanted = f"sleep\0{argument}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes() == wanted:
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_kill_leaves_no_process_and_no_mount(tmp_path: Path) -> None:
    """Not even a daemon of a script; the next deploy finds a directory to delete, and works."""
    sysroot = make_sysroot(tmp_path / "sysroot")
    commit = make_build(sysroot, 1)
    (sysroot.repository.path / "commit").write_text(commit.hex())
    argument = f"3600.{os.getpid()}"
    tests = str(Path(__file__).parents[1])
    process = subprocess.Popen([sys.executable, "-c", KILLED, sysroot.path, tests, argument])
    try:
        while len(running(argument)) < 2:
            assert process.poll() is None, "the deploy ended by itself"
        sleepers = [os.pidfd_open(pid) for pid in running(argument)]
    finally:
        process.kill()
        process.wait()
    for sleeper in sleepers:
        assert select.select([sleeper], [], [], 20)[0], "it outlives the deploy"
        os.close(sleeper)
    assert str(sysroot.path) not in Path("/proc/self/mountinfo").read_text()
    (sysroot.repository.path / "commit").unlink()
    deploy(sysroot, commit)
    assert not (sysroot.link / "changed").exists()
    assert_nothing_left_over(sysroot.path)


@pytest.fixture
def as_nobody() -> Iterator[AsNobody]:
    with nobody() as call:
        yield call


@as_root
def test_without_root(as_nobody: AsNobody) -> None:
    """A person's own sysroot: the same overlay in a user namespace, files are the person's."""

    def change(root: Root) -> None:
        assert os.geteuid() == 0, "root of the namespace"
        (root.path / "new").write_text("new")
        root.run(["rm", str(root.path / "usr/bin/same")], inside=False)
        root.run(["sh", "-c", "test -c $HACKTREE_ROOT/dev/null"], inside=False)

    def close(root: Root) -> None:
        (root.path / "closed").mkdir(0o000)
        (root.path / "closed/inside").write_text("only the root of a namespace gets in")

    def use(place: Path) -> None:
        sysroot = make_sysroot(place / "sysroot")
        commit = make_build(sysroot, 1)
        for number in (1, 2):
            steps = [FunctionStep("change", change), FunctionStep(f"close {number}", close)]
            result = deploy(sysroot, commit, replaying(*steps))
            assert result.replayed is not None
            assert len(result.replayed.ran) == 3 - number, "the first step is cached then"
            assert (sysroot.link / "new").read_text() == "new"
            assert (sysroot.link / "new").stat().st_uid == os.geteuid() != 0
            assert (sysroot.link / "closed").stat().st_mode & 0o777 == 0
            assert not (sysroot.link / "usr/bin/same").exists()
        assert fsck(sysroot.repository).intact
        for number in (3, 4, 5):
            deploy(sysroot, make_build(sysroot, number))
        assert_nothing_left_over(sysroot.path)

    as_nobody(use)


REFUSED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from hacktree.client.replay.namespaces import NamespaceRefusedError
from support.steps import FunctionStep, replaying
from support.sysroots import assert_nothing_left_over, deploy, make_build, make_sysroot
sysroot = make_sysroot(Path(sys.argv[1]))
commit = make_build(sysroot, 1)
try:
    deploy(sysroot, commit, replaying(FunctionStep("any", lambda root: None)))
except NamespaceRefusedError as error:
    print(error.message, "|", error.hint)
assert_nothing_left_over(sysroot.path)
assert not sysroot.link.exists()
"""


@as_root
def test_namespaces_that_are_refused(tmp_path: Path) -> None:
    """Root of a container that may not have them: the reason, and nothing is left."""
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [
            *("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"),
            *(sys.executable, "-c", REFUSED, tmp_path / "sysroot", tests),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("unshare: Operation not permitted | Steps run in namespaces")


def test_what_comes_from_inside_is_bounded() -> None:
    """A message beyond the limit, one cut off, a death: errors, and no process is left."""
    with pytest.raises(InsideDiedError, match="exceeds the limit"):
        run_isolated(lambda send: send(bytes(2 << 20)), lambda data: None)
    with pytest.raises(InsideDiedError, match="status 3"):
        run_isolated(lambda send: os._exit(3), lambda data: None)
    received: list[bytes] = []

    def send_two(send: Callable[[bytes], None]) -> None:
        send(b"one")
        send(b"")

    run_isolated(send_two, received.append)
    assert received == [b"one", b""]


def test_whatever_the_receiver_raises_ends_it(tmp_path: Path) -> None:
    """An interrupt of the person at the terminal, above all."""

    def body(send: Callable[[bytes], None]) -> None:
        send(b"")
        signal.pause()

    def receive(data: bytes) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_isolated(body, receive)


def test_nothing_runs_inside_any_more_however_it_ends() -> None:
    """Not even for the moment in which init follows its helper: its caller goes on to delete."""
    inside: list[str] = []
    begun: list[bytes] = []

    def body(send: Callable[[bytes], None]) -> None:
        for _ in range(8):
            if os.fork() == 0:
                held = b"x" * (32 << 20)  # So that ending them takes a while.
                send(held[:1])
                signal.pause()
        send(os.readlink("/proc/self/ns/pid").encode())
        signal.pause()

    def all_have_begun(data: bytes) -> bool:
        begun.append(data)
        if len(data) > 1:
            inside.append(data.decode())
        return len(begun) % 9 == 0

    def interrupt(data: bytes) -> None:
        if all_have_begun(data):
            raise KeyboardInterrupt

    def kill_the_helper(data: bytes) -> None:
        if all_have_begun(data):
            for child in children_of(os.getpid()):
                os.kill(child, signal.SIGKILL)

    with pytest.raises(KeyboardInterrupt):
        run_isolated(body, interrupt)
    assert members_of(inside[0]) == []
    with pytest.raises(InsideDiedError, match="by signal 9"):
        run_isolated(body, kill_the_helper)
    assert members_of(inside[1]) == []


def members_of(namespace: str) -> list[int]:
    """The processes in a process namespace."""
    return [pid for pid in living() if _namespace(pid) == namespace]


def _namespace(process: int) -> str:
    try:
        return os.readlink(f"/proc/{process}/ns/pid")
    except OSError:
        return ""  # It has ended.


def children_of(parent: int) -> list[int]:
    """The processes that it started."""
    return [pid for pid, its in living().items() if its == parent]


def living() -> dict[int, int]:
    """Every process that has not ended, with its parent."""
    found = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # It has ended.
            if entry.name.isdigit():
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    found[int(entry.name)] = int(parent)
    return found
