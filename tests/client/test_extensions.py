"""Packages of other systems on every root: they install whole, over nothing, or the step fails.

Real packages, made here by rpmbuild and dpkg-deb of this machine's programs, on a small system in a
plain directory, installed by the machine's rpm and dpkg. Needs root, rpm, dpkg.
"""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from hacktree.client.deploy import DeployAction
from hacktree.client.extensions.step import ExtensionSource
from hacktree.client.replay.step import StepFailedError
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.main import main
from hacktree.common.objects.ids import ObjectId
from support.documents import commands_in
from support.sysroots import assert_nothing_left_over, deploy, make_sysroot
from support.vendor import (
    build_deb,
    build_rpms,
    commit_of,
    find_library,
    of_openssl,
    plain_root,
    small_system,
)

MACHINE = os.uname().machine


@pytest.fixture(scope="module")
def rpms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build_rpms(tmp_path_factory.mktemp("rpms"))


@pytest.fixture
def sysroot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sysroot:
    monkeypatch.delenv("HACKTREE_REPO", raising=False)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(tmp_path / "sysroot"))
    return make_sysroot(tmp_path / "sysroot")


@pytest.fixture
def system(tmp_path: Path) -> Path:
    return small_system(tmp_path / "system")


@pytest.fixture
def build(sysroot: Sysroot, system: Path) -> ObjectId:
    return commit_of(sysroot, system)


def base_of(sysroot: Sysroot, build: ObjectId) -> str:
    tree = sysroot.repository.load_commit(build).root.id
    return f"hacktree-base-0-{tree.hex()[:9]}.noarch"


def add(*files: Path, options: Sequence[str] = ()) -> None:
    assert main(["extension", "add", *map(str, files), *options]) == 0


def fails(sysroot: Sysroot, build: ObjectId) -> StepFailedError:
    """The error of a deploy; nothing is live after it that was not before."""
    live = read_roots(sysroot).current
    with pytest.raises(StepFailedError) as caught:
        deploy(sysroot, build)
    assert read_roots(sysroot).current == live
    return caught.value


def test_a_vendors_rpms_install_with_all_that_they_do(
    sysroot: Sysroot, build: ObjectId, rpms: dict[str, Path], tmp_path: Path
) -> None:
    """One transaction: dependencies on one another and on what the build's libraries, paths and
    LSB mark provide; user, library cache, enabled unit, capability; a query of the database works.
    """
    add(rpms["vendor-tool"], rpms["vendor-libs"])
    root = plain_root(sysroot, build, tmp_path / "root")
    for step in ExtensionSource().steps(root.build):
        step.apply(root)
    assert re.search(r"^vendor:x:\d+:", (root.path / "etc/passwd").read_text(), re.M)
    assert "OpenSSL" in root.run(["/opt/vendor/bin/openssl", "version"])
    wanted = root.path / "etc/systemd/system/multi-user.target.wants/vendor.service"
    assert os.readlink(wanted).endswith("/lib/systemd/system/vendor.service")
    assert os.getxattr(root.path / "opt/vendor/bin/openssl", "security.capability")
    database = root.path / "usr/lib/sysimage/rpm"
    assert os.listdir(database) == ["rpmdb.sqlite"]
    asked = ["rpm", "--root", str(root.path), "--define", "_dbpath /usr/lib/sysimage/rpm"]
    told = root.run([*asked, "-q", "--whatprovides", "lsb", "vendor-tool"], inside=False)
    assert told.split() == [
        base_of(sysroot, build),
        f"vendor-tool-3.1-2.{MACHINE}",
    ]
    assert not os.listdir(root.path / "tmp")


def test_an_unchanged_set_costs_a_deploy_nothing(
    sysroot: Sysroot, system: Path, build: ObjectId, rpms: dict[str, Path]
) -> None:
    """The live root gets what the packages bring; another commit of the same tree takes it from the
    cache; without the packages the root is as the build, and with them again it is reused.
    """
    add(rpms["vendor-tool"], rpms["vendor-libs"])
    first = deploy(sysroot, build)
    assert first.replayed is not None
    names = f"extensions vendor-libs.{MACHINE}, vendor-tool.{MACHINE}"
    assert first.replayed.ran[:2] == [names, "triggers"]
    assert os.getxattr(sysroot.link / "opt/vendor/bin/openssl", "security.capability")
    assert "vendor" in (sysroot.link / "etc/passwd").read_text()
    assert not list((sysroot.link / "tmp").iterdir())
    assert deploy(sysroot, build).action is DeployAction.NOTHING
    promoted = deploy(sysroot, commit_of(sysroot, system, 2))
    assert promoted.replayed is not None
    assert names not in promoted.replayed.ran, "the same packages on the same tree"
    assert main(["extension", "remove", "vendor-tool", f"vendor-libs.{MACHINE}"]) == 0
    deploy(sysroot, build)
    assert not (sysroot.link / "opt").exists()
    assert (sysroot.link / "etc/passwd").read_text() == (system / "etc/passwd").read_text()
    add(rpms["vendor-libs"], rpms["vendor-tool"])
    assert deploy(sysroot, build).action is DeployAction.REUSE


def test_an_rpm_overwrites_nothing_unless_it_is_told_to(
    sysroot: Sysroot, build: ObjectId, rpms: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """What is the same in the build is no conflict; what differs is, by any spelling."""
    deploy(sysroot, build)
    touch = sysroot.link / "usr/bin/touch"
    before = touch.read_bytes()
    add(rpms["vendor-clash"])
    error = fails(sysroot, build)
    assert "conflicts of 1 files, first /usr/bin/touch of vendor-clash" in error.message
    assert touch.read_bytes() == before
    assert main(["extension", "check"]) == 1
    assert "/usr/bin/touch of vendor-clash" in capsys.readouterr().out
    add(rpms["vendor-clash"], options=["--replace", "usr/share", "--replace", "usr/touch"])
    assert main(["extension", "check"]) == 1
    add(rpms["vendor-clash"], options=["--replace", "/usr/b*"])
    assert main(["extension", "check"]) == 0
    deploy(sysroot, build)
    assert touch.read_text() == "mine\n"


def test_what_a_build_took_away_is_named_with_the_build(
    sysroot: Sysroot, tmp_path: Path, rpms: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """rpm's own words, and the first build without it: not the one that is deployed."""
    system = small_system(tmp_path / "system")
    zlib = find_library("libz.so.1")
    (system / "usr/lib/libz.so.1").write_bytes(zlib.read_bytes())
    add(rpms["vendor-zip"])
    deploy(sysroot, commit_of(sysroot, system, 1))
    (system / "usr/lib/libz.so.1").unlink()
    (system / "usr/bin/touch").unlink()
    second = commit_of(sysroot, system, 2)
    (system / "etc/new").write_text("something else")
    third = commit_of(sysroot, system, 3)
    since = (
        f"libz.so.1()(64bit) is gone since build {second.hex()[:9]} (47.2, 2023-11-16 22:13 UTC)"
    )
    error = fails(sysroot, third)
    assert since in error.log
    assert f"is gone since build {second.hex()[:9]}" in error.message
    assert "libz.so.1()(64bit) is needed by vendor-zip-3.1-2" in error.log
    add(rpms["vendor-unmet"])
    capsys.readouterr()
    assert main(["extension", "check", "--revision", "fastqa", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["since"] == ["/usr/bin/touch" + since[len("libz.so.1()(64bit)") :], since]
    assert "libdoesnotexist.so.9()(64bit) is needed by vendor-unmet-3.1-2" in found["said"][0]
    zlib_and = ["--assume", "libz.so.1()(64bit)", "--assume"]
    add(rpms["vendor-zip"], options=[*zlib_and, "/usr/bin/touch"])
    add(rpms["vendor-unmet"], options=[*zlib_and, "libdoesnotexist.so.9()(64bit)"])
    assert main(["extension", "check", "--revision", "fastqa"]) == 0
    deploy(sysroot, third)
    assert (sysroot.link / "usr/share/vendor/unmet").exists()


def test_a_script_that_fails_fails_the_deploy(
    sysroot: Sysroot, build: ObjectId, rpms: dict[str, Path]
) -> None:
    """rpm itself ends with 0 and leaves the package installed."""
    add(rpms["vendor-broken"])
    assert main(["extension", "check", "--revision", "fastqa"]) == 0
    error = fails(sysroot, build)
    assert "looking for a licence server" in error.log
    assert "scriptlet failed, exit status 3" in error.log


def test_rpm_killed_in_its_transaction_leaves_the_live_root_and_the_next_deploy(
    sysroot: Sysroot, build: ObjectId, rpms: dict[str, Path]
) -> None:
    """A script kills it, the package half installed, its database open."""
    deploy(sysroot, build)
    before = sysroot.link.resolve()
    add(rpms["vendor-killer"], rpms["vendor-libs"])
    error = fails(sysroot, build)
    assert "rpm: killed by SIGKILL" in error.message
    assert sysroot.link.resolve() == before
    assert not (before / "usr/share/vendor/killer").exists()
    assert_nothing_left_over(sysroot.path)
    assert main(["extension", "remove", "vendor-killer"]) == 0
    deploy(sysroot, build)
    assert (sysroot.link / "opt/vendor/lib").exists()
    assert not (sysroot.link / "usr/share/vendor/killer").exists()


def test_a_deb_installs_over_a_build_that_knows_no_dpkg(
    sysroot: Sysroot, build: ObjectId, tmp_path: Path
) -> None:
    """libc6 is provided in the version of the build's newest symbols; the script runs inside."""
    script = "useradd --system vendor"
    needs = "libc6 (>= 2.34), libselinux1"
    log = Path("/var/log/dpkg.log")
    before = log.stat().st_size if log.exists() else 0
    add(build_deb(tmp_path, depends=needs, files={"usr/bin/vendor-deb": b"1"}, postinst=script))
    assert main(["extension", "check", "--revision", "fastqa"]) == 0
    deploy(sysroot, build)
    assert (sysroot.link / "usr/bin/vendor-deb").read_bytes() == b"1"
    assert "vendor:x:" in (sysroot.link / "etc/passwd").read_text()
    status = (sysroot.link / "var/lib/dpkg/status").read_text()
    assert "Package: vendor-deb\nStatus: install ok installed" in status
    assert (log.stat().st_size if log.exists() else 0) == before, "the host's log is the host's"


@pytest.mark.parametrize(
    ("needs", "files", "script", "reason"),
    [
        ("libc6 (>= 99)", {}, "exit 0", "vendor-deb depends on libc6 (>= 99)"),
        ("libc6", {"bin/touch": b"mine"}, "exit 0", "/usr/bin/touch of vendor-deb"),
        ("libc6", {}, "echo no licence; exit 4", "no licence"),
    ],
    ids=["unmet", "conflict", "script"],
)
def test_a_deb_that_does_not_fit_fails_the_deploy(
    sysroot: Sysroot,
    build: ObjectId,
    tmp_path: Path,
    needs: str,
    files: dict[str, bytes],
    script: str,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """dpkg would leave an unmet package unpacked; nothing of it gets into a root."""
    add(build_deb(tmp_path, depends=needs, files=files, postinst=script))
    capsys.readouterr()
    found = main(["extension", "check", "--revision", "fastqa"])
    assert (found == 1) == (script == "exit 0")
    assert (reason in capsys.readouterr().out) == (script == "exit 0")
    error = fails(sysroot, build)
    assert reason in error.message + error.log


def test_an_rpm_replaces_the_builds_own_version_of_it(
    sysroot: Sysroot, system: Path, rpms: dict[str, Path]
) -> None:
    """A build with an rpm database of its own: its package's files are its to replace."""
    database = ["--define", "_dbpath /usr/lib/sysimage/rpm", "--root", str(system), "--nodeps"]
    command = ["rpm", *database, "-i", "--noscripts", str(rpms["vendor-libs"])]
    subprocess.run(command, check=True, capture_output=True)
    installed = system / "opt/vendor/lib" / of_openssl()[0].name
    installed.write_bytes(b"an older version")
    build = commit_of(sysroot, system)
    add(rpms["vendor-libs"], rpms["vendor-tool"])
    assert main(["extension", "check", "--revision", "fastqa"]) == 0
    deploy(sysroot, build)
    assert (sysroot.link / "opt/vendor/lib" / installed.name).read_bytes()[:4] == b"\x7fELF"
    commands = [*database[:3], str(sysroot.link), "-qa"]
    told = subprocess.run(["rpm", *commands], check=True, capture_output=True, text=True).stdout
    assert sorted(told.split()) == [
        base_of(sysroot, build),
        f"vendor-libs-3.1-2.{MACHINE}",
        f"vendor-tool-3.1-2.{MACHINE}",
    ]


def test_the_commands_of_the_manual_work(
    sysroot: Sysroot, build: ObjectId, rpms: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/operations.md shows them, one after the other."""
    del build  # It is the branch fastqa.
    monkeypatch.chdir(sysroot.path)
    for name, path in rpms.items():
        Path(f"{name}.rpm").write_bytes(path.read_bytes())
    shown = [shlex.split(line) for line in commands_in("Extensions")]
    assert len(shown) > 5
    for program, *words in shown:
        assert (program, main(words)) == ("hacktree", 0), words
    assert (sysroot.link / "usr/share/vendor/zip").exists()
