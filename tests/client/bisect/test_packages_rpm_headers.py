"""What rpm's headers say of packages, against rpm itself."""

import subprocess
from itertools import pairwise, product
from pathlib import Path
from random import Random

import pytest

from hacktree.client.bisect.components.installed import Relation
from hacktree.client.bisect.components.rpm import (
    compare_versions,
    fits,
    join_export,
    parse_installed,
    split_export,
)
from hacktree.client.bisect.components.rpmdb import read_headers
from hacktree.common.objects.errors import FormatError
from support.debsystem import Deb
from support.enterable import require_root
from support.rpmsystem import DATABASE, install_rpms
from support.vendor import program

FIELDS = {
    "Epoch": "1",
    "Requires": "libc = 2:1.0-1, (a if b), base, rpmlib(CompressedFileNames) <= 3.0.4-1",
    "Requires(pre)": "newer > 1",
    "Conflicts": "two < 2, three <= 3",
    "Obsoletes": "old >= 1~rc1",
    "Provides": "one-api = 2, plain",
}


def test_a_header_says_what_a_package_needs_and_is(tmp_path: Path) -> None:
    require_root()
    install_rpms([Deb("one-libs", "2.0^git1", control=FIELDS)], tmp_path / "root", tmp_path)
    database = (tmp_path / "root" / DATABASE / "rpmdb.sqlite").read_bytes()
    (header,) = read_headers("sqlite", database)
    package = parse_installed(header)
    assert (package.name, package.version, package.source) == (
        "one-libs", "1:2.0^git1-1", "one-libs"
    )  # fmt: skip
    assert set(package.needs) == {
        (Relation("libc", "=", "2:1.0-1"),),
        (Relation("(a if b)"),),
        (Relation("base"),),
        (Relation("newer", ">>", "1"),),
    }
    assert package.against == (
        Relation("three", "<=", "3"), Relation("two", "<<", "2"), Relation("old", ">=", "1~rc1")
    )  # fmt: skip
    assert set(package.provides) == {
        ("one-api", "2"), ("plain", ""), ("one-libs", "1:2.0^git1-1")
    }  # fmt: skip


def test_what_is_not_a_row_of_headers_is_refused() -> None:
    header = bytes(8)
    assert split_export(join_export([header, header])) == [header, header]
    for stream in (b"x", join_export([header])[:-1], join_export([b"\0\0\0\1" + bytes(4)])):
        with pytest.raises(FormatError, match="rpmdb exported"):
            split_export(stream)


KNOWN = ("1", "1.0", "1~", "1^", "1.0~rc1", "1.0^git1", "1.0^git1~a", "1.01", "1a", "1.a", "2:0.1")


def random_version(random: Random) -> str:
    epoch = random.choice(("", "", "0:", "1:"))
    return epoch + "".join(random.choices("0019aZ.+~^_", k=random.randrange(1, 7)))


def test_versions_are_ordered_as_rpm_orders_them() -> None:
    random = Random(7)
    some = [random_version(random) for _ in range(400)]
    releases = ("1-1", "1-1.fc40", "1-2~1")
    pairs = [*product(KNOWN, KNOWN), *product(releases, releases), *pairwise(some)]
    table = ",".join(f'{{"{first}","{second}"}}' for first, second in pairs)
    script = f"%{{lua: for _, p in ipairs({{{table}}}) do print(rpm.vercmp(p[1], p[2]), '') end}}"
    done = subprocess.run(
        [program("rpm", "rpm"), "--eval", script], capture_output=True, text=True, check=True
    )
    found = [compare_versions(first, second) for first, second in pairs]
    assert found == [int(line) for line in done.stdout.split()]
    assert len(found) > 500


def test_a_release_counts_only_where_both_have_one() -> None:
    assert fits("2.0-3", Relation("a", "=", "2.0"))
    assert fits("2.0-3", Relation("a", ">=", "2.0-2"))
    assert not fits("2.0-3", Relation("a", "=", "2.0-2"))
    assert not fits("1:2.0-3", Relation("a", "<=", "2.0"))
    assert fits("", Relation("a", ">=", "2.0"))
    assert compare_versions("9" * 5000, "1") > 0
