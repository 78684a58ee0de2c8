"""Whose a changed file is, from real package databases in the trees."""

import os
import subprocess
from pathlib import Path

import pytest

from hacktree.client.bisect.components.reading import read_database
from hacktree.client.bisect.report.ownership import find_owners
from hacktree.client.extensions.treeview import TreeView
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.rpmndb import encode_ndb
from hacktree.common.repository.packages import rpm_headers
from hacktree.common.repository.repository import Repository
from support.debs import build_tool
from support.pulling import make_repository
from support.trees import Spec, Symlink, make_commit
from support.vendor import program

STATUS = b"Package: libc6\nStatus: install ok installed\nVersion: 2.40\nArchitecture: amd64\n"
SPEC = """\
Name: one
Version: 1
Release: 1
Summary: -
License: -
BuildArch: noarch
%description
-
%install
mkdir -p %{buildroot}/usr/lib
echo 1 > %{buildroot}/usr/lib/of-one
echo 1 > %{buildroot}/usr/lib/shared
%files
/usr/lib/of-one
/usr/lib/shared
%package -n two
Summary: -
%description -n two
-
%files -n two
/usr/lib/shared
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "repo")


def view(repository: Repository, tree: dict[str | bytes, Spec]) -> TreeView:
    return TreeView(repository, repository.load_commit(make_commit(repository, tree)))


def test_dpkgs_lists_say_it_in_the_trees_spelling(repository: Repository) -> None:
    """Of several architectures; a list that says /lib means /usr/lib where that is a link."""
    tree: dict[str | bytes, Spec] = {
        "lib": Symlink(b"usr/lib"),
        "usr/lib/libc.so": b"",
        "usr/lib/nobodys": b"",
        "top": b"",
        "var/lib/dpkg/status": STATUS,
        "var/lib/dpkg/info/libc6:amd64.list": b"/.\n/lib\n/lib/libc.so\n",
        "var/lib/dpkg/info/libc6-dev.list": b"/.\n/usr/lib/libc.so\n/top\n",
        "var/lib/dpkg/info/libc6:amd64.md5sums": b"/usr/lib/nobodys\n",
    }
    wanted = frozenset({b"usr/lib/libc.so", b"usr/lib/nobodys", b"top"})
    assert find_owners(view(repository, tree), wanted) == {
        b"usr/lib/libc.so": ("libc6-dev", "libc6"),
        b"top": ("libc6-dev",),
    }
    mixed = read_database(view(repository, tree), "a build").packages.owners
    assert mixed[b"usr/lib/libc.so"] == ("libc6-dev", "libc6")


def test_what_dpkg_itself_installed(repository: Repository, tmp_path: Path) -> None:
    """The database is what the real dpkg leaves behind."""
    root = tmp_path / "root"
    for part in ("var/lib/dpkg/info", "var/lib/dpkg/updates"):
        (root / part).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    command = ["dpkg", f"--root={root}", "--force-not-root", "--force-script-chrootless", "-i"]
    package = build_tool(tmp_path, 1, "all")
    subprocess.run([*command, package], check=True, capture_output=True)
    tree: dict[str | bytes, Spec] = {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }
    assert find_owners(view(repository, tree), frozenset({b"opt/tool"})) == {b"opt/tool": ("tool",)}


@pytest.mark.parametrize("kind", ["rpmdb.sqlite", "Packages.db"])
def test_what_rpm_itself_installed(repository: Repository, tmp_path: Path, kind: str) -> None:
    """A file may belong to two packages."""
    (tmp_path / "package.spec").write_text(SPEC)
    environment = {**os.environ, "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}

    def run(*command: str | Path) -> None:
        subprocess.run(command, check=True, capture_output=True, env=environment)

    run(
        program("rpmbuild", "rpm"), "-bb", "--define", f"_topdir {tmp_path}",
        tmp_path / "package.spec",
    )  # fmt: skip
    built = sorted(tmp_path.glob("RPMS/noarch/*.rpm"))
    run("rpm", "--dbpath", tmp_path / "db", "-i", "--justdb", "--nodeps", *built)
    database = (tmp_path / "db/rpmdb.sqlite").read_bytes()
    if kind == "Packages.db":
        database = encode_ndb(list(rpm_headers(database)))
    tree: dict[str | bytes, Spec] = {
        f"usr/lib/sysimage/rpm/{kind}": database,
        "usr/lib/of-one": b"",
        "usr/lib/shared": b"",
    }
    owners = find_owners(
        view(repository, tree), frozenset({b"usr/lib/of-one", b"usr/lib/shared", b"usr/other"})
    )
    assert owners is not None
    assert owners[b"usr/lib/of-one"] == ("one",)
    assert sorted(owners[b"usr/lib/shared"]) == ["one", "two"]
    assert owners.keys() == {b"usr/lib/of-one", b"usr/lib/shared"}


def test_a_tree_without_a_database_says_nothing(repository: Repository) -> None:
    """That is another answer than: nobody's."""
    assert find_owners(view(repository, {"usr/lib/a": b""}), frozenset({b"usr/lib/a"})) is None


def test_a_damaged_database_is_one_error(repository: Repository) -> None:
    """Whoever asked can go on without."""
    tree: dict[str | bytes, Spec] = {"var/lib/rpm/rpmdb.sqlite": b"SQLite format 3\0" + bytes(99)}
    with pytest.raises(FormatError):
        find_owners(view(repository, tree), frozenset({b"a"}))
