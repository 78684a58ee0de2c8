"""The parts of extensions: what a build provides, package files that lie, the store, a kill."""

import os
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hacktree.client.extensions import deb, rpmbase
from hacktree.client.extensions.conflicts import find_conflicts
from hacktree.client.extensions.elfprovides import read_provides
from hacktree.client.extensions.package import BadPackageError, Kind, PackageFile, PackedFile
from hacktree.client.extensions.provides import (
    CACHE,
    Library,
    deb_provides,
    find_libraries,
    provided_paths,
    rpm_provides,
)
from hacktree.client.extensions.rpmbase import make_base
from hacktree.client.extensions.rpmfile import read_rpm
from hacktree.client.extensions.store import (
    EXTENSIONS,
    Extension,
    ExtensionError,
    Options,
    list_extensions,
)
from hacktree.client.extensions.treeview import TreeView
from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.main import main
from hacktree.common.objects.ids import hash_bytes
from hacktree.common.objects.packages import Package
from hacktree.common.repository.repository import ObjectMissingError
from support.kill import every_kill
from support.sysroots import make_sysroot
from support.trees import Directory, File, Spec, Symlink, make_commit
from support.vendor import build_deb, find_library, program

RENAMES = "?rename,?renameat,?renameat2"
ELFDEPS = Path("/usr/lib/rpm/elfdeps")


@pytest.fixture
def sysroot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sysroot:
    monkeypatch.delenv("HACKTREE_REPO", raising=False)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(tmp_path / "sysroot"))
    return make_sysroot(tmp_path / "sysroot")


def view_of(sysroot: Sysroot, tree: dict[str | bytes, Spec]) -> TreeView:
    commit = make_commit(sysroot.repository, tree)
    return TreeView(sysroot.repository, sysroot.repository.load_commit(commit))


def make_rpm(path: Path, release: str = "1") -> Path:
    """A package without files that rpm accepts."""
    path.write_bytes(make_base(release, {"lsb": "4.1"}))
    return path


@pytest.mark.parametrize("name", ["libc.so.6", "libz.so.1", "libstdc++.so.6", "libcrypto.so.3"])
def test_libraries_provide_what_rpms_own_tool_says(name: str) -> None:
    """Sonames and symbol versions of real libraries."""
    assert ELFDEPS.exists(), "elfdeps is missing: install the package rpm"
    path = find_library(name)
    done = subprocess.run([ELFDEPS, "-P", path], capture_output=True, text=True, check=True)
    assert set(read_provides(path)) == set(done.stdout.split())


def test_files_that_are_no_libraries_provide_nothing(tmp_path: Path) -> None:
    """Programs, text, and an ELF file that is cut anywhere."""
    whole = find_library("libz.so.1").read_bytes()
    path = tmp_path / "libz.so.1"
    assert read_provides(program("openssl", "openssl")) == ()
    for data in (b"", b"#!/bin/sh\n", b"\x7fELF", whole[:64], whole[: len(whole) // 2]):
        path.write_bytes(data)
        assert read_provides(path) == ()


def test_a_build_provides_paths_by_any_spelling_and_what_is_really_there(sysroot: Sysroot) -> None:
    """Links are followed inside the build only, in circles not at all."""
    view = view_of(
        sysroot,
        {
            "bin": Symlink(b"usr/bin"),
            "lib64": Symlink(b"/usr/lib64"),
            "usr/bin/dash": b"x",
            "usr/bin/sh": Symlink(b"dash"),
            "usr/bin/python3": Symlink(b"../../usr/bin/python3.12"),
            "usr/bin/python3.12": b"x",
            "usr/bin/out": Symlink(b"../../../../../../etc/passwd"),
            "usr/bin/circle": Symlink(b"circle"),
            "usr/lib64/libc.so.6": File(find_library("libc.so.6").read_bytes()),
            "usr/lib64/libfake.so": b"\x7fELF is what it begins with",
            "etc/passwd": b"root:x:0:0::/:/bin/sh\nbuild\n",
        },
    )
    wanted = ["/bin/sh", "/usr/bin/sh", "/lib64/libc.so.6", "/sbin/sh", "/bin/circle", "/bin/out"]
    found = provided_paths(view, [*wanted, "libc.so.6"])
    assert sorted(found) == ["/bin/out", "/bin/sh", "/lib64/libc.so.6", "/usr/bin/sh"]
    assert view.place(b"bin/new/../sh") == b"usr/bin/sh"
    provides = rpm_provides(view, find_libraries(view))
    assert provides["python(abi)"] == "3.12"
    assert "libc.so.6(GLIBC_2.34)(64bit)" in provides
    assert "user(root)" in provides
    assert not {"user(build)", "lsb", "rtld(GNU_HASH)"} & set(provides)


def test_libraries_are_read_once(sysroot: Sysroot) -> None:
    """The same content in another build is remembered, and the cache may be lost at any time."""
    data = File(find_library("libz.so.1").read_bytes())
    first = view_of(sysroot, {"usr/lib/libz.so.1": data})
    (library,) = find_libraries(first)
    entry = first.find(b"usr/lib/libz.so.1")
    assert entry is not None
    sysroot.repository.content_path(entry).unlink()  # type: ignore[arg-type]
    second = TreeView(sysroot.repository, first.commit)
    assert find_libraries(second) == [library]
    for damaged in (b"", b"\x93\x01\x02", b"\xff" * 100):
        (sysroot.repository.state / CACHE).write_bytes(damaged)
        with pytest.raises(ObjectMissingError):
            find_libraries(second)


def test_debian_names_its_libraries_by_their_sonames(sysroot: Sysroot) -> None:
    """Debian Policy 8.1, and the names since the transition to 64-bit times."""
    view = view_of(sysroot, {"empty": b""})
    glibc = ("libc.so.6()(64bit)", "libc.so.6(GLIBC_2.4)(64bit)", "libc.so.6(GLIBC_2.36)(64bit)")
    libraries = [
        Library("libc.so.6", glibc),
        Library("libssl.so.3", ("libssl.so.3()(64bit)",)),
        Library("libpng16.so.16.39.0", ("libpng16.so.16()(64bit)",)),
        Library("libbfd-2.40-system.so", ("libbfd-2.40-system.so()(64bit)",)),
        Library("libGL.so.1.7.0", ("libGL.so.1()(64bit)",)),
    ]
    provides = deb_provides(view, libraries)
    assert provides["libc6"] == "2.36"
    assert provides["libssl3"] == provides["libssl3t64"] == "3"
    assert provides["libpng16-16"] == "16.39.0"
    assert provides["libgl1"] == "1.7.0"


def test_a_status_that_is_not_utf8_is_checked_against(sysroot: Sysroot) -> None:
    """dpkg takes any bytes in a description or a maintainer's name."""
    status = b"Package: old\nStatus: install ok installed\nMaintainer: J\xfcrgen\n"
    status += b"Architecture: all\nVersion: 1\nDescription: old\n"
    view = view_of(sysroot, {"var/lib/dpkg/status": status})
    control = "Package: new\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n"
    for needs, fits in (("old", True), ("absent", False)):
        package = PackageFile(
            Path("new.deb"),
            "deb",
            Package("new", "1", "all"),
            (),
            (),
            f"{control}Depends: {needs}",
        )
        assert (deb.check(view, [Extension(package, Options())]) == "") is fits


def extension(name: str, *files: PackedFile, kind: Kind = "rpm", replace: str = "") -> Extension:
    package = PackageFile(Path(f"{name}.{kind}"), kind, Package(name, "1", "noarch"), files, ())
    return Extension(package, Options((replace,) if replace else ()))


def test_every_kind_of_conflict_is_found_and_nothing_else(sysroot: Sysroot) -> None:
    """Against the build: content, mode, link, kind, a directory's mode; the same is none."""
    view = view_of(
        sysroot,
        {
            "bin": Symlink(b"usr/bin"),
            "usr/bin/file": File(b"data", 0o755),
            "usr/bin/link": Symlink(b"file"),
            "usr/dir": Directory(0o755),
            "usr/dir/x": b"",
        },
    )
    data, regular, link, folder = hash_bytes(b"data"), 0o100755, 0o120777, 0o40755

    def reasons(file: PackedFile, kind: Kind = "rpm", replace: str = "") -> list[str]:
        one = extension("one", file, kind=kind, replace=replace)
        return [conflict.reason for conflict in find_conflicts(view, [one], {})]

    for fine in (
        PackedFile(b"usr/bin/file", regular, data),
        PackedFile(b"bin/file", regular, data),
        PackedFile(b"bin/link", link, target=b"file"),
        PackedFile(b"bin", folder),
        PackedFile(b"usr/dir", folder),
        PackedFile(b"usr/bin/new", regular, data),
    ):
        assert reasons(fine) == [], fine.path
    for bad, reason in (
        (PackedFile(b"bin/file", regular, hash_bytes(b"other")), "would overwrite the build's"),
        (PackedFile(b"bin/file", regular), "would overwrite the build's"),
        (PackedFile(b"bin/file", 0o104755, data), "would overwrite the build's"),
        (PackedFile(b"bin/file", regular, data, owner="daemon"), "would overwrite the build's"),
        (PackedFile(b"bin/link", link, target=b"other"), "would overwrite the build's"),
        (PackedFile(b"bin/file", folder), "is no directory in the build"),
        (PackedFile(b"usr/dir", regular, data), "is a directory in the build"),
        (PackedFile(b"usr/dir", 0o40700), "would get mode 700 instead of 755"),
        (PackedFile(b"usr/dir", folder, owner="daemon"), "would belong to daemon"),
    ):
        assert reasons(bad) == [reason], bad
        assert reasons(bad, replace="usr") == []
    assert reasons(PackedFile(b"usr/dir", 0o40700), kind="deb") == [], "dpkg leaves it as it is"


def test_two_packages_may_only_share_what_is_the_same(sysroot: Sysroot) -> None:
    """Of either kind, by any spelling; what the build's own version owns is free to replace."""
    view = view_of(sysroot, {"bin": Symlink(b"usr/bin"), "usr/bin/mine": b"old"})
    data, regular = hash_bytes(b"data"), 0o100755
    first = extension("one", PackedFile(b"bin/a", regular, data), PackedFile(b"opt", 0o40755))
    same = extension("two", PackedFile(b"usr/bin/a", regular, data), PackedFile(b"opt", 0o40700))
    other = extension("three", PackedFile(b"usr/bin/a", 0o100644, data), kind="deb")
    unknown = extension("four", PackedFile(b"usr/bin/a", regular), kind="deb")
    assert find_conflicts(view, [first, same], {}) == []
    for clashing in (other, unknown):
        (conflict,) = find_conflicts(view, [first, clashing], {})
        assert str(conflict) == (
            f"/usr/bin/a of {clashing.name} 1 (noarch) is in one 1 (noarch), too"
        )
    upgrade = extension("mine", PackedFile(b"usr/bin/mine", regular, data))
    assert len(find_conflicts(view, [upgrade], {})) == 1
    assert find_conflicts(view, [upgrade], {"mine": frozenset({b"usr/bin/mine"})}) == []


def test_rpm_accepts_the_base_and_finds_what_it_provides(tmp_path: Path) -> None:
    """Written here, read by rpm: digests, names, versions; and by our own reader."""
    names = {f"lib{number}.so.1()(64bit)": "" for number in range(3000)}
    path = tmp_path / "base.rpm"
    path.write_bytes(make_base("3f9c21ab7", {**names, "lsb": "4.1", "epoch": "1:2-3"}))
    run = {"capture_output": True, "text": True, "check": True}
    said = subprocess.run(["rpm", "-K", "--nosignature", path], **run).stdout  # type: ignore[call-overload]
    assert "digests OK" in said
    told = subprocess.run(["rpm", "-qp", "--provides", path], **run).stdout.splitlines()  # type: ignore[call-overload]
    assert {"lsb = 4.1", "epoch = 1:2-3", "hacktree-base = 0-3f9c21ab7"} < set(told)
    assert len(told) == 3003
    assert str(read_rpm(path)) == "hacktree-base 0-3f9c21ab7 (noarch)"


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.integers(0, 1200), data=st.binary(min_size=1, max_size=8), cut=st.integers(0, 1500))
def test_an_rpm_that_lies_is_refused_or_read(
    tmp_path: Path, at: int, data: bytes, cut: int
) -> None:
    """Whatever is in its headers: no other error, no memory beyond the file's size."""
    whole = make_base("1", {"lsb": "4.1"})
    path = tmp_path / "x.rpm"
    path.write_bytes((whole[:at] + data + whole[at + len(data) :])[: cut or None])
    with suppress(BadPackageError):
        assert len(read_rpm(path).files) == 0


def test_an_rpm_whose_list_of_files_climbs_or_is_too_long_is_refused(tmp_path: Path) -> None:
    """A count in the header is believed only as far as the header reaches."""
    whole = make_base("1", {})
    entry = struct.pack(">II", 1047, 8)
    at = whole.index(entry)
    for count in (2, 499_999, 500_001, 0xFFFFFFFF):
        path = tmp_path / "x.rpm"
        # PROVIDENAME becomes REQUIRENAME, which is read.
        lie = struct.pack(">II", 1049, 8) + whole[at + 8 : at + 12] + struct.pack(">I", count)
        path.write_bytes(whole[:at] + lie + whole[at + 16 :])
        if count > 2:
            with pytest.raises(BadPackageError, match="tag 1049"):
                read_rpm(path)
        else:
            assert len(read_rpm(path).requires) == 2


def test_the_store_shows_replaces_and_removes(
    sysroot: Sysroot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One version of a package at a time; names are found as people say them."""
    assert main(["extension", "add", str(make_rpm(tmp_path / "a.rpm", "1"))]) == 0
    assert (
        main(["extension", "add", str(make_rpm(tmp_path / "b.rpm", "2")), "--assume", "x=1"]) == 0
    )
    assert "added hacktree-base 0-2 (noarch) instead of 0-1" in capsys.readouterr().out
    assert main(["extension", "list"]) == 0
    shown = "hacktree-base\t0-2\tnoarch\thacktree-base.noarch.rpm\n  assumes x=1\n"
    assert capsys.readouterr().out == shown
    package = build_deb(tmp_path, depends="libc6", files={})
    assert main(["extension", "add", str(package), "--json"]) == 0
    directory = sysroot.path / EXTENSIONS
    assert [e.name for e in list_extensions(sysroot)] == ["vendor-deb", "hacktree-base"]
    assert main(["extension", "remove", "nothing"]) == 2
    assert main(["extension", "remove", "vendor-deb", "hacktree-base.noarch"]) == 0
    assert os.listdir(directory) == []


@pytest.mark.parametrize("name", ["../../../evil", "evil/x", ".hidden", "--eval=%(id)"])
def test_a_package_whose_name_is_a_path_or_an_option_is_not_added(
    sysroot: Sysroot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It names the stored file, and is an argument of rpm outside the root."""
    monkeypatch.setattr(rpmbase, "NAME", name)
    path = make_rpm(tmp_path / "a.rpm")
    before = sorted(tmp_path.rglob("evil*"))
    assert main(["extension", "add", str(path)]) == 2
    assert sorted(tmp_path.rglob("evil*")) == before
    assert os.listdir(sysroot.path / EXTENSIONS) == []


@pytest.mark.parametrize("name", ["bad.rpm", "bad.deb", "bad.txt", "cut.rpm"])
def test_a_damaged_package_is_not_added(
    sysroot: Sysroot, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The payload's digest counts, too; one that is damaged later can be removed."""
    path = tmp_path / name
    path.write_bytes(make_base("1", {})[:-1] if name == "cut.rpm" else b"no package")
    assert main(["extension", "add", str(path)]) == 2
    assert str(path) in capsys.readouterr().err
    directory = sysroot.path / EXTENSIONS
    assert os.listdir(directory) == []
    (directory / "later.rpm").write_bytes(b"damaged")
    assert main(["extension", "list"]) == 2
    assert "`hacktree extension remove later.rpm`" in capsys.readouterr().err
    assert main(["extension", "remove", "later"]) == 0
    assert main(["extension", "list"]) == 0


def test_files_that_others_can_write_are_not_used(sysroot: Sysroot, tmp_path: Path) -> None:
    """Their scripts would run as root."""
    assert main(["extension", "add", str(make_rpm(tmp_path / "a.rpm"))]) == 0
    (file,) = (sysroot.path / EXTENSIONS).iterdir()
    file.chmod(0o666)
    with pytest.raises(ExtensionError, match="can be written by others"):
        list_extensions(sysroot)
    file.chmod(0o644)
    os.chown(file, 1234, 1234)
    with pytest.raises(ExtensionError, match="can be written by others"):
        list_extensions(sysroot)


def test_two_versions_that_were_put_there_by_hand_are_refused(
    sysroot: Sysroot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["extension", "add", str(make_rpm(tmp_path / "a.rpm"))]) == 0
    make_rpm(sysroot.path / EXTENSIONS / "mine.rpm", "2")
    assert main(["extension", "list"]) == 2
    assert "two versions of hacktree-base" in capsys.readouterr().err


def test_an_add_that_is_killed_leaves_the_old_version_or_the_new(
    sysroot: Sysroot, tmp_path: Path
) -> None:
    """Whole, and the next command cleans up."""
    first, second = make_rpm(tmp_path / "1.rpm", "1"), make_rpm(tmp_path / "2.rpm", "2")
    add = [str(Path(sys.executable).with_name("hacktree")), "extension", "add"]
    assert main(["extension", "add", str(first), "--assume", "x"]) == 0
    for _ in every_kill([*add, str(second), "--assume", "y"], RENAMES):
        (found,) = list_extensions(sysroot)
        assert found.package.package.version in ("0-1", "0-2")
        assert main(["extension", "add", str(first), "--assume", "x"]) == 0
        names = sorted(os.listdir(sysroot.path / EXTENSIONS))
        assert names == ["hacktree-base.noarch.rpm", "hacktree-base.noarch.rpm.toml"]
    (found,) = list_extensions(sysroot)
    assert (found.package.package.version, found.options.assume) == ("0-2", ("y",))
