"""Which package broke it, in systems of real RPMs: their databases read, mixed and written."""

import os
import sqlite3
import struct
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from hacktree.client.bisect.components.composing import (
    Ends,
    NothingDiffersError,
    compose,
    store,
    take_apart,
)
from hacktree.client.bisect.components.database import NoPackagesError
from hacktree.client.bisect.components.rpm import join_export
from hacktree.client.bisect.components.rpmdb import read_headers, write_database
from hacktree.client.bisect.components.saved import find_search
from hacktree.client.extensions.rpmheader import ENTRY, SIZES
from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.main import main
from hacktree.common.errors import SystemFault
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.packages import METADATA_KEY, packages_from_metadata
from hacktree.common.objects.rpmndb import encode_ndb, ndb_headers
from hacktree.common.repository.checkout import LinkPolicy, check_out
from hacktree.common.repository.packages import packages_of_headers
from support.debsystem import Deb, base_system, commit_tree
from support.enterable import hacktree, require_root
from support.rpmsystem import DATABASE, install_rpms, rpm
from support.sysroots import make_sysroot
from support.vendor import program

ONE = Deb("one", files={"usr/share/one": "1"})
TWO = Deb("two", files={"usr/share/two": "1"})
THREE = Deb("three", files={"usr/share/three": "1"})
OTHER_TWO = Deb(
    "other-two",
    files={"usr/share/two": "2"},
    control={"Conflicts": "two", "Requires": "one >= 2, rpmlib(CompressedFileNames) <= 3.0.4-1"},
)
APP = Deb(
    "app",
    files={"usr/bin/app": '#!/bin/sh\n[ "$(cat /usr/share/three)" = 1 ]\n'},
    control={"Requires": "/usr/share/two"},
)
PACKAGES = ("bisect", "packages", "fastqa~1", "fastqa")
OLD = [*base_system(), APP, ONE, TWO, THREE]
NEW = [
    *base_system(),
    APP,
    ONE.at("2", usr_share_one="2"),
    OTHER_TWO,
    THREE.at("2", usr_share_three="2"),
]


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    require_root()
    (tmp_path / "sysroot").mkdir()
    return make_sysroot(tmp_path / "sysroot")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What rpm made of the old packages, and of the new ones. Read only."""
    require_root()
    top = tmp_path_factory.mktemp("rpms")
    install_rpms(OLD, top / "old", top)
    install_rpms(NEW, top / "new", top)
    return top / "old", top / "new"


def commits_of(sysroot: Sysroot, trees: tuple[Path, Path]) -> tuple[ObjectId, ObjectId]:
    old, new = (commit_tree(sysroot.repository, tree) for tree in trees)
    return old, new


def number_of(ends: Ends, name: str) -> int:
    (number,) = (at for at, one in enumerate(ends.plan.components) if name in one.names)
    return number


def test_the_package_that_breaks_a_program_is_found(
    sysroot: Sysroot, trees: tuple[Path, Path]
) -> None:
    """By the command, in real roots; what belongs together comes together."""
    commits_of(sysroot, trees)
    found = hacktree(sysroot, *PACKAGES, "--run", "/usr/bin/app")
    assert found.returncode == 0, found.stderr
    assert "this breaks it:\n  three 1-1 -> 2-1\n" in found.stdout
    assert "4 packages differ, 3 of them or groups of them" in found.stdout
    saved = find_search(sysroot)
    assert saved is not None
    # Both ends, the cuts of 3 components, and the culprit alone.
    assert len(saved.answers) <= 2 + 2 + 1


def test_a_mixture_is_what_rpm_says_it_is(
    sysroot: Sysroot, trees: tuple[Path, Path], tmp_path: Path
) -> None:
    """rpm finds in the root the packages that were chosen, and each file as they have it."""
    ends = take_apart(sysroot.repository, *commits_of(sysroot, trees))
    number = number_of(ends, "other-two")
    assert ends.plan.components[number].names == {"two", "other-two"}
    chosen = ends.plan.close([number])
    assert chosen == {number, number_of(ends, "one")}
    composed = compose(ends, chosen)
    commit = sysroot.repository.load_commit(store(ends, composed, lambda commit: None))
    check_out(sysroot.repository, commit, tmp_path / "root", policy=LinkPolicy.COPY)
    expected = {"app-1", "base-1", "one-2", "other-two-1", "shell-1", "three-1"}
    names = rpm(tmp_path / "root", "-qa", "--qf", "%{NAME}-%{VERSION}\n").split()
    assert set(names) == expected
    assert len(names) == len(expected)
    assert rpm(tmp_path / "root", "-Va", "--nomtime") == ""
    assert rpm(tmp_path / "root", "-qf", "/usr/share/two").strip() == "other-two-1-1.noarch"
    listed = packages_from_metadata(commit.metadata[METADATA_KEY])
    assert {f"{one.name}-{one.version.removesuffix('-1')}" for one in listed} == expected
    # Its answer is known again, whatever bytes another rpm would write.
    assert compose(ends, chosen).tree == composed.tree != commit.root.id


def headers_in(tree: Path) -> list[bytes]:
    database = (tree / DATABASE / "rpmdb.sqlite").read_bytes()
    return read_headers("sqlite", database)


def test_equal_packages_are_equal_databases(trees: tuple[Path, Path]) -> None:
    headers = join_export(headers_in(trees[0]))
    first, second = (write_database("sqlite", headers) for _ in range(2))
    assert first == second


def test_a_header_that_rpm_refuses_is_not_left_out_silently(trees: tuple[Path, Path]) -> None:
    """A tag that has no data: the header says so itself, but it is of no tag that is read here."""
    header = headers_in(trees[0])[0]
    count, size = SIZES.unpack_from(header)
    last = SIZES.size + (count - 1) * ENTRY.size
    tag, kind, _, values = ENTRY.unpack_from(header, last)
    bad = header[:last] + ENTRY.pack(tag, kind, size + 1000, values) + header[last + ENTRY.size :]
    with pytest.raises(SystemFault, match="did not take the headers"):
        write_database("sqlite", join_export([bad]))


def damage(database: Path) -> None:
    """What a header says of its own size is wrong."""
    with closing(sqlite3.connect(database)) as connection, connection:
        (blob,) = connection.execute("SELECT blob FROM Packages").fetchone()
        wrong = SIZES.pack(SIZES.unpack_from(blob)[0], 1) + blob[SIZES.size :]
        connection.execute("UPDATE Packages SET blob = ? WHERE blob = ?", (wrong, blob))


@pytest.mark.parametrize("harm", [damage, lambda database: os.truncate(database, 50_000)])
def test_a_damaged_database_is_refused_by_name_and_nothing_is_kept(
    sysroot: Sysroot,
    trees: tuple[Path, Path],
    tmp_path: Path,
    harm: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    subprocess.run(["cp", "-a", trees[1], tmp_path / "damaged"], check=True)
    harm(tmp_path / "damaged" / DATABASE / "rpmdb.sqlite")
    bad = commits_of(sysroot, (trees[0], tmp_path / "damaged"))[1]
    assert main([f"--sysroot={sysroot.path}", *PACKAGES, "--run", "true"]) == 5
    assert f"database of {bad.hex()[:12]} can't be read: an rpm" in capsys.readouterr().err
    assert not os.listdir(sysroot.pins)
    assert find_search(sysroot) is None


def test_builds_that_differ_only_in_their_databases_are_refused(
    sysroot: Sysroot, trees: tuple[Path, Path], tmp_path: Path
) -> None:
    """rpm notes when it installed what."""
    subprocess.run(["cp", "-a", trees[0], tmp_path / "later"], check=True)
    rpm(tmp_path / "later", "--rebuilddb")
    (tmp_path / "later" / DATABASE / ".rpm.lock").write_text("later")
    with pytest.raises(NothingDiffersError, match="nothing but the package database"):
        take_apart(sysroot.repository, *commits_of(sysroot, (trees[0], tmp_path / "later")))


def to_berkeley_db(tree: Path, copy: Path) -> Path:
    """A copy of the tree with its database as old versions of rpm kept it: headers by number."""
    subprocess.run(["cp", "-a", tree, copy], check=True)
    for path in (copy / DATABASE).iterdir():
        path.unlink()
    headers = headers_in(tree)
    records = [struct.pack("=I", len(headers)), *headers]
    lines = [
        f" {data.hex()}"
        for number, record in enumerate(records)
        for data in (struct.pack("=I", number), record)
    ]
    dump = "\n".join(
        ["VERSION=3", "format=bytevalue", "type=hash", "HEADER=END", *lines, "DATA=END", ""]
    )
    command = [program("db_load", "db-util"), copy / DATABASE / "Packages"]
    subprocess.run(command, input=dump.encode(), check=True)
    return copy


def test_a_database_that_rpm_only_reads_stays_the_good_builds(
    sysroot: Sysroot,
    trees: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Packages are told apart as elsewhere, and whoever searches is told what rpm would say."""
    old, new = (to_berkeley_db(tree, tmp_path / tree.name) for tree in trees)
    ends = take_apart(sysroot.repository, *commits_of(sysroot, (old, new)))
    chosen = ends.plan.close([number_of(ends, "other-two")])
    commit = sysroot.repository.load_commit(store(ends, compose(ends, chosen), lambda commit: None))
    check_out(sysroot.repository, commit, tmp_path / "root", policy=LinkPolicy.COPY)
    assert (tmp_path / "root/usr/share/two").read_text() == "2"
    kept = tmp_path / "root" / DATABASE / "Packages"
    assert kept.read_bytes() == (old / DATABASE / "Packages").read_bytes()
    assert os.listdir(kept.parent) == ["Packages"]
    names = {one.name for one in packages_from_metadata(commit.metadata[METADATA_KEY])}
    assert {"one", "other-two", "three"} <= names
    assert main([f"--sysroot={sysroot.path}", *PACKAGES, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "rpm on this machine can't write Berkeley DB" in shown
    assert "its /usr/lib/sysimage/rpm is the good build's" in shown


def test_what_rpm_cannot_read_is_refused(
    sysroot: Sysroot, trees: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = (to_berkeley_db(tree, tmp_path / tree.name) for tree in trees)
    for tree in (old, new):
        os.truncate(tree / DATABASE / "Packages", 5000)
    with pytest.raises(FormatError, match="doesn't take this Berkeley DB: rpmdb --exportdb"):
        take_apart(sysroot.repository, *commits_of(sysroot, (old, new)))


def to_ndb(tree: Path, copy: Path) -> Path:
    """A copy of the tree with its database as openSUSE's rpm keeps it."""
    subprocess.run(["cp", "-a", tree, copy], check=True)
    for path in (copy / DATABASE).iterdir():
        path.unlink()
    (copy / DATABASE / "Packages.db").write_bytes(encode_ndb(headers_in(tree)))
    (copy / DATABASE / "Index.db").write_text("indexes")
    return copy


def test_databases_of_two_kinds_are_refused(
    sysroot: Sysroot, trees: tuple[Path, Path], tmp_path: Path
) -> None:
    both = commits_of(sysroot, (trees[0], to_ndb(trees[1], tmp_path / "ndb")))
    with pytest.raises(
        NoPackagesError, match=r"sqlite, .* in .*/Packages\.db: they can't be mixed"
    ):
        take_apart(sysroot.repository, *both)


def test_an_ndb_database_is_read_and_written_without_rpm(
    sysroot: Sysroot,
    trees: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Debian's has no ndb. The good build's indexes stay: rpm makes them anew."""
    old, new = (to_ndb(tree, tmp_path / tree.name) for tree in trees)
    monkeypatch.setattr("hacktree.client.bisect.components.rpmdb.SEARCHED", str(tmp_path))
    ends = take_apart(sysroot.repository, *commits_of(sysroot, (old, new)))
    chosen = ends.plan.close([number_of(ends, "other-two")])
    commit = sysroot.repository.load_commit(store(ends, compose(ends, chosen), lambda commit: None))
    check_out(sysroot.repository, commit, tmp_path / "root", policy=LinkPolicy.COPY)
    assert (tmp_path / "root/usr/share/two").read_text() == "2"
    kept = tmp_path / "root" / DATABASE
    listed = packages_of_headers(ndb_headers((kept / "Packages.db").read_bytes()))
    assert [f"{one.name} {one.version}" for one in listed] == [
        "app 1-1", "base 1-1", "one 2-1", "other-two 1-1", "shell 1-1", "three 1-1",
    ]  # fmt: skip
    assert listed == packages_from_metadata(commit.metadata[METADATA_KEY])
    assert (kept / "Index.db").read_text() == "indexes"
    assert main([f"--sysroot={sysroot.path}", *PACKAGES, "--dry-run"]) == 0
    assert "can't write" not in capsys.readouterr().out
    assert main([f"--sysroot={sysroot.path}", *PACKAGES, "--run", "/usr/bin/app"]) == 0
    assert "this breaks it:\n  three 1-1 -> 2-1\n" in capsys.readouterr().out
