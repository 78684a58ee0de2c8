"""A checkout is the tree, bit for bit, made of the repository's own inodes."""

import errno
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hacktree.common.objects.commit import Totals
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import FileEntry
from hacktree.common.repository.checkout import (
    CheckoutRefusedError,
    CheckoutReport,
    LinkPolicy,
    check_out,
)
from hacktree.common.repository.committing import CommitRequest, commit_source
from hacktree.common.repository.content import FILE_MTIME, apply_variant_attributes
from hacktree.common.repository.directory import ingest_directory
from hacktree.common.repository.ingest import IngestOptions
from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.objectnames import content_name
from hacktree.common.repository.repository import (
    ObjectCorruptError,
    ObjectMissingError,
    Repository,
    open_repository,
)
from hacktree.common.repository.transaction import begin_transaction
from hacktree.common.repository.treebuilder import store_trees
from support.trees import Directory, File, Spec, Symlink, make_commit

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
"""cap_net_raw=ep, as setcap(8) writes it."""

TREE: dict[str | bytes, Spec] = {
    "": Directory(0o755),
    "usr/bin/sudo": File(b"setuid", 0o4755),
    "usr/bin/wall": File(b"setgid", 0o2755, 0, 5),
    "usr/bin/ping": File(b"capable", 0o755, 0, 0, (("security.capability", CAPABILITY),)),
    "usr/bin/tag": File(b"tagged", 0o600, 7, 8, (("user.note", b"\x00\xff"),)),
    b"usr/share/caf\xe9/\xff\xfe": b"not UTF-8",
    "tmp": Directory(0o1777, 0, 0),
    "var/mail": Directory(0o2775, 0, 8, (("user.where", b"here"),)),
    "var/mail/new": b"inside a setgid directory",
    "closed": Directory(0o555),
    "closed/file": b"in a directory without w",
    "lib": Symlink(b"usr/lib", 3, 4),
    b"odd": Symlink(b"\xff/../nowhere"),
    "empty": File(b"", 0o640, 1, 2),
    "also-empty": b"",
    "same-1": File(b"same content", 0o644),
    "same-2": File(b"same content", 0o755),
    "same-3": File(b"same content", 0o644),
}
TIME = 1_600_000_000


def open_new(path: Path, mode: Mode) -> Repository:
    init_repository(path, mode)
    return open_repository(path)


@pytest.fixture
def bare(tmp_path: Path) -> Repository:
    return open_new(tmp_path / "bare", Mode.BARE)


@pytest.fixture
def bare_user(tmp_path: Path) -> Repository:
    return open_new(tmp_path / "bare-user", Mode.BARE_USER)


def checked_out(
    repository: Repository,
    commit: ObjectId,
    destination: Path,
    *,
    subpath: bytes = b"",
    policy: LinkPolicy = LinkPolicy.HARDLINK,
) -> CheckoutReport:
    return check_out(
        repository,
        repository.load_commit(commit),
        destination,
        subpath=subpath,
        policy=policy,
    )


def recommitted_tree(repository: Repository, directory: Path) -> ObjectId:
    """The tree id of what is on disk, read independently of the checkout."""
    with begin_transaction(repository) as transaction:
        top, report = ingest_directory(transaction, directory, IngestOptions(jobs=1))
        assert not report.warnings()
        return store_trees(transaction, top).root.id


@as_root
@pytest.mark.parametrize("policy", LinkPolicy)
def test_everything_survives_in_bare_mode(
    bare: Repository, tmp_path: Path, policy: LinkPolicy
) -> None:
    """Owners, setuid, xattrs, capabilities, names, targets: recommitting gives the same tree."""
    commit = make_commit(bare, TREE, time=TIME)
    out = tmp_path / "out"
    report = checked_out(bare, commit, out, policy=policy)
    assert recommitted_tree(bare, out) == bare.load_commit(commit).root.id
    assert stat.S_IMODE((out / "usr/bin/sudo").stat().st_mode) == 0o4755
    assert os.getxattr(out / "usr/bin/ping", "security.capability") == CAPABILITY
    assert ((out / "lib").lstat().st_uid, (out / "lib").lstat().st_gid) == (3, 4)
    assert os.readlink(os.fsencode(out) + b"/odd") == b"\xff/../nowhere"
    assert (out / "var/mail/new").stat().st_gid == 0, "no owner is inherited from a directory"
    totals = bare.load_commit(commit).totals
    assert report.linked + report.copied + report.empty == totals.files
    assert report.symlinks == totals.symlinks
    assert report.directories == totals.directories + 1


@as_root
def test_an_archive_checks_out_like_a_bare_repository(tmp_path: Path, bare: Repository) -> None:
    """Root may check out on the farm's own archive; content is decompressed and verified."""
    archive = open_new(tmp_path / "archive", Mode.ARCHIVE)
    out = tmp_path / "out"
    commit = make_commit(archive, {**TREE, "large": os.urandom(3 << 20)}, time=TIME)
    report = checked_out(archive, commit, out)
    assert report.linked == 0
    assert recommitted_tree(bare, out) == archive.load_commit(commit).root.id


def test_a_damaged_archive_object_ends_the_checkout(tmp_path: Path) -> None:
    """No byte of the archive passes unverified, on any of the threads."""
    archive = open_new(tmp_path / "archive", Mode.ARCHIVE)
    commit = make_commit(archive, {"a/file": b"good", "b/file": b"other"}, time=TIME)
    other = make_commit(archive, {"x": b"bad!"}, branch="other", time=TIME)
    entry = archive.load_tree(archive.load_commit(other).root.id).entries[0]
    replacement = (archive.objects / content_name(Mode.ARCHIVE, entry)).read_bytes()  # type: ignore[arg-type]
    tree = archive.load_tree(archive.load_commit(commit).root.id).entries[0]
    victim = archive.load_tree(tree.id).entries[0]  # type: ignore[union-attr]
    (archive.objects / content_name(Mode.ARCHIVE, victim)).write_bytes(replacement)  # type: ignore[arg-type]
    with pytest.raises(ObjectCorruptError):
        checked_out(archive, commit, tmp_path / "out")


@as_root
def test_files_are_the_repositorys_inodes_and_empty_ones_are_not(
    bare: Repository, tmp_path: Path
) -> None:
    """Equal content under equal attributes is one inode; empty files would hit the link limit."""
    commit = make_commit(bare, TREE, time=TIME)
    for name in ("one", "two"):
        checked_out(bare, commit, tmp_path / name)
    names = ("same-1", "same-2", "same-3", "empty", "also-empty")
    one, two = ({p: (tmp_path / n / p).stat() for p in names} for n in ("one", "two"))
    assert one["same-1"].st_ino == one["same-3"].st_ino == two["same-1"].st_ino
    assert one["same-1"].st_nlink == 1 + 4
    assert one["same-2"].st_ino != one["same-1"].st_ino
    assert one["same-2"].st_nlink == 1 + 2
    assert {s.st_nlink for s in (one["empty"], two["empty"], one["also-empty"])} == {1}
    assert (one["empty"].st_uid, one["empty"].st_gid) == (1, 2)
    assert stat.S_IMODE(one["empty"].st_mode) == 0o640


def test_times_are_those_of_the_format(bare_user: Repository, tmp_path: Path) -> None:
    """Files and links carry second 1, directories the commit's time: checkouts are alike."""
    commit = make_commit(bare_user, TREE, time=TIME)
    out = tmp_path / "out"
    checked_out(bare_user, commit, out)
    for directory, directories, names in os.walk(os.fsencode(out)):
        assert os.stat(directory).st_mtime_ns == TIME * 10**9
        for name in names + [n for n in directories if os.path.islink(directory + b"/" + n)]:
            assert os.lstat(directory + b"/" + name).st_mtime_ns == 10**9


def test_bare_user_mode_keeps_special_attributes_in_the_trees_only(
    bare_user: Repository, tmp_path: Path
) -> None:
    """No setuid on disk, nothing unreadable to its owner; a recommit gives the same tree back."""
    commit = make_commit(bare_user, TREE, time=TIME)
    out = tmp_path / "out"
    checked_out(bare_user, commit, out)
    assert stat.S_IMODE((out / "usr/bin/sudo").stat().st_mode) == 0o755
    assert stat.S_IMODE((out / "closed").stat().st_mode) == 0o555
    assert (out / "usr/bin/tag").stat().st_uid == os.geteuid()
    again = commit_source(
        bare_user,
        lambda transaction, base: ingest_directory(
            transaction, out, IngestOptions(jobs=1, base=base)
        ),
        CommitRequest(branch=bare_user.load_commit(commit).branch_name, time=TIME),
    )
    assert again.commit.root.id == bare_user.load_commit(commit).root.id


def test_part_of_a_commit(bare_user: Repository, tmp_path: Path) -> None:
    """A subpath is checked out as the destination itself, with that directory's attributes."""
    commit = make_commit(bare_user, TREE, time=TIME)
    report = checked_out(bare_user, commit, tmp_path / "out", subpath=b"/usr/bin/")
    assert sorted(os.listdir(tmp_path / "out")) == ["ping", "sudo", "tag", "wall"]
    assert report.linked == 4
    checked_out(bare_user, commit, tmp_path / "closed", subpath=b"closed")
    assert stat.S_IMODE((tmp_path / "closed").stat().st_mode) == 0o555


@pytest.mark.parametrize("subpath", [b"nowhere", b"usr/bin/sudo", b"lib", b"usr/../tmp"])
def test_a_subpath_that_is_no_directory_is_refused(
    bare_user: Repository, tmp_path: Path, subpath: bytes
) -> None:
    """Links aren't followed and '..' is a name that no tree has; nothing is created."""
    commit = make_commit(bare_user, TREE, time=TIME)
    with pytest.raises(CheckoutRefusedError):
        checked_out(bare_user, commit, tmp_path / "out", subpath=subpath)
    assert not (tmp_path / "out").exists()


def test_an_existing_destination_is_refused(bare_user: Repository, tmp_path: Path) -> None:
    """Not even an empty directory, nor what a dangling link names, is written to."""
    commit = make_commit(bare_user, TREE, time=TIME)
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("directory", "link"):
        with pytest.raises(CheckoutRefusedError):
            checked_out(bare_user, commit, tmp_path / name)
    assert not (tmp_path / "elsewhere").exists()
    assert not os.listdir(tmp_path / "directory")


def test_a_missing_variant_is_named(bare_user: Repository, tmp_path: Path) -> None:
    """Content under other attributes is no substitute, by link or by copy."""
    commit = make_commit(bare_user, {"a": File(b"x", 0o644), "b": File(b"x", 0o755)}, time=TIME)
    entry = bare_user.load_tree(bare_user.load_commit(commit).root.id).entries[1]
    (bare_user.objects / content_name(Mode.BARE_USER, entry)).unlink()  # type: ignore[arg-type]
    for policy in LinkPolicy:
        with pytest.raises(ObjectMissingError) as caught:
            checked_out(bare_user, commit, tmp_path / policy.value, policy=policy)
        assert caught.value.object_id == entry.id  # type: ignore[union-attr]


def test_a_commit_that_understates_its_tree_is_refused(
    bare_user: Repository, tmp_path: Path
) -> None:
    """Trees unfold exponentially: what a commit doesn't announce is not written."""
    commit = bare_user.load_commit(make_commit(bare_user, TREE, time=TIME))
    lying = msgspec.structs.replace(commit, totals=Totals(1, 0, 0, 0))
    with pytest.raises(FormatError, match="unfolds"):
        check_out(bare_user, lying, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@as_root
def test_nothing_is_inherited_from_the_place(bare: Repository, tmp_path: Path) -> None:
    """A setgid parent or its default ACL doesn't leak into the checkout."""
    parent = tmp_path / "parent"
    parent.mkdir()
    os.chown(parent, 0, 8)
    parent.chmod(0o2755)
    acl = bytes.fromhex("0200000001000700ffffffff02000700e803000004000500ffffffff10000700ffffffff")
    acl += bytes.fromhex("20000500ffffffff")
    os.setxattr(parent, "system.posix_acl_default", acl)
    commit = make_commit(bare, TREE, time=TIME)
    checked_out(bare, commit, parent / "out")
    assert recommitted_tree(bare, parent / "out") == bare.load_commit(commit).root.id


def test_a_file_whose_inode_has_no_links_left_is_copied(
    bare_user: Repository, tmp_path: Path
) -> None:
    """EMLINK concerns that file alone; the kernel's answer is injected at the second link."""
    commit = make_commit(bare_user, {n: f"file {n}".encode() for n in "abc"}, time=TIME)
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from hacktree.common.objects.ids import parse_object_id
        from hacktree.common.repository.checkout import check_out
        from hacktree.common.repository.repository import open_repository
        repository = open_repository(Path(sys.argv[1]))
        commit = repository.load_commit(parse_object_id(sys.argv[2]))
        report = check_out(repository, commit, Path(sys.argv[3]))
        print(report.linked, report.copied, report.copied_bytes)
    """)
    out = tmp_path / "out"
    arguments = [bare_user.path, commit.hex(), out]
    result = subprocess.run(
        [
            *("strace", "-o", tmp_path / "log", "-e", "inject=linkat:error=EMLINK:when=2"),
            *(sys.executable, "-c", program, *map(str, arguments)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == ["2", "1", "6"]
    assert [(out / n).read_text() for n in "abc"] == ["file a", "file b", "file c"]
    assert [(out / n).stat().st_nlink for n in "abc"] == [2, 1, 2]
    assert (out / "b").stat().st_mtime == 1


@pytest.fixture
def other_filesystem(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@as_root
def test_another_file_system_gets_copies(
    bare: Repository, tmp_path: Path, other_filesystem: Path
) -> None:
    """EXDEV: everything is copied, attributes and all."""
    commit = make_commit(bare, TREE, time=TIME)
    report = checked_out(bare, commit, other_filesystem / "out")
    totals = bare.load_commit(commit).totals
    assert (report.linked, report.copied) == (0, totals.files - report.empty)
    assert report.copied_bytes == totals.bytes
    assert recommitted_tree(bare, other_filesystem / "out") == bare.load_commit(commit).root.id


def test_other_link_errors_are_not_papered_over(
    bare_user: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only EMLINK and EXDEV mean "copy": a full disk ends the checkout."""
    commit = make_commit(bare_user, {"a": b"x"}, time=TIME)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space"):
        checked_out(bare_user, commit, tmp_path / "out")


@as_root
@pytest.mark.parametrize("before", [(0, 0, 0o4755), (7, 8, 0o4755), (0, 0, 0o600), (7, 0, 0o755)])
@pytest.mark.parametrize("xattrs", [(), (("security.capability", CAPABILITY),)])
def test_attributes_become_right_whatever_was_there(
    before: tuple[int, int, int], xattrs: tuple[tuple[str, bytes], ...], tmp_path: Path
) -> None:
    """What a killed pull left may have any: a change of owner clears the set-user-ID bit."""
    path = tmp_path / "object"
    path.touch()
    os.chown(path, *before[:2])
    path.chmod(before[2])
    entry = FileEntry(b"sudo", 0o4755, 0, 0, xattrs, hash_bytes(b""), 0)
    apply_variant_attributes(str(path), Mode.BARE, entry)
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, 0o4755)
    assert status.st_mtime == FILE_MTIME
    assert os.listxattr(path) == [name for name, _ in xattrs]
