"""What dpkg's database says of packages, against dpkg itself."""

import subprocess
from itertools import pairwise, product
from random import Random

import pytest

from hacktree.client.bisect.components.dpkg import compare_versions, list_paths, parse_status
from hacktree.client.bisect.components.installed import Relation
from hacktree.common.objects.errors import FormatError

STATUS = b"""\
Package: libone1
Status: install ok installed
Architecture: amd64
Source: one (2.0)
Version: 1:2.0-1+b1
Depends: libc6 (>= 2.34), default-mta | mail-transport-agent,
 python3:any (<< 3.13)
Pre-Depends: base
Breaks: two (<< 2), nonsense (~ 2)
Conflicts: three
Provides: one-api (= 2), one
Description: no field
Depends on nothing here

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


def test_a_stanza_says_what_a_package_needs_and_is() -> None:
    (package, stanza), *others = parse_status(STATUS)
    assert not others
    assert stanza.startswith(b"Package: libone1\n")
    assert stanza.endswith(b"here")
    assert (package.name, package.source, package.version) == ("libone1", "one", "1:2.0-1+b1")
    assert package.needs == (
        (Relation("base"),),
        (Relation("libc6", ">=", "2.34"),),
        (Relation("default-mta"), Relation("mail-transport-agent")),
        (Relation("python3", "<<", "3.13"),),
    )
    assert package.against == (Relation("two", "<<", "2"), Relation("three"))
    assert package.provides == (("one-api", "2"), ("one", ""))


def test_a_stanza_without_a_version_is_refused() -> None:
    with pytest.raises(FormatError, match="version"):
        list(parse_status(b"Package: one\nStatus: install ok installed\n"))


def test_paths_of_a_list_are_relative() -> None:
    assert list_paths(b"/.\n/usr\n/usr/bin/one\n") == [b"usr", b"usr/bin/one"]


KNOWN = ("1.0", "1.0-0", "1.0~rc1", "1.0-1", "1.0-1~bpo12+1", "1.09", "1.9", "1a", "1+", "0:1", "1")


def random_version(random: Random) -> str:
    epoch, revision = random.choice(("", "", "0:", "1:")), random.choice(("", "-1", "-1~a", "-0+b"))
    rest = "".join(random.choices("0019aZ.+~", k=random.randrange(5)))
    return f"{epoch}{random.randrange(3)}{rest}{revision}"


def test_versions_are_ordered_as_dpkg_orders_them() -> None:
    random = Random(7)
    some = [random_version(random) for _ in range(100)]
    pairs = [*product(KNOWN, KNOWN), *pairwise(some)]
    script = []
    for first, second in pairs:
        order = compare_versions(first, second)
        assert compare_versions(second, first) == -order
        operator = "lt" if order < 0 else "gt" if order > 0 else "eq"
        script.append(
            f"dpkg --compare-versions {first} {operator} {second} || echo {first} {second}"
        )
    done = subprocess.run(
        ["sh", "-c", "\n".join(script)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("", "")
