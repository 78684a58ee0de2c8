"""Entering a root: what a program sees and may write there, as whom it runs, how it ends."""

import os
import subprocess
from pathlib import Path

import pytest

from hacktree.client.edits.places import etc_place, var_directory
from hacktree.client.edits.var import STAGING
from hacktree.client.entering.filesystem import MountPointError, etc_tag, resolve_inside
from hacktree.client.entering.holders import find_holder
from hacktree.client.keeping import PreviousPolicy, undeploy_root
from hacktree.client.removal import RootBusyError
from hacktree.client.sysroot import Sysroot
from hacktree.common.repository.locks import LockKind, hold_lock
from support.enterable import (
    deploy_shell,
    enter,
    hacktree,
    hacktree_command,
    is_held,
    require_root,
)
from support.sysroots import make_sysroot


@pytest.fixture(scope="module")
def sysroot(tmp_path_factory: pytest.TempPathFactory) -> Sysroot:
    """Build 1 is previous, build 2 is current."""
    require_root()
    sysroot = make_sysroot(tmp_path_factory.mktemp("enter") / "sysroot")
    deploy_shell(sysroot, 1)
    deploy_shell(sysroot, 2)
    return sysroot


def test_a_program_sees_the_root_with_the_hosts_homes_and_devices(
    sysroot: Sysroot, tmp_path: Path
) -> None:
    """/usr is the root's, /tmp, /dev, /sys and the working directory are the host's."""
    (tmp_path / "mine").write_text("on the host")
    script = (
        "cat /usr/lib/os-release; cat mine; echo; pwd; ls -d /dev/null /sys/kernel /proc/1 /home;"
        "echo $HACKTREE_ENTERED $LD_PRELOAD; echo > /usr/new; echo > /new; exit 7"
    )
    done = enter(sysroot, "sh", "-c", script, cwd=tmp_path, LD_PRELOAD="", PYTHONPATH="x")
    assert done.returncode == 7
    lines = done.stdout.splitlines()
    assert lines[:3] == ["VERSION=2", "on the host", str(tmp_path)]
    assert lines[3:7] == ["/dev/null", "/home", "/proc/1", "/sys/kernel"]
    assert lines[7] == sysroot.link.resolve().name
    assert done.stderr.count("Read-only file system") == 2
    assert not (sysroot.link / "sys").exists(), "the root itself is as it was made"


def test_whoever_waits_is_told_for_what(sysroot: Sysroot) -> None:
    """After a second, on standard error: the output is the command's. Then it goes on."""
    root = sysroot.link.resolve().name
    assert enter(sysroot, "echo").returncode == 0
    holder = f"waiting for process {os.getpid()} "
    for place, task in (
        (etc_place(sysroot, root).directory, f"which mounts /etc of {root}"),
        (sysroot.repository.path / STAGING, "which fills /var"),
    ):
        with hold_lock(place, LockKind.EXCLUSIVE):
            process = subprocess.Popen(
                hacktree_command(sysroot, "enter", "--", "echo", "done"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert process.stderr is not None
            told = process.stderr.readline()
        assert holder in told
        assert task in told
        assert process.communicate() == ("done\n", "")


def test_exit_statuses_pass_through(sysroot: Sysroot) -> None:
    """128 + n for a signal, 127 for what is not there, 126 for what is no program."""
    assert enter(sysroot, "sh", "-c", "kill -TERM $$").returncode == 143
    missing = enter(sysroot, "nosuch")
    assert (missing.returncode, "nosuch" in missing.stderr) == (127, True)
    assert enter(sysroot, "/etc/hostname").returncode == 126


def test_a_program_runs_as_whoever_called_sudo(sysroot: Sysroot) -> None:
    """Also as somebody without an entry in passwd; --user says otherwise."""
    script = "id -u; id -g; touch /etc/mine || echo refused; cat /proc/self/status"
    done = enter(sysroot, "sh", "-c", script, SUDO_UID="1234", SUDO_GID="2345")
    lines = done.stdout.splitlines()
    assert lines[:3] == ["1234", "2345", "refused"]
    assert any(line.split() == ["CapEff:", "0000000000000000"] for line in lines)
    as_root = hacktree(sysroot, "enter", "--user", "root", "--", "id", "-u", SUDO_UID="1234")
    assert as_root.stdout == "0\n"
    nobody = hacktree(sysroot, "enter", "--user", "no-such-user", "--", "true")
    assert (nobody.returncode, "no-such-user" in nobody.stderr) == (2, True)


def test_etc_is_of_each_root_and_var_of_all(sysroot: Sysroot) -> None:
    """What is written in /etc stays with its root; /var is filled by copy and shared."""
    script = "cat /etc/note 2>/dev/null; echo seen >> /etc/note; echo >> /var/lib/app/state"
    assert enter(sysroot, "sh", "-c", script).stdout == ""
    assert enter(sysroot, "sh", "-c", script).stdout == "seen\n"
    look = "cat /etc/note; cat /var/lib/app/state; cat /var/lib/only-1/data; ls /var/lib"
    other = enter(sysroot, "sh", "-c", look, root="previous")
    assert other.stdout == "from build 2\n\n\nnew\napp\nonly-1\nonly-2\n"
    state = var_directory(sysroot) / "lib/app/state"
    assert state.stat().st_nlink == 1
    assert (sysroot.link / "var/lib/app/state").read_text() == "from build 2\n"
    assert (sysroot.link / "etc/app.conf").stat().st_nlink > 1, "still the repository's inode"


def test_scratch_is_thrown_away(sysroot: Sysroot) -> None:
    """Everything of the root can be written, and nothing of it stays."""
    script = "echo x > /usr/new && rm /etc/hostname /bin/ls && echo x > /var/lib/new && ls /usr"
    done = hacktree(sysroot, "enter", "--scratch", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout.split()) == (0, ["lib", "new"])
    after = enter(sysroot, "sh", "-c", "ls /usr /etc/hostname /var/lib/new")
    assert after.stdout.split() == ["/etc/hostname", "/usr:", "lib"]
    assert "/var/lib/new" in after.stderr


def test_two_sessions_share_what_is_written(sysroot: Sysroot) -> None:
    """Each sees at once what the other writes in /etc; the root can't be deleted meanwhile."""
    with subprocess.Popen(
        hacktree_command(sysroot, "enter", "previous", "--", "sh", "-c",
                         "echo one > /etc/shared; echo ready; read x; cat /etc/shared"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as first:  # fmt: skip
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "ready\n"
        script = "cat /etc/shared; echo two >> /etc/shared"
        assert enter(sysroot, "sh", "-c", script, root="previous").stdout == "one\n"
        with pytest.raises(RootBusyError, match="in use by process"):
            undeploy_root(sysroot, "previous", PreviousPolicy.REMOVE)
        first.stdin.write("\n")
        first.stdin.close()
        assert first.stdout.read() == "one\ntwo\n"


@pytest.mark.parametrize(
    ("become", "kind"),
    [
        (("setpriv", "--reuid=1234", "--regid=1234", "--clear-groups"), "overlay"),
        ((), "tmpfs"),
    ],
)
def test_nobody_else_can_offer_an_etc(
    sysroot: Sysroot, tmp_path: Path, become: tuple[str, ...], kind: str
) -> None:
    """Another user's mount of that name is not taken, nor one that is no overlay."""
    enter(sysroot, "true")
    tag = etc_tag(etc_place(sysroot, sysroot.link.resolve().name))
    options = f"lowerdir={tmp_path}:/usr" if kind == "overlay" else "mode=755"
    script = 'mount -t "$1" "$2" -o "$3" "$4"; shift 4; exec "$@" sh -c "echo ready; read x"'
    forged = ("sh", "-ec", script, "sh", kind, tag, options, str(tmp_path), *become)
    with subprocess.Popen(
        ["unshare", "-m", *forged],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as session:  # fmt: skip
        assert session.stdout is not None
        assert session.stdout.readline() == "ready\n"
        assert tag in Path(f"/proc/{session.pid}/mountinfo").read_text()
        assert find_holder(tag) is None
        assert enter(sysroot, "cat", "/etc/hostname").stdout == "tree\n"
        session.communicate("\n")


def test_nothing_outlives_a_sigkill(sysroot: Sysroot) -> None:
    """Its mounts go, and what it left running, with a lock that nobody holds any more."""
    root = sysroot.link.resolve().name
    with subprocess.Popen(
        hacktree_command(sysroot, "enter", "--", "sh", "-c",
                         "sleep 1000 & echo ready; exec sleep 1000"),
        stdout=subprocess.PIPE, text=True,
    ) as session:  # fmt: skip
        assert session.stdout is not None
        assert session.stdout.readline() == "ready\n"
        tag = etc_tag(etc_place(sysroot, root))
        assert find_holder(tag) is not None
        session.kill()
        # The end of the pipe: every process that had it is gone.
        assert session.stdout.read() == ""
    assert not is_held(tag)


def test_missing_privileges_are_named(sysroot: Sysroot) -> None:
    """Root without the right to mount, as in a container, learns which one is missing."""
    command = hacktree_command(sysroot, "enter", "--", "echo", "entered")
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-sys_admin", *command],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (8, "")
    assert "the kernel refuses namespaces" in done.stderr
    assert "SYS_ADMIN" in done.stderr


def test_links_of_the_tree_lead_nowhere_else(tmp_path: Path) -> None:
    """Absolute links, `..` and rings are taken as the root's own would be."""
    (tmp_path / "var/home").mkdir(parents=True)
    (tmp_path / "home").symlink_to("/var/home")
    (tmp_path / "up").symlink_to("../../../../etc")
    (tmp_path / "ring").symlink_to("ring")
    assert resolve_inside(tmp_path, "/home/ann") == "/var/home/ann"
    assert resolve_inside(tmp_path, "/up/hosts") == "/etc/hosts"
    assert resolve_inside(tmp_path, "/../usr/./lib/..") == "/usr"
    with pytest.raises(MountPointError):
        resolve_inside(tmp_path, "/ring/x")
