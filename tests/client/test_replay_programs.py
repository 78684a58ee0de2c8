"""What programs of a step get: a clean environment, limits, no network, nothing of the machine."""

import os
import stat
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from hacktree.client.replay.step import Root, StepFailedError
from hacktree.client.sysroot import Sysroot
from support.steps import FunctionStep, replaying
from support.sysroots import deploy, make_build, make_sysroot
from support.trees import File, Spec, Symlink, make_commit

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may chroot")


@pytest.fixture
def sysroot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sysroot:
    monkeypatch.setenv("SECRET", "of the caller")
    monkeypatch.setenv("TERM", "xterm")
    return make_sysroot(tmp_path / "sysroot")


def tree(extra: Mapping[str | bytes, Spec] | None = None) -> dict[str | bytes, Spec]:
    """A tree in which programs run: busybox, and what the machine lacks or a step must not see."""
    busybox = Path("/bin/busybox")
    assert busybox.exists(), "busybox is missing: install the package busybox-static (make system)"
    found: dict[str | bytes, Spec] = {"bin/busybox": File(busybox.read_bytes(), 0o755)}
    for name in ("sh", "id", "cat", "ls", "env", "sleep", "grep", "readlink", "setsid", "mount"):
        found[f"bin/{name}"] = Symlink(b"busybox")
    found["dev/null"] = b"a file that a tree can't have as a device"
    return found | dict(extra or {})


def run_inside(sysroot: Sysroot, script: str, **options: object) -> None:
    """Deploy with one step that runs a script by the root's own shell."""
    commit = make_commit(sysroot.repository, tree())

    def apply(root: Root) -> None:
        root.run(["sh", "-euc", script], **options)  # type: ignore[arg-type]

    deploy(sysroot, commit, replaying(FunctionStep("script", apply)))


def test_the_environment_of_a_program(sysroot: Sysroot) -> None:
    """Nothing of the caller's; harmless devices, /proc of its own, private /run and /tmp."""
    previous = deploy(sysroot, make_build(sysroot, 1))
    run_inside(
        sysroot,
        """
        env >/environment
        echo gone >/run/x; echo gone >/tmp/x; echo ignored >/dev/null
        test -c /dev/urandom; test -c /dev/null; test -d /proc/self; test "$(cat)" = ""
        ls -d /proc/[0-9]* | grep -c . >/processes
        cat /run/hacktree/previous/usr/lib/os-release >/previous
        ! echo x >/run/hacktree/previous/x
        ! echo 1 >/proc/sys/vm/drop_caches
        ! echo x >/proc/sysrq-trigger
        ! echo 0 >/sys/kernel/profiling
        grep -c : /proc/net/dev >/interfaces
        id -u >/user
        """,
        environment={"EXTRA": "1"},
    )
    root = sysroot.link.resolve()
    lines = dict(line.split("=", 1) for line in (root / "environment").read_text().splitlines())
    build = lines.pop("HACKTREE_BUILD")
    assert root.name == f"gnomeos-{build[:9]}.1"
    lines.pop("SHLVL", None)
    assert lines == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        "PWD": "/",
        "HACKTREE_ROOT": "/",
        "HACKTREE_BRANCH": "fastqa",
        "HACKTREE_PREVIOUS_ROOT": "/run/hacktree/previous",
        "EXTRA": "1",
    }
    assert int((root / "processes").read_text()) <= 4, "only the step's own processes are seen"
    assert (root / "previous").read_text() == "VERSION=1\n"
    assert (root / "interfaces").read_text().strip() == "1", "lo, and it is down"
    assert (root / "user").read_text() == "0\n"
    assert sorted(os.listdir(root)) == sorted(
        ["bin", "dev", "environment", "interfaces", "previous", "processes", "user"]
    ), "mount points that the tree lacks don't get into the root"
    assert (root / "dev/null").read_bytes().startswith(b"a file")
    assert not (sysroot.roots / previous.root / "x").exists()


def test_the_network_where_it_is_asked_for(sysroot: Sysroot) -> None:
    """The machine's own interfaces, then."""
    run_inside(sysroot, "cat /proc/net/dev >/interfaces", network=True)
    seen = (sysroot.link / "interfaces").read_text()
    names = {line.split(":")[0].strip() for line in seen.splitlines() if ":" in line}
    assert names == set(os.listdir("/sys/class/net"))


def test_the_time_limit_takes_the_whole_group(sysroot: Sysroot) -> None:
    """What it printed is told, and nothing runs on."""
    script = "echo begun; sleep 3600 & setsid sleep 3601 & sleep 3602"
    with pytest.raises(StepFailedError, match=r"sh was killed after its 0\.5 seconds") as caught:
        run_inside(sysroot, script, seconds=0.5)
    assert caught.value.log == "begun\n"
    running = [
        entry.joinpath("cmdline").read_bytes()
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and entry.joinpath("cmdline").exists()
    ]
    assert not [words for words in running if b"sleep\x00360" in words]


def test_a_background_process_does_not_outlive_its_step(sysroot: Sysroot) -> None:
    """A daemon that a script started can't keep the overlay, and is gone."""
    run_inside(sysroot, "setsid sh -c 'cd /bin; exec sleep 3603' & echo done >/done")
    assert (sysroot.link / "done").read_text() == "done\n"


def _run(program: str, root: Root) -> None:
    root.run([program])


def test_a_program_that_can_not_be_started(sysroot: Sysroot) -> None:
    """The error names it and what to look at."""
    commit = make_commit(sysroot.repository, tree({"bin/script": File(b"#!/no/such\n", 0o755)}))
    for program in ("nosuch", "script"):
        step = FunctionStep(program, partial(_run, program))
        with pytest.raises(StepFailedError, match=f"can't run {program}: No such file") as caught:
            deploy(sysroot, commit, replaying(step))
        assert "interpreter" in caught.value.hint


def test_output_beyond_the_limit_is_dropped(
    sysroot: Sysroot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that prints without end fills no disk."""
    monkeypatch.setattr("hacktree.client.replay.programs.MAX_LOG", 1000)
    commit = make_build(sysroot, 1)
    step = FunctionStep("loud", lambda root: len(root.run(["seq", "100000"], inside=False)))
    result = deploy(sysroot, commit, replaying(step))
    assert result.replayed is not None
    log = sysroot.replay / result.replayed.plan.steps[0].key / "log"
    assert log.stat().st_size < 1100
    assert "dropped" in log.read_text()


def test_a_step_that_mounts_something(sysroot: Sysroot, tmp_path: Path) -> None:
    """It is seen by nobody else, and gone with the step; nothing of it gets into the root."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("mine")
    commit = make_build(sysroot, 1)
    script = f"mkdir mnt; mount --bind {elsewhere} mnt; cat mnt/precious >seen"
    step = FunctionStep("mounting", lambda root: root.run(["sh", "-euc", script], inside=False))
    deploy(sysroot, commit, replaying(step))
    assert (sysroot.link / "seen").read_text() == "mine"
    assert os.listdir(sysroot.link / "mnt") == []
    assert (elsewhere / "precious").read_text() == "mine"


def test_devices_and_pipes_are_kept_and_sockets_left_out(sysroot: Sysroot) -> None:
    """A socket is nothing without its process; what it replaced is gone all the same."""

    def apply(root: Root) -> None:
        os.mknod(root.path / "device", stat.S_IFCHR | 0o640, os.makedev(1, 3))
        os.mkfifo(root.path / "pipe")
        os.unlink(root.path / "empty")
        os.mknod(root.path / "empty", stat.S_IFSOCK | 0o600)

    deploy(sysroot, make_build(sysroot, 1), replaying(FunctionStep("special", apply)))
    device = (sysroot.link / "device").lstat()
    assert (stat.S_ISCHR(device.st_mode), device.st_rdev) == (True, os.makedev(1, 3))
    assert stat.S_ISFIFO((sysroot.link / "pipe").lstat().st_mode)
    assert not os.path.lexists(sysroot.link / "empty")
