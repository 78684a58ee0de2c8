"""The package list of a tree agrees with the packager's own tools, and no database can break it.

Needs the real `dpkg-query`, `rpm` and `rpmbuild`.
"""

import os
import re
import shutil
import sqlite3
import struct
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.packages import (
    MAX_DPKG_STATUS_SIZE,
    MAX_FIELD_LENGTH,
    MAX_PACKAGES,
    MAX_RPM_HEADER_SIZE,
    Package,
    PackageDiff,
    diff_packages,
    packages_from_metadata,
    packages_to_metadata,
    parse_dpkg_status,
    parse_rpm_header,
)
from hacktree.common.repository.packages import (
    UnreadablePackagesError,
    detect_packages,
    packages_of_headers,
    rpm_headers,
)

KEY = Path(__file__).parent / "data" / "rpm-test-key.asc"

RPM_LIBRARY = """
Name: libfoo
Version: 2~rc1^git
Release: 4.fc40
Epoch: 1
Summary: An epoch, and the characters that only versions have
License: MIT
%description
It is built for the machine's own architecture.
%package -n foo-data
Summary: Another architecture and no epoch of its own
Version: 3
Epoch: 0
BuildArch: noarch
%description -n foo-data
Data.
%files
%files -n foo-data
"""
RPM_KERNEL = """
Name: kernel-core
Version: %{kernel}
Release: 1
Summary: A package that is installed in several versions side by side
License: MIT
BuildArch: noarch
%description
A kernel.
%files
"""

fields = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=12)
packages = st.builds(Package, fields, fields, fields)
few_packages = st.sets(
    st.builds(Package, st.sampled_from("ab"), st.sampled_from("1234"), st.sampled_from("xy"))
)


def read_rpm_database(database: bytes) -> tuple[Package, ...]:
    """The packages in an `rpmdb.sqlite`."""
    return packages_of_headers(rpm_headers(database))


def reader(files: dict[str, bytes]) -> Callable[[bytes, int], bytes | None]:
    """A tree that holds `files`, as `detect_packages` sees one."""

    def read(path: bytes, max_size: int) -> bytes | None:
        content = files.get(path.decode())
        if content is not None and len(content) > max_size:
            raise FormatError(f"larger than {max_size}")
        return content

    return read


def rpm_header(
    *entries: tuple[int, int, int, int], data: bytes, data_size: int | None = None
) -> bytes:
    """A header with these index entries: (tag, type, offset, count)."""
    index = b"".join(struct.pack(">IIII", *entry) for entry in entries)
    size = len(data) if data_size is None else data_size
    return struct.pack(">II", len(entries), size) + index + data


NAME, VERSION, RELEASE, EPOCH, ARCH = 1000, 1001, 1002, 1003, 1022
INT32, STRING = 4, 6
SOUND = ((NAME, STRING, 0, 1), (VERSION, STRING, 2, 1), (RELEASE, STRING, 4, 1))
SOUND_DATA = b"n\x001\x002\0noarch\0"
SOUND_HEADER = rpm_header(*SOUND, (ARCH, STRING, 6, 1), data=SOUND_DATA)


# The type and its encoding


@pytest.mark.parametrize("bad", ["", "a b", "a\n", "\x1b[2J", "é", "\u202e", "a" * 257])
@pytest.mark.parametrize("position", range(3))
def test_a_field_that_could_not_be_printed_safely_makes_no_package(bad: str, position: int) -> None:
    values = ["a", "1", "x"]
    values[position] = bad
    with pytest.raises(FormatError):
        Package(*values)


def test_a_field_may_have_the_greatest_length() -> None:
    assert Package("a" * MAX_FIELD_LENGTH, "1", "x").name == "a" * MAX_FIELD_LENGTH


@given(st.lists(packages))
def test_metadata_gives_back_the_sorted_set_of_packages(listed: list[Package]) -> None:
    value = packages_to_metadata(listed)
    assert packages_from_metadata(value) == tuple(sorted(set(listed)))
    assert packages_to_metadata(reversed(listed)) == value


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | fields,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
)
rows = st.lists(st.lists(fields | json_like, min_size=2, max_size=4), max_size=3)


@given(json_like | rows)
def test_metadata_that_decodes_is_the_one_encoding_of_its_packages(value: object) -> None:
    try:
        decoded = packages_from_metadata(value)
    except FormatError:
        return
    assert packages_to_metadata(decoded) == value


@pytest.mark.parametrize(
    "value",
    [
        None,
        "a",
        {},
        ["abc"],
        [["a", "1"]],
        [["a", "1", "x", "y"]],
        [["a", 1, "x"]],
        [["a", "1", b"x"]],
        [["a", "1", ""]],
        [["b", "1", "x"], ["a", "1", "x"]],
        [["a", "1", "x"], ["a", "1", "x"]],
    ],
)
def test_metadata_that_is_not_a_sorted_unique_list_of_packages_is_refused(value: object) -> None:
    with pytest.raises(FormatError):
        packages_from_metadata(value)


def test_neither_direction_takes_more_packages_than_the_limit() -> None:
    too_many = [Package(f"{n:06}", "1", "x") for n in range(MAX_PACKAGES + 1)]
    value = packages_to_metadata(too_many[1:])
    assert len(packages_from_metadata(value)) == MAX_PACKAGES
    with pytest.raises(FormatError, match="more than"):
        packages_to_metadata(too_many)
    with pytest.raises(FormatError, match="more than"):
        packages_from_metadata([["000000", "0", "x"], *value])


# The difference


def diff(old: list[str], new: list[str]) -> tuple[list[str], list[str], list[str]]:
    """The difference of packages written `name version architecture`."""
    difference = diff_packages(*([Package(*line.split()) for line in side] for side in (old, new)))

    def line(package: Package) -> str:
        return f"{package.name} {package.version} {package.architecture}"

    changed = [f"{line(before)} > {line(after)}" for before, after in difference.changed]
    return [*map(line, difference.added)], [*map(line, difference.removed)], changed


@pytest.mark.parametrize(
    ("old", "new", "added", "removed", "changed"),
    [
        pytest.param(["a 1 x"], ["a 1 x"], [], [], [], id="same"),
        pytest.param([], ["a 1 x"], ["a 1 x"], [], [], id="added"),
        pytest.param(["a 1 x"], [], [], ["a 1 x"], [], id="removed"),
        pytest.param(["a 1 x"], ["a 2 x"], [], [], ["a 1 x > a 2 x"], id="upgraded"),
        pytest.param(["a 2 x"], ["a 1 x"], [], [], ["a 2 x > a 1 x"], id="downgraded"),
        pytest.param(
            ["a 1 all"], ["a 2 x"], [], [], ["a 1 all > a 2 x"], id="no longer of all architectures"
        ),
        pytest.param(
            ["c 1 amd64", "c 1 i386"],
            ["c 2 amd64", "c 2 i386"],
            [],
            [],
            ["c 1 amd64 > c 2 amd64", "c 1 i386 > c 2 i386"],
            id="each architecture is upgraded by itself",
        ),
        pytest.param(
            ["c 1 amd64", "c 1 i386"],
            ["c 2 amd64"],
            [],
            ["c 1 i386"],
            ["c 1 amd64 > c 2 amd64"],
            id="one of two architectures is removed",
        ),
        pytest.param(
            ["c 1 amd64", "c 1 i386"],
            ["c 1 amd64", "c 1 arm64"],
            ["c 1 arm64"],
            ["c 1 i386"],
            [],
            id="of several architectures none became another",
        ),
        pytest.param(["k 1 x"], ["k 1 x", "k 2 x"], ["k 2 x"], [], [], id="a second kernel"),
        pytest.param(["k 1 x", "k 2 x"], ["k 2 x"], [], ["k 1 x"], [], id="one kernel less"),
        pytest.param(
            ["k 1 x", "k 2 x"],
            ["k 2 x", "k 3 x"],
            ["k 3 x"],
            ["k 1 x"],
            [],
            id="of several kernels none became another",
        ),
    ],
)
def test_diff(
    old: list[str], new: list[str], added: list[str], removed: list[str], changed: list[str]
) -> None:
    assert diff(old, new) == (added, removed, changed)


@given(few_packages, few_packages)
def test_a_diff_leads_from_the_old_list_to_the_new_and_its_mirror_back(
    old: set[Package], new: set[Package]
) -> None:
    difference = diff_packages(old, new)
    gone = {*difference.removed, *(before for before, _ in difference.changed)}
    come = {*difference.added, *(after for _, after in difference.changed)}
    assert gone == old - new
    assert come == new - old
    assert len(gone) == len(difference.removed) + len(difference.changed)
    assert len(come) == len(difference.added) + len(difference.changed)
    mirror = PackageDiff(
        difference.removed,
        difference.added,
        tuple(sorted((after, before) for before, after in difference.changed)),
    )
    assert diff_packages(new, old) == mirror


# dpkg


def stanza(**replaced: str | None) -> bytes:
    values = {
        "Package": "a",
        "Status": "install ok installed",
        "Architecture": "amd64",
        "Version": "1:2-3",
    }
    lines = {**values, **replaced}
    return "".join(f"{k}: {v}\n" for k, v in lines.items() if v is not None).encode() + b"\n"


A = Package("a", "1:2-3", "amd64")


def test_this_machines_dpkg_database_is_read_as_dpkg_query_reads_it(tmp_path: Path) -> None:
    # A copy, because an installation may run beside the tests.
    status = Path("/var/lib/dpkg/status").read_bytes()
    (tmp_path / "status").write_bytes(status)
    (tmp_path / "arch").write_bytes(b"")
    listed = subprocess.run(
        [
            "dpkg-query",
            f"--admindir={tmp_path}",
            "--show",
            "--showformat=${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\n",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    installed = [line.split("\t")[1:] for line in listed.splitlines() if line[:10] == "installed\t"]
    assert len(installed) > 50
    assert parse_dpkg_status(status) == tuple(sorted(Package(*line) for line in installed))


@pytest.mark.parametrize(
    "status",
    [
        "deinstall ok config-files",
        "purge ok not-installed",
        "install ok unpacked",
        "install reinstreq half-installed",
    ],
)
def test_a_package_that_is_not_installed_is_not_listed(status: str) -> None:
    assert parse_dpkg_status(stanza(Package="b", Status=status, Version=None) + stanza()) == (A,)


def test_a_package_marked_for_removal_is_still_installed() -> None:
    assert parse_dpkg_status(stanza(Status="deinstall ok installed")) == (A,)


def test_other_fields_may_hold_continuation_lines_and_any_bytes() -> None:
    others = b"Description: caf\xe9\n \xff\xfe:\n .\n\tVersion: 9\nX-Long:" + b" x" * 9999 + b"\n"
    assert parse_dpkg_status(b"\n\n" + others + stanza() + b"\n\n" + stanza(Package="b")) == (
        A,
        Package("b", "1:2-3", "amd64"),
    )


def test_field_names_have_no_case_and_the_last_line_needs_no_end() -> None:
    assert parse_dpkg_status(stanza().lower().rstrip(b"\n")) == (A,)


def test_several_architectures_of_one_package_are_all_listed() -> None:
    assert parse_dpkg_status(stanza(Architecture="i386") + stanza()) == (
        A,
        Package("a", "1:2-3", "i386"),
    )


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (stanza(Package="bad", Status=None), "not three words"),
        (stanza(Package="bad", Status="installed"), "not three words"),
        (stanza(Package="bad", Version=None), "no version"),
        (stanza(Package="bad", Architecture=None), "no architecture"),
        (stanza(Package="bad", Version=""), "not a package name, version"),
        (stanza(Package="bad", Version="1 2"), "not a package name, version"),
        (stanza(Package="bad", Version="1\xe9"), "not a package name, version"),
        (stanza(Package="bad", Version="1\n 2"), "a second line"),
        (stanza(Package="bad").rstrip(b"\n") + b"\nversion: 2\n", "two version fields"),
        (stanza(Package="bad").rstrip(b"\n") + b"\nno colon\n", "not a field: b'no colon"),
        (stanza(Package="bad").rstrip(b"\n") + b"\n: no name\n", "not a field"),
    ],
)
def test_a_malformed_stanza_is_refused_by_its_number_and_name(bad: bytes, problem: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_dpkg_status(stanza() + bad + stanza())
    assert "stanza 2 (package bad)" in str(caught.value)
    assert problem in str(caught.value)


def test_a_stanza_without_a_name_is_refused_by_its_number() -> None:
    with pytest.raises(FormatError, match=re.escape("stanza 2 (package ?): it has no package")):
        parse_dpkg_status(stanza() + stanza(Package=None))


def test_an_error_about_a_stanza_can_be_printed() -> None:
    with pytest.raises(FormatError) as caught:
        parse_dpkg_status(b"Package: \x1b[2J\xff\n\x1b\n")
    assert caught.value.message.isprintable()


def test_a_stanza_cannot_begin_with_a_continuation_line() -> None:
    with pytest.raises(FormatError, match="not a field"):
        parse_dpkg_status(stanza() + b" x: y\n")


def test_a_status_file_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(FormatError, match="exceeds"):
        parse_dpkg_status(bytes(MAX_DPKG_STATUS_SIZE + 1))


dpkg_lines = st.lists(
    st.sampled_from([*stanza().splitlines(), b"", b" ", b" x", b"Status: a b installed"])
    | st.binary(max_size=8)
)


@given(st.binary() | dpkg_lines.map(b"\n".join))
def test_hostile_dpkg_status_raises_nothing_but_our_error(data: bytes) -> None:
    try:
        found = parse_dpkg_status(data)
    except FormatError:
        return
    assert list(found) == sorted(set(found))


# One rpm header


def test_a_header_gives_name_version_release_and_architecture() -> None:
    assert parse_rpm_header(SOUND_HEADER) == Package("n", "1-2", "noarch")


def test_an_epoch_comes_before_the_version_even_when_it_is_zero() -> None:
    for epoch in (0, 7, 0xFFFFFFFF):
        data = SOUND_DATA[:6] + struct.pack(">I", epoch)
        header = rpm_header(*SOUND, (EPOCH, INT32, 6, 1), data=data)
        assert parse_rpm_header(header).version == f"{epoch}:1-2"


def test_a_header_without_architecture_says_so_as_rpm_does() -> None:
    assert parse_rpm_header(rpm_header(*SOUND, data=SOUND_DATA)).architecture == "(none)"


def test_of_two_entries_with_one_tag_the_later_counts() -> None:
    header = rpm_header((NAME, STRING, 6, 1), *SOUND, data=SOUND_DATA)
    assert parse_rpm_header(header).name == "n"


def test_a_malformed_tag_that_is_not_ours_is_not_looked_at() -> None:
    header = rpm_header(*SOUND, (5000, 99, 0xFFFFFFFF, 0xFFFFFFFF), data=SOUND_DATA)
    assert parse_rpm_header(header).name == "n"


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"", id="empty"),
        pytest.param(SOUND_HEADER[:7], id="shorter than its preamble"),
        pytest.param(SOUND_HEADER[:-1], id="cut"),
        pytest.param(SOUND_HEADER + b"\0", id="more after it"),
        pytest.param(struct.pack(">II", 0xFFFFFFFF, 16), id="index beyond the end"),
        pytest.param(rpm_header(*SOUND, data=SOUND_DATA, data_size=2**32 - 1), id="data too large"),
        pytest.param(
            rpm_header(*SOUND, *[(1, 1, 1, 1)] * 0x10000, data=SOUND_DATA), id="too many entries"
        ),
        *(
            pytest.param(
                rpm_header(*(e for e in SOUND if e[0] != tag), data=SOUND_DATA),
                id=f"without tag {tag}",
            )
            for tag in (NAME, VERSION, RELEASE)
        ),
        *(
            pytest.param(rpm_header(*SOUND, entry, data=SOUND_DATA), id=problem)
            for entry, problem in [
                ((ARCH, INT32, 6, 1), "type"),
                ((ARCH, STRING, 6, 2), "several values"),
                ((ARCH, STRING, 6, 0), "no value"),
                ((ARCH, STRING, len(SOUND_DATA), 1), "offset beyond the end"),
                ((ARCH, STRING, 2**32 - 1, 1), "negative offset"),
                ((ARCH, STRING, 1, 1), "empty string"),
                ((EPOCH, INT32, len(SOUND_DATA) - 3, 1), "epoch cut short"),
            ]
        ),
        pytest.param(
            rpm_header(*SOUND, (ARCH, STRING, 6, 1), data=SOUND_DATA[:-1]), id="string without end"
        ),
        pytest.param(
            rpm_header(*SOUND, (ARCH, STRING, 6, 1), data=SOUND_DATA[:6] + b"a" * 257 + b"\0"),
            id="string too long",
        ),
        pytest.param(
            rpm_header(*SOUND, (ARCH, STRING, 6, 1), data=SOUND_DATA[:6] + b"\xc3\xa9\0"),
            id="string not ASCII",
        ),
    ],
)
def test_a_malformed_header_is_refused(header: bytes) -> None:
    with pytest.raises(FormatError):
        parse_rpm_header(header)


def test_a_header_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(FormatError, match="an rpm header of"):
        parse_rpm_header(bytes(MAX_RPM_HEADER_SIZE + 1))


header_entries = st.lists(
    st.tuples(
        st.sampled_from([NAME, VERSION, RELEASE, EPOCH, ARCH]),
        st.sampled_from([INT32, STRING]),
        st.integers(0, 20),
        st.sampled_from([1, 1, 1, 0, 2]),
    ),
    max_size=8,
)
headers = st.builds(
    lambda entries, data: rpm_header(*entries, data=data), header_entries, st.binary(max_size=20)
)


@given(st.binary() | headers)
def test_hostile_rpm_headers_raise_nothing_but_our_error(blob: bytes) -> None:
    try:
        package = parse_rpm_header(blob)
    except FormatError:
        return
    assert "-" in package.version


# rpm's database


@pytest.fixture(scope="module")
def rpm_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that the real rpm made: epochs, architectures, two kernels, an imported key."""
    top = tmp_path_factory.mktemp("rpm")
    build(top, RPM_LIBRARY)
    for kernel in ("6.1.0", "6.9.3"):
        build(top, RPM_KERNEL, f"kernel {kernel}")
    built = [str(path) for path in top.glob("RPMS/*/*.rpm")]
    assert len(built) == 4
    database = top / "db"
    run_rpm(top, "rpm", "--dbpath", database, "-i", "--justdb", "--nodeps", "--force", *built)
    run_rpm(top, "rpm", "--dbpath", database, "--import", KEY)
    return database


@pytest.fixture(scope="module")
def rpm_database(rpm_directory: Path) -> bytes:
    return (rpm_directory / "rpmdb.sqlite").read_bytes()


def build(top: Path, spec: str, *defines: str) -> None:
    path = top / "package.spec"
    path.write_text(spec)
    options = [part for text in (f"_topdir {top}", *defines) for part in ("--define", text)]
    run_rpm(top, "rpmbuild", "-bb", *options, path)


def run_rpm(home: Path, *command: str | Path) -> str:
    """Run one of rpm's tools without this user's configuration."""
    env = {**os.environ, "HOME": str(home), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_rpm_database_is_read_as_rpm_reads_it(rpm_directory: Path, rpm_database: bytes) -> None:
    query = ("-qa", "--qf", "%{NAME} %{EVR} %{ARCH}\n")
    lines = run_rpm(rpm_directory, "rpm", "--dbpath", rpm_directory, *query).splitlines()
    listed = sorted(Package(*line.split(" ")) for line in lines)
    assert [package.name for package in listed] == [
        "foo-data",
        "gpg-pubkey",
        "kernel-core",
        "kernel-core",
        "libfoo",
    ]
    expected = tuple(package for package in listed if package.name != "gpg-pubkey")
    assert read_rpm_database(rpm_database) == expected
    assert {"0:3-4.fc40", "1:2~rc1^git-4.fc40"} <= {package.version for package in expected}


def test_a_database_is_read_whether_or_not_its_header_asks_for_a_log(rpm_database: bytes) -> None:
    assert rpm_database[18:20] == b"\2\2"
    without = rpm_database[:18] + b"\1\1" + rpm_database[20:]
    assert read_rpm_database(without) == read_rpm_database(rpm_database)


def sqlite_bytes(*statements: str, blobs: tuple[bytes, ...] = ()) -> bytes:
    """The file of a database made by `statements`, with `blobs` in its table Packages."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
        for blob in blobs:
            connection.execute("INSERT INTO Packages (blob) VALUES (?)", (blob,))
        return connection.serialize()


TABLE = "CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT,blob BLOB NOT NULL)"
WRITABLE = "PRAGMA writable_schema = ON"
INSERT_SCHEMA = "INSERT INTO sqlite_master VALUES"


def test_triggers_views_and_indexes_beside_the_table_change_nothing() -> None:
    hostile = sqlite_bytes(
        TABLE,
        "CREATE TRIGGER t AFTER INSERT ON Packages BEGIN SELECT 1; END",
        "CREATE VIEW endless AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c)"
        " SELECT x FROM c",
        "CREATE INDEX i ON Packages (abs(hnum), blob)",
        blobs=(SOUND_HEADER,),
    )
    assert read_rpm_database(hostile) == (Package("n", "1-2", "noarch"),)


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(["CREATE TABLE other (blob)"], id="no table"),
        pytest.param(["CREATE VIEW Packages AS SELECT 1 AS hnum, x'00' AS blob"], id="view"),
        pytest.param(
            [
                "CREATE VIEW Packages AS WITH RECURSIVE"
                + " c(blob) AS (SELECT x'00' UNION ALL SELECT blob FROM c) SELECT blob FROM c"
            ],
            id="endless view",
        ),
        pytest.param(
            ["CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob AS (zeroblob(1000)))"],
            id="generated column",
        ),
        pytest.param(
            [
                WRITABLE,
                f"{INSERT_SCHEMA} ('table', 'Packages', 'Packages', 0,"
                + " 'CREATE VIRTUAL TABLE Packages USING fts5(blob)')",
            ],
            id="virtual table",
        ),
        pytest.param(
            [
                WRITABLE,
                f"{INSERT_SCHEMA} ('view', 'x', 'x', 0,"
                + " 'CREATE VIEW Packages AS SELECT 1 AS blob')",
                f"{INSERT_SCHEMA} ('table', 'Packages', 'Packages', 2, \"{TABLE}\")",
            ],
            id="view under another row's name",
        ),
        pytest.param(
            [TABLE, WRITABLE, "UPDATE sqlite_master SET sql = x'ff' || 'CREATE'"],
            id="definition is not text",
        ),
        pytest.param(["CREATE TABLE Packages (hnum, other)"], id="no blob column"),
    ],
)
def test_only_a_plain_table_is_read(statements: list[str]) -> None:
    with pytest.raises(FormatError, match="an rpm database"):
        read_rpm_database(sqlite_bytes(*statements))


@pytest.mark.parametrize("value", ["'text'", "5", "2.5", "CAST(x'ff' AS TEXT)"])
def test_a_header_that_is_not_a_blob_is_refused(value: str) -> None:
    database = sqlite_bytes(TABLE, f"INSERT INTO Packages VALUES (1, {value})")
    with pytest.raises(FormatError, match="an rpm database"):
        read_rpm_database(database)


def test_a_header_over_the_limit_is_refused_by_sqlite_before_it_is_copied() -> None:
    big = f"INSERT INTO Packages VALUES (1, zeroblob({MAX_RPM_HEADER_SIZE + 1}))"
    with pytest.raises(FormatError, match="SQLite can't read: string or blob too big"):
        read_rpm_database(sqlite_bytes(TABLE, big))


def test_more_headers_than_the_limit_are_refused() -> None:
    database = sqlite_bytes(TABLE, "BEGIN", blobs=(SOUND_HEADER,) * (MAX_PACKAGES + 1))
    with pytest.raises(FormatError, match="more than it can"):
        read_rpm_database(database)


def test_a_table_whose_pages_all_lead_to_one_row_ends() -> None:
    """Ten leaves are replaced by the first, which holds a header of 100,000 bytes."""
    large = rpm_header(*SOUND, data=SOUND_DATA + bytes(100_000))
    database = bytearray(
        sqlite_bytes("PRAGMA page_size = 4096", TABLE, blobs=(large, *[SOUND_HEADER] * 300))
    )
    root = 4096  # page 2, as in rpm's own databases
    assert database[root] == 5, "an interior page of a table"
    cells = struct.unpack_from(">H", database, root + 3)[0]
    pointers = struct.unpack_from(f">{cells}H", database, root + 12)
    assert cells >= 2
    first = database[root + pointers[0] : root + pointers[0] + 4]
    for place in (root + 8, *(root + pointer for pointer in pointers)):
        database[place : place + 4] = first
    with pytest.raises(FormatError, match="more than it can"):
        read_rpm_database(bytes(database))


def test_a_schema_without_end_is_given_up() -> None:
    database = sqlite_bytes(
        TABLE,
        WRITABLE,
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 60000)"
        f" {INSERT_SCHEMA.replace('VALUES', '')} SELECT 'view', 'v' || n, 'v' || n, 0,"
        " 'CREATE VIEW v' || n || ' AS SELECT 1' FROM c",
    )
    with pytest.raises(FormatError, match="SQLite can't read: interrupted"):
        read_rpm_database(database)


def test_an_error_of_sqlite_that_quotes_bytes_outside_utf8_is_our_error() -> None:
    sound = sqlite_bytes(TABLE, "CREATE INDEX quoted ON Packages (hnum)")
    with pytest.raises(FormatError, match="SQLite can't read"):
        read_rpm_database(sound.replace(b"ON Packages", b"ON \xff\xfeckages"))


def test_an_error_of_sqlite_that_quotes_control_characters_can_be_printed() -> None:
    sound = sqlite_bytes(TABLE, "CREATE INDEX quoted ON Packages (hnum)")
    with pytest.raises(FormatError, match="SQLite can't read") as caught:
        read_rpm_database(sound.replace(b"ON Packages", b"ON \x1b[2Jages"))
    assert caught.value.message.isprintable()
    assert r"\x1b" in caught.value.message


@pytest.mark.parametrize(
    "database", [b"", b"SQLite format 3\0", b"x" * 9999, b"SQLite format 3\0".ljust(9999, b"\xff")]
)
def test_a_file_that_is_no_database_is_refused(database: bytes) -> None:
    with pytest.raises(FormatError, match="an rpm database"):
        read_rpm_database(database)


@settings(deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 3 * 4096) | st.integers(0), st.integers(0, 255))),
    end=st.none() | st.integers(0),
)
def test_a_damaged_database_raises_nothing_but_our_error(
    rpm_database: bytes, edits: list[tuple[int, int]], end: int | None
) -> None:
    """Most edits hit the header, the schema and the root of the table."""
    damaged = bytearray(rpm_database)
    for place, value in edits:
        damaged[place % len(damaged)] = value
    if end is not None:
        del damaged[end % len(damaged) :]
    try:
        found = read_rpm_database(bytes(damaged))
    except FormatError:
        return
    assert list(found) == sorted(set(found))


# Detection


def test_a_tree_without_a_package_database_has_no_package_list() -> None:
    assert detect_packages(reader({"usr/bin/dpkg": b"", "var/lib/rpm/other": b""})) is None


@pytest.mark.parametrize(
    "path",
    ["var/lib/dpkg/status", "usr/lib/sysimage/dpkg/status", "usr/share/dpkg/database/status"],
)
def test_dpkgs_database_is_found_in_each_of_its_places(path: str) -> None:
    assert detect_packages(reader({path: stanza()})) == (A,)


@pytest.mark.parametrize("directory", ["usr/lib/sysimage/rpm", "var/lib/rpm", "usr/share/rpm"])
def test_rpms_database_is_found_in_each_of_its_places(directory: str) -> None:
    files = {
        f"{directory}/rpmdb.sqlite": sqlite_bytes(TABLE, blobs=(SOUND_HEADER,)),
        f"{directory}/rpmdb.sqlite-wal": b"",
    }
    assert detect_packages(reader(files)) == (Package("n", "1-2", "noarch"),)


def test_an_empty_database_is_an_empty_list_not_a_missing_one() -> None:
    assert detect_packages(reader({"var/lib/dpkg/status": b""})) == ()


def test_a_tree_with_both_tools_has_the_packages_of_both() -> None:
    files = {
        "var/lib/dpkg/status": stanza(),
        "var/lib/rpm/rpmdb.sqlite": sqlite_bytes(TABLE, blobs=(SOUND_HEADER,)),
    }
    assert detect_packages(reader(files)) == (A, Package("n", "1-2", "noarch"))


@pytest.mark.parametrize("directory", ["usr/lib/sysimage/rpm", "var/lib/rpm", "usr/share/rpm"])
def test_an_rpm_database_in_another_format_is_named(directory: str) -> None:
    files = {f"{directory}/Packages": b"", "var/lib/dpkg/status": b""}
    with pytest.raises(UnreadablePackagesError) as caught:
        detect_packages(reader(files))
    assert "Berkeley DB" in caught.value.message
    assert f"{directory}/Packages)" in caught.value.message
    assert "--rebuilddb" in caught.value.hint


def test_an_old_rpm_database_does_not_hide_what_can_be_read() -> None:
    dpkg = {"var/lib/dpkg/status": stanza(), "var/lib/rpm/Packages": b"x"}
    assert detect_packages(reader(dpkg)) == (A,)
    rpm = {
        "usr/lib/sysimage/rpm/rpmdb.sqlite": sqlite_bytes(TABLE, blobs=(SOUND_HEADER,)),
        "var/lib/rpm/Packages": b"x",
    }
    assert detect_packages(reader(rpm)) == (Package("n", "1-2", "noarch"),)


def test_changes_that_rpm_has_not_merged_are_not_silently_missed(
    rpm_directory: Path, tmp_path: Path
) -> None:
    """A writer was killed: the log holds a removal, which the hint's command merges."""
    live = tmp_path / "live"
    killed = tmp_path / "killed"
    shutil.copytree(rpm_directory, live)
    with closing(sqlite3.connect(live / "rpmdb.sqlite")) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("DELETE FROM Packages WHERE hnum = 1")
        connection.commit()
        shutil.copytree(live, killed)
    with pytest.raises(UnreadablePackagesError, match="write-ahead log") as caught:
        detect_packages(directory_reader(killed))
    assert "--rebuilddb" in caught.value.hint
    run_rpm(tmp_path, "rpm", "--dbpath", killed, "--rebuilddb")
    found = detect_packages(directory_reader(killed))
    assert found is not None
    assert len(found) == 3


def directory_reader(directory: Path) -> Callable[[bytes, int], bytes | None]:
    """A tree whose `var/lib/rpm` is `directory`."""
    return reader({f"var/lib/rpm/{path.name}": path.read_bytes() for path in directory.iterdir()})
