"""A person without privileges, in a sysroot of their own: scripts, layers, extensions, users.

What works, works as it does for root, with one owner for all files; what needs privileges is
refused with the reason. Needs user namespaces, rpm, dpkg, busybox-static.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hacktree.client.edits.kept import kept_copies
from hacktree.client.edits.places import etc_place
from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.main import main
from hacktree.common.repository.fsck import fsck
from support.busybox import make_runnable_build
from support.debs import build_tool
from support.machines import MACHINE
from support.sysroots import assert_nothing_left_over, make_sysroot
from support.unprivileged import AsNobody, nobody
from support.vendor import build_rpms, commit_of, small_system

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


@pytest.fixture
def as_nobody() -> Iterator[AsNobody]:
    with nobody() as call:
        yield call


@pytest.fixture
def readable() -> Iterator[Path]:
    """A directory of root's that others can read, too."""
    place = Path(tempfile.mkdtemp(dir="/var/tmp"))
    yield place
    shutil.rmtree(place)


def let_read(top: Path) -> None:
    for path in (top, *top.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o444 | (0o111 if path.is_dir() else 0))


def prepare(place: Path, config: str = "") -> Sysroot:
    os.environ["HACKTREE_SYSROOT"] = str(place / "sysroot")
    os.environ["TMPDIR"] = str(place)
    tempfile.tempdir = None
    return make_sysroot(place / "sysroot", config)


def add_script(place: Path, name: str, text: str) -> None:
    (place / name).write_text(f"#!/bin/sh\n{text}")
    (place / name).chmod(0o755)
    assert main(["config", "add", str(place / name)]) == 0


def test_all_kinds_of_steps_work(as_nobody: AsNobody, readable: Path) -> None:
    """An RPM with scripts, a user and a capability, a deb, a layer, the machine's people, a script:
    in one root, every file of which is the person's. The repository stays as it was.
    """
    rpms = build_rpms(readable)
    deb = build_tool(readable, 1, "all")
    system = small_system(readable / "system")
    let_read(readable)

    def use(place: Path) -> None:
        sysroot = prepare(place, f'host = "{place}/machine"\n')
        (place / "machine/etc").mkdir(parents=True)
        for name, text in MACHINE.items():
            (place / "machine/etc" / name).write_text(text)
        commit_of(sysroot, system)
        packages = [str(rpms["vendor-tool"]), str(rpms["vendor-libs"]), str(deb)]
        assert main(["extension", "add", *packages]) == 0
        (place / "layer/usr/lib").mkdir(parents=True)
        (place / "layer/usr/lib/mine").write_text("mine\n")
        assert main(["layer", "add", "mine", str(place / "layer")]) == 0
        add_script(place, "10-mine", "read line </usr/lib/mine\necho $line >/etc/mine\n")
        assert main(["deploy", "fastqa"]) == 0
        root = sysroot.link
        assert (root / "etc/mine").read_text() == "mine\n"
        assert (root / "opt/tool").read_text() == "1\n"
        assert (root / "opt/vendor/bin/openssl").exists()
        assert (root / "usr/lib/mine").read_text() == "mine\n"
        users = (root / "etc/passwd").read_text()
        assert "\njane:x:1000:1000:" in users
        assert "\nvendor:x:" in users
        owners = {path.lstat().st_uid for path in root.resolve().rglob("*")}
        assert owners == {os.geteuid()}
        assert fsck(sysroot.repository, jobs=1).intact
        assert_nothing_left_over(sysroot.path)

    as_nobody(use)


def test_what_needs_privileges_is_refused_with_the_reason(
    as_nobody: AsNobody, capfd: pytest.CaptureFixture[str]
) -> None:
    """Other owners, devices, becoming somebody else: in the system's words, and nothing swapped."""

    def use(place: Path) -> None:
        sysroot = prepare(place)
        make_runnable_build(sysroot, 1)
        assert main(["deploy", "fastqa"]) == 0
        live = sysroot.link.resolve()
        add_script(place, "10-owner", "busybox chown 7 /etc\n")
        assert main(["deploy", "fastqa"]) == 1
        assert main(["config", "remove", "10-owner"]) == 0
        add_script(place, "20-device", "busybox mknod /etc/disk b 8 0\n")
        assert main(["deploy", "fastqa"]) == 1
        assert main(["config", "remove", "20-device"]) == 0
        assert main(["enter", "--user", "root", "--", "true"]) == 2
        assert sysroot.link.resolve() == live
        assert_nothing_left_over(sysroot.path)

    as_nobody(use)
    error = capfd.readouterr().err
    assert "| chown: /etc: Invalid argument\n" in error
    assert "| mknod: /etc/disk: Operation not permitted\n" in error
    assert "only root may enter as root" in error


def test_a_trial_looks_into_what_is_closed_to_its_owner(
    as_nobody: AsNobody, capfd: pytest.CaptureFixture[str]
) -> None:
    """Files and directories of mode 000: only the root of a user namespace gets in."""

    def use(place: Path) -> None:
        sysroot = prepare(place)
        make_runnable_build(sysroot, 1, {"etc/closed/in": b"1\n"})
        add_script(
            place,
            "10-close",
            "echo 2 >/etc/closed/in; echo secret >/etc/secret\n"
            "chmod 000 /etc/closed/in /etc/secret /etc/closed\n",
        )
        add_script(place, "20-more", "echo 3 >>/etc/closed/in; echo more >>/etc/secret\n")
        assert main(["config", "test", "--revision", "fastqa", "--json"]) == 0
        assert os.listdir(sysroot.roots) == []
        assert_nothing_left_over(sysroot.path)
        assert main(["deploy", "fastqa", "--quiet"]) == 0

    as_nobody(use)
    out = capfd.readouterr().out
    first, second = json.loads(out[out.index("[") :])
    assert [(one["change"], one["path"]) for one in first["changes"]] == [
        ("attributes", "/etc/closed/"),
        ("changed", "/etc/closed/in"),
        ("added", "/etc/secret"),
    ]
    changes = {one["path"]: one["text"] for one in second["changes"]}
    assert changes["/etc/closed/in"] == ["@@ -1 +1,2 @@", " 2", "+3"]
    assert changes["/etc/secret"] == ["@@ -1 +1,2 @@", " secret", "+more"]


def test_what_was_left_behind_is_kept_and_comes_back(as_nobody: AsNobody) -> None:
    """Deletions, too: an overlay's mark for one needs no privileges."""

    def use(place: Path) -> None:
        sysroot = prepare(place)
        for number in (1, 2):
            make_runnable_build(sysroot, number, {"etc/gone": b"1", "etc/app.conf": b"red\n"})
            assert main(["deploy", "fastqa"]) == 0
            if number == 1:
                upper = etc_place(sysroot, sysroot.link.resolve().name).upper
                upper.mkdir(parents=True)
                (upper / "app.conf").write_text("blue\n")
                os.mknod(upper / "gone", 0o020000, os.makedev(0, 0))
        assert len(kept_copies(sysroot)) == 1
        assert main(["config", "restore", "latest"]) == 0
        found = os.lstat(etc_place(sysroot, sysroot.link.resolve().name).upper / "gone")
        assert found.st_rdev == 0
        child = os.fork()
        if child == 0:
            os._exit(main(["enter", "--", "sh", "-c", "test blue = $(cat /etc/app.conf)"]))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    as_nobody(use)
