"""Entering without root, and from a booted root to the host."""

import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from hacktree.client.entering.environment import session_environment
from hacktree.client.entering.person import Person
from support.enterable import BUSYBOX, require_root
from support.sysroots import make_sysroot

TESTS = Path(__file__).parents[1]
USER = 1234


def run_python(program: str, *words: object, prefix: list[str]) -> str:
    """Run a program that imports hacktree; returns what it prints."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SUDO_")}
    done = subprocess.run(
        [*prefix, sys.executable, "-B", "-c", textwrap.dedent(program), *map(str, words)],
        env={**inherited, "PYTHONPATH": str(TESTS)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


# The interpreter may live where only root may look: root imports, then becomes the user, and says
# that it keeps no secret (PR_SET_DUMPABLE), as a program that the user had started would be.
_WITHOUT_ROOT = """
    import ctypes, importlib, os, sys
    from pathlib import Path
    from hacktree.common.cli.main import load_catalog, main
    for info in load_catalog().values():
        importlib.import_module(info.module)
    import support.enterable, support.sysroots
    from hacktree.client.sysroot import prepare_sysroot
    os.setgroups([]); os.setgid(1234); os.setuid(1234)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
    os.environ["HOME"] = "/"
    path = Path(sys.argv[1])
    support.enterable.deploy_shell(prepare_sysroot(path))

    def enter(*words):
        pid = os.fork()
        if pid == 0:
            os._exit(main(["--sysroot", str(path), "enter", *words]))
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    script = "id -u; id -g; rm /etc/hostname; echo mine >> /etc/note; echo > /usr/x"
    print(enter("--", "sh", "-c", script + " 2>/dev/null || exit 3"))
    print(enter("--", "sh", "-c", "ls /etc/hostname 2>/dev/null; cat /etc/note /var/lib/app/state"))
    print(enter("--scratch", "--", "sh", "-c", "echo new > /usr/x && cat /usr/x /etc/note"))
    print(enter("--user", "root", "--", "true"))
    main(["--sysroot", str(path), "config", "diff", "--names"])
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A user's own directory; not below pytest's, which any other pytest shuts to all but root."""
    require_root()
    with tempfile.TemporaryDirectory(prefix="hacktree-test-") as name:
        os.chown(name, USER, USER)
        yield Path(name)


def test_without_root_a_user_enters_a_root_of_their_own(home: Path) -> None:
    """In a user namespace: as themselves, with the same /etc, /var and scratch as with root."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SUDO_")}
    done = subprocess.run(
        [sys.executable, "-B", "-u", "-c", textwrap.dedent(_WITHOUT_ROOT), home],
        env={**inherited, "PYTHONPATH": str(TESTS)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        *("1234", "1234", "3"),
        *("mine", "from build 1", "0"),
        *("new", "mine", "0"),
        "2",
        "D /etc/hostname",
        "A /etc/note",
    ]
    assert "only root may enter as root" in done.stderr


# A namespace whose `/` is not the host's: what Python needs of it, and the sysroot where a boot
# leaves it.
_BOOTED = """
    import os, subprocess, sys
    from pathlib import Path
    booted, host, where = map(Path, sys.argv[1:4])
    def mount(*words):
        subprocess.run(["mount", *map(str, words)], check=True)
    mount("-t", "tmpfs", "booted", booted)
    for entry in os.scandir("/"):
        place = booted / entry.name
        if entry.is_symlink():
            place.symlink_to(os.readlink(entry))
        elif entry.is_dir():
            place.mkdir()
            if entry.name != "run":
                mount("--rbind", entry.path, place)
    mount("-t", "tmpfs", "run", booted / "run")
    place = booted / where.relative_to("/")
    place.mkdir(parents=True, exist_ok=True)
    mount("--bind", host, place)
    os.chroot(booted)
    os.chdir("/")
    from hacktree.common.cli.main import main
    os.environ["SUDO_UID"] = "1234"
    sys.exit(main([*sys.argv[4:]]))
"""


@pytest.mark.parametrize("where", ["/run/hacktree/sysroot", "/mnt"])
def test_a_booted_root_enters_the_host(tmp_path: Path, where: str) -> None:
    """The host's programs run as oneself, over its own files, which can't be written."""
    require_root()
    host, booted = make_sysroot(tmp_path / "host").path, tmp_path / "booted"
    booted.mkdir()
    for directory in ("bin", "usr/lib", "etc", "proc", "run", "tmp", "dev", "sys", "home"):
        (host / directory).mkdir(parents=True, exist_ok=True)
    (host / "bin/busybox").write_bytes(BUSYBOX.read_bytes())
    (host / "bin/busybox").chmod(0o755)
    (host / "bin/sh").symlink_to("busybox")
    (host / "etc/app").write_text("the host's own\n")
    option = [] if where.startswith("/run") else ["--sysroot", where]
    script = "cat /etc/app; id -u; echo > /etc/app || echo $HACKTREE_ENTERED; exit 4"
    words = [*option, "enter", "--host", "--", "/bin/sh", "-c", f"{script} 2>/dev/null"]
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-B", "-c", textwrap.dedent(_BOOTED),
         booted, host, where, *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["the host's own", "1234", "host"], done.stderr
    assert done.returncode == 4
    assert (host / "etc/app").read_text() == "the host's own\n"


def test_the_host_is_not_entered_from_itself(tmp_path: Path) -> None:
    """Where nothing was booted the error says so, and what to name instead."""
    program = """
        import sys
        from hacktree.common.cli.main import main
        sys.stderr = sys.stdout
        print(main(["enter", "--host"]), main(["--sysroot", sys.argv[1], "enter", "--host"]))
    """
    printed = run_python(program, tmp_path, prefix=[])
    assert "/run/hacktree/sysroot: this is no booted root" in printed
    assert f"{tmp_path} holds no system: it has no usr" in printed
    assert printed.endswith("2 2\n")


def test_the_sockets_of_a_desktop_are_named_where_sudo_dropped_them(tmp_path: Path) -> None:
    """Only those of the person who enters; what names the host's programs is left out."""
    user = os.geteuid()
    runtime = tmp_path / f"user/{user}"
    runtime.mkdir(parents=True)
    program = "import socket, sys\nfor p in sys.argv[1:]: socket.socket(socket.AF_UNIX).bind(p)"
    sockets = [runtime / "bus", runtime / "wayland-1"]
    subprocess.run([sys.executable, "-c", program, *sockets], check=True)
    caller = {"LANG": "C.UTF-8", "DISPLAY": ":0", "SUDO_UID": "1", "LD_PRELOAD": "x", "PATH": "/x"}
    person = Person("ann", user, 100, (100,), "/home/ann", "/bin/sh")
    found = session_environment(caller, person, "root", tmp_path)
    assert found["XDG_RUNTIME_DIR"] == str(runtime)
    assert found["WAYLAND_DISPLAY"] == "wayland-1"
    assert found["DBUS_SESSION_BUS_ADDRESS"] == f"unix:path={runtime}/bus"
    assert (found["LANG"], found["DISPLAY"], found["HOME"]) == ("C.UTF-8", ":0", "/home/ann")
    assert not {"SUDO_UID", "LD_PRELOAD"} & found.keys()
    assert "/x" not in found["PATH"].split(":")
    other = Person("ben", user + 1, 100, (100,), "/home/ben", "/bin/sh")
    assert "XDG_RUNTIME_DIR" not in session_environment(
        {**caller, "XDG_RUNTIME_DIR": str(runtime)}, other, "root", tmp_path
    )
