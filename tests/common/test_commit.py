"""Promise: what is committed from a directory or a tar stream is in the trees, bit for bit."""

import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hacktree.common.cli.main import main
from hacktree.common.objects.history import MAX_PAGE_SIZE, decode_page, verified_chain
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.names import BranchName
from hacktree.common.objects.tree import DirectoryEntry, Entry, FileEntry, SymlinkEntry
from hacktree.common.objects.walk import walk_tree
from hacktree.common.objects.zstandard import decompress_bounded
from hacktree.common.repository.committing import CommitRequest, commit_source
from hacktree.common.repository.directory import ingest_directory
from hacktree.common.repository.ingest import IngestOptions, IngestReport
from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.repository import Repository, open_repository
from hacktree.common.repository.revision import RevisionError, resolve
from hacktree.common.repository.transaction import Transaction
from hacktree.common.repository.treebuilder import BuildDirectory

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""cap_net_bind_service=ep, as setcap(8) writes it."""


@pytest.fixture(params=list(Mode), ids=lambda mode: mode.value)
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    path = tmp_path / "repository"
    init_repository(path, request.param)
    return open_repository(path)


@pytest.fixture
def archive(tmp_path: Path) -> Repository:
    path = tmp_path / "archive"
    init_repository(path, Mode.ARCHIVE)
    return open_repository(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with everything that is hard: setuid, owners, xattrs, odd names, links, twins."""
    root = tmp_path / "source"
    (root / "usr/bin").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "usr/bin/su").write_bytes(b"program")
    os.chown(root / "usr/bin/su", 0, 7)
    (root / "usr/bin/su").chmod(0o4755)
    (root / "usr/bin/ping").write_bytes(b"ping")
    os.setxattr(root / "usr/bin/ping", "security.capability", CAPABILITY)
    os.setxattr(root / "usr/bin/ping", "user.note", b"\x00\xff")
    os.setxattr(root / "usr/bin/ping", "trusted.machine", b"not versioned")
    (root / "etc/empty").touch()
    (root / "etc/twin").write_bytes(b"program")
    (root / "etc/twin").chmod(0o600)
    os.chown(root / "etc/twin", 12, 34)
    os.symlink("../usr/bin/su", root / "etc/link")
    with open(os.fsencode(root) + b"/etc/caf\xe9", "wb") as stream:
        stream.write(b"latin-1")
    (root / "big").write_bytes(os.urandom(5 << 20))
    (root / "etc").chmod(0o2750)
    return root


def read_tail(repository: Repository) -> tuple[bytes, ...]:
    """The commits of the newest published page of `builds`."""
    data = (repository.path / "branches/builds/history/tail").read_bytes()
    return decode_page(decompress_bounded(data, MAX_PAGE_SIZE)).commits


def hacktree(repository: Repository, *arguments: str) -> None:
    assert main(["--repo", str(repository.path), *arguments]) == 0


def entries(repository: Repository, revision: str) -> dict[bytes, Entry]:
    root = repository.load_commit(resolve(repository, revision)).root.id
    return dict(walk_tree(repository.load_tree, root))


def test_a_directory_is_in_the_trees_with_every_attribute(
    archive: Repository, source: Path
) -> None:
    hacktree(archive, "commit", "builds", str(source))
    found = entries(archive, "builds")
    assert set(found) == {
        b"big", b"etc", b"etc/caf\xe9", b"etc/empty", b"etc/link", b"etc/twin",
        b"usr", b"usr/bin", b"usr/bin/ping", b"usr/bin/su",
    }  # fmt: skip
    su, ping, twin = found[b"usr/bin/su"], found[b"usr/bin/ping"], found[b"etc/twin"]
    assert isinstance(su, FileEntry)
    assert isinstance(ping, FileEntry)
    assert isinstance(twin, FileEntry)
    assert (su.mode, su.uid, su.gid, su.id) == (0o4755, 0, 7, hash_bytes(b"program"))
    assert ping.xattrs == (("security.capability", CAPABILITY), ("user.note", b"\x00\xff"))
    assert (twin.id, twin.mode, twin.uid, twin.gid) == (su.id, 0o600, 12, 34)
    assert found[b"etc/link"] == SymlinkEntry(b"link", 0, 0, b"../usr/bin/su")
    etc = found[b"etc"]
    assert isinstance(etc, DirectoryEntry)
    assert etc.mode == 0o2750


def test_content_reads_back_in_every_mode(repository: Repository, source: Path) -> None:
    hacktree(repository, "commit", "builds", str(source))
    for path, entry in entries(repository, "builds").items():
        if isinstance(entry, FileEntry):
            with open(os.fsencode(source) + b"/" + path, "rb") as stream:
                assert b"".join(repository.read_content(entry)) == stream.read()


def test_bare_variants_carry_the_attributes_of_their_name(tmp_path: Path, source: Path) -> None:
    init_repository(tmp_path / "bare", Mode.BARE)
    bare = open_repository(tmp_path / "bare")
    hacktree(bare, "commit", "builds", str(source))
    for entry in entries(bare, "builds").values():
        if isinstance(entry, FileEntry):
            path = bare.content_path(entry)
            status = path.stat()
            assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (
                entry.mode, entry.uid, entry.gid,
            )  # fmt: skip
            assert status.st_mtime == 1
            assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == dict(
                entry.xattrs
            )


def test_a_chmod_stores_no_content_in_an_archive(archive: Repository, source: Path) -> None:
    hacktree(archive, "commit", "builds", str(source))
    before = set(archive.objects.rglob("*.zst"))
    (source / "etc/twin").chmod(0o640)
    hacktree(archive, "commit", "builds", str(source))
    assert set(archive.objects.rglob("*.zst")) == before
    twin = entries(archive, "builds")[b"etc/twin"]
    assert isinstance(twin, FileEntry)
    assert twin.mode == 0o640


def test_a_recommit_reads_nothing_and_sees_every_change(
    archive: Repository, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = time.time() - 100
    for directory, _, names in os.walk(os.fsencode(source)):
        for name in names:
            os.utime(directory + b"/" + name, (old, old), follow_symlinks=False)
    hacktree(archive, "commit", "builds", str(source))
    first = entries(archive, "builds")
    (source / "usr/bin/ping").write_bytes(b"gnip")
    os.utime(source / "usr/bin/ping", (old, old))
    hacktree(archive, "commit", "builds", str(source))
    second = entries(archive, "builds")
    ping = second.pop(b"usr/bin/ping")
    assert isinstance(ping, FileEntry)
    assert ping.id == hash_bytes(b"gnip")
    for path, entry in second.items():
        if not isinstance(entry, DirectoryEntry):
            assert entry == first[path]
    capsys.readouterr()
    hacktree(archive, "commit", "builds", str(source), "--if-changed", "--json")
    assert json.loads(capsys.readouterr().out)["changed"] is False


def test_tar_and_directory_give_the_same_tree(archive: Repository, source: Path) -> None:
    hacktree(archive, "commit", "builds", str(source))
    tar = source.parent / "source.tar"
    subprocess.run(
        ["tar", "-C", source, "--xattrs", "--xattrs-include=*", "-cf", tar, "."], check=True
    )
    hacktree(archive, "commit", "from-tar", "--tar", str(tar))
    directory = archive.load_commit(resolve(archive, "builds"))
    stream = archive.load_commit(resolve(archive, "from-tar"))
    assert stream.root == directory.root
    assert stream.totals == directory.totals


@pytest.mark.parametrize("name", ["../escape", "a/../../b"])
def test_a_tar_cannot_name_what_lies_outside(
    archive: Repository, tmp_path: Path, name: str
) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    assert main(["--repo", str(archive.path), "commit", "b", "--tar", f"{tmp_path}/bad.tar"]) == 2
    assert list((archive.path / "tmp").iterdir()) == []


def test_a_truncated_tar_is_refused_and_nothing_is_published(
    archive: Repository, source: Path, tmp_path: Path
) -> None:
    subprocess.run(["tar", "-C", source, "-cf", tmp_path / "t.tar", "."], check=True)
    data = (tmp_path / "t.tar").read_bytes()
    (tmp_path / "t.tar").write_bytes(data[: len(data) // 2])
    assert main(["--repo", str(archive.path), "commit", "b", "--tar", f"{tmp_path}/t.tar"]) == 2
    assert list(archive.objects.rglob("*.*")) == []


def test_history_can_be_followed_from_the_head_over_sealed_pages(
    archive: Repository, tmp_path: Path
) -> None:
    tree = tmp_path / "small"
    tree.mkdir()
    for number in range(130):
        (tree / "n").write_text(str(number))
        hacktree(archive, "commit", "builds", str(tree), "--quiet")
    head = resolve(archive, "builds")
    tail = read_tail(archive)
    chain: list[ObjectId] = [object_id for object_id, _, _ in verified_chain(head, tail)]
    assert chain[0] == head
    assert chain[5] == resolve(archive, "builds~5")
    sealed = list((archive.path / "branches/builds/history").glob("?" * 64))
    assert len(sealed) == 1
    assert hash_bytes(sealed[0].read_bytes()).hex() == sealed[0].name
    assert len(tail) + 64 == 130


def test_refs_of_one_second_validate_differently(archive: Repository, source: Path) -> None:
    ref = archive.path / "refs/builds"
    stamps = []
    for number in range(3):
        (source / "n").write_text(str(number))
        hacktree(archive, "commit", "builds", str(source), "--quiet")
        stamps.append(int(ref.stat().st_mtime))
    assert len(set(stamps)) == 3


def test_a_stale_pyc_is_dropped_and_a_valid_one_no_longer_looks_at_mtime(
    archive: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tmp_path / "python"
    tree.mkdir()
    for name in ("good", "stale"):
        (tree / f"{name}.py").write_text("x = 1\n")
    subprocess.run(
        ["python3", "-m", "compileall", "-q", "--invalidation-mode", "timestamp", str(tree)],
        check=True,
    )
    os.utime(tree / "stale.py", (1, 1))
    hacktree(archive, "commit", "builds", str(tree))
    found = entries(archive, "builds")
    (pyc,) = [path for path in found if path.endswith(b".pyc")]
    assert b"good" in pyc
    entry = found[pyc]
    assert isinstance(entry, FileEntry)
    assert b"".join(archive.read_content(entry))[4:16] == b"\x01" + bytes(11)
    assert "1 stale" in capsys.readouterr().err


def test_special_files_are_left_out_or_refused(
    archive: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tmp_path / "special"
    tree.mkdir()
    os.mkfifo(tree / "fifo")
    hacktree(archive, "commit", "builds", str(tree))
    assert "/fifo" in capsys.readouterr().err
    assert entries(archive, "builds") == {}
    assert main(["--repo", str(archive.path), "commit", "b", str(tree), "--strict"]) == 2


def test_a_renumbered_user_is_refused_unless_told(archive: Repository, tmp_path: Path) -> None:
    tree = tmp_path / "users"
    (tree / "etc").mkdir(parents=True)
    passwd = tree / "etc/passwd"
    passwd.write_text("root:x:0:0::/:/bin/sh\nmail:x:8:8::/:/bin/false\n")
    hacktree(archive, "commit", "builds", str(tree))
    passwd.write_text("root:x:0:0::/:/bin/sh\nmail:x:9:8::/:/bin/false\n")
    command = ["--repo", str(archive.path), "commit", "builds", str(tree)]
    assert main(command) == 2
    assert main([*command, "--allow-renumbering"]) == 0


def test_another_branchs_tree_is_committed_without_new_content(
    archive: Repository, source: Path
) -> None:
    hacktree(archive, "commit", "builds", str(source))
    hacktree(archive, "commit", "fastqa", "--from", "builds")
    build = archive.load_commit(resolve(archive, "builds"))
    promoted = archive.load_commit(resolve(archive, "fastqa"))
    assert promoted.root == build.root
    assert promoted.metadata["promoted-from"] == resolve(archive, "builds").hex()


def test_owner_override_and_skip_list(archive: Repository, source: Path, tmp_path: Path) -> None:
    (tmp_path / "skip").write_text("# secrets\netc/*\n")
    hacktree(
        archive, "commit", "builds", str(source), "--owner-uid", "5", "--owner-gid", "6",
        "--skip-list", f"{tmp_path}/skip",
    )  # fmt: skip
    found = entries(archive, "builds")
    assert not any(path.startswith(b"etc/") for path in found)
    assert {(entry.uid, entry.gid) for entry in found.values()} == {(5, 6)}


@pytest.mark.parametrize("revision", ["nothing", "builds~7", "ffff", "builds~x"])
def test_an_unknown_revision_is_a_clear_error(
    archive: Repository, source: Path, revision: str
) -> None:
    hacktree(archive, "commit", "builds", str(source))
    with pytest.raises(RevisionError):
        resolve(archive, revision)


def test_the_inspection_commands_answer(
    archive: Repository, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hacktree(archive, "commit", "builds", str(source), "-s", "first", "--version", "47.1")
    (source / "usr/bin/su").chmod(0o755)
    (source / "new").write_text("x")
    (source / "big").unlink()
    (source / "etc/empty").write_text("full")
    hacktree(archive, "commit", "builds", str(source))
    capsys.readouterr()
    hacktree(archive, "diff", "builds~1", "builds")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == ["D /big", "M /etc/empty", "A /new", "m /usr/bin/su"]
    hacktree(archive, "log", "builds", "--json")
    log = json.loads(capsys.readouterr().out)
    assert [build["sequence"] for build in log] == [2, 1]
    assert log[1]["version"] == "47.1"
    hacktree(archive, "ls", "builds", "/etc")
    assert "/etc/caf\\xe9" in capsys.readouterr().out
    hacktree(archive, "show", log[1]["commit"][:8])
    assert "first" in capsys.readouterr().out
    hacktree(archive, "rev-parse", "builds^")
    assert capsys.readouterr().out.strip() == log[1]["commit"]
    hacktree(archive, "refs")
    assert capsys.readouterr().out == f"{log[0]['commit']}  builds\n"


def test_branches_that_would_be_each_others_directory_are_refused(
    archive: Repository, source: Path
) -> None:
    hacktree(archive, "commit", "a/b", str(source), "--quiet")
    for branch in ("a", "a/b/c"):
        assert main(["--repo", str(archive.path), "commit", branch, str(source)]) == 2


def test_large_commits_never_overfill_a_history_page(archive: Repository, tmp_path: Path) -> None:
    tree = tmp_path / "small"
    tree.mkdir()
    listing: list[str | list[str]] = ["x" * 1000] * 3900
    for number in range(12):
        (tree / "n").write_text(str(number))

        def ingest(
            transaction: Transaction, base: Callable[[bytes], Entry | None] | None
        ) -> tuple[BuildDirectory, IngestReport]:
            return ingest_directory(transaction, tree, IngestOptions())

        request = CommitRequest(BranchName("builds"), time=number, metadata={"list": listing})
        commit_source(archive, ingest, request)
    head = resolve(archive, "builds")
    tail = read_tail(archive)
    assert next(verified_chain(head, tail))[0] == head
    assert len(tail) < 12
    assert sum(map(len, tail)) <= 32 << 20


def test_a_bare_user_recommit_takes_attributes_from_the_base_commit(
    archive: Repository, source: Path, tmp_path: Path
) -> None:
    """The disk of a person without root holds no owners, setuid bits or capabilities."""
    source.chmod(0o2711)
    hacktree(archive, "commit", "builds", str(source))
    init_repository(tmp_path / "user", Mode.BARE_USER)
    user = open_repository(tmp_path / "user")
    hacktree(user, "remote", "add", "farm", f"file://{archive.path}", "--unsigned")
    hacktree(user, "pull", "builds")
    hacktree(user, "commit", "builds", "--from", "farm:builds")
    hacktree(user, "checkout", "builds", str(tmp_path / "out"))
    assert (tmp_path / "out/usr/bin/su").stat().st_mode & 0o7777 == 0o755
    (tmp_path / "out/etc/new").write_text("mine")
    hacktree(user, "commit", "builds", str(tmp_path / "out"))
    before, after = entries(user, "builds~1"), entries(user, "builds")
    assert set(after) - set(before) == {b"etc/new"}
    for path, entry in before.items():
        if not isinstance(entry, DirectoryEntry):
            assert after[path] == entry
    roots = [user.load_commit(resolve(user, name)).root for name in ("builds~1", "builds")]
    assert [root.mode for root in roots] == [0o2711, 0o2711]
