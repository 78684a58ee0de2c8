"""fsck finds every kind of damage, says whom it concerns, and repair loses no evidence."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from hacktree.common.cli.main import main
from hacktree.common.objects.commit import Totals, decode_commit, encode_commit
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import DirectoryEntry, FileEntry
from hacktree.common.objects.walk import find_entry
from hacktree.common.repository.fsck import Finding, FsckReport, fsck, set_aside_broken
from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.objectnames import content_name, meta_name
from hacktree.common.repository.prune import prune
from hacktree.common.repository.refs import hold_refs, move_ref
from hacktree.common.repository.repository import Repository, open_repository
from hacktree.common.repository.retention import Policy, Rule
from hacktree.common.repository.transaction import begin_transaction
from support.trees import File, Spec, Symlink, make_commit

MODES = [Mode.ARCHIVE, Mode.BARE, Mode.BARE_USER]
TREE: Mapping[str | bytes, Spec] = {
    "etc/motd": b"hello\n",
    "etc/empty": b"",
    "usr/bin/tool": File(b"tool" * 500_000, mode=0o755),
    "usr/bin/alias": Symlink(b"tool"),
}


def make_repository(path: Path, mode: Mode) -> Repository:
    init_repository(path, mode)
    return open_repository(path)


@pytest.fixture(params=MODES, ids=lambda mode: mode.value)
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "repo", request.param)


@pytest.fixture
def bare(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "repo", Mode.BARE)


def entry_of(repository: Repository, commit: ObjectId, path: bytes) -> FileEntry:
    root = repository.load_commit(commit).root.id
    entry = find_entry(repository.load_tree, root, path)
    assert isinstance(entry, FileEntry)
    return entry


def object_of(repository: Repository, commit: ObjectId, path: bytes) -> str:
    return content_name(repository.mode, entry_of(repository, commit, path))


def tree_of(repository: Repository, commit: ObjectId, path: bytes) -> str:
    root = repository.load_commit(commit).root.id
    entry = find_entry(repository.load_tree, root, path)
    assert isinstance(entry, DirectoryEntry)
    return meta_name(entry.id)


def flip(path: Path, offset: int) -> None:
    """Change one bit, and nothing that stat shows."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def only(report: FsckReport) -> Finding:
    assert len(report.findings) == 1, report.findings
    return report.findings[0]


def commit_raw(repository: Repository, data: bytes) -> ObjectId:
    """Publish a commit as a buggy or hostile writer would, and point `fastqa` at it."""
    with begin_transaction(repository) as transaction:
        commit = transaction.put_commit(data)
        transaction.publish()
        with hold_refs(repository):
            move_ref(repository, "fastqa", commit, expected=None)
    return commit


def test_an_intact_repository_is_intact(repository: Repository) -> None:
    make_commit(repository, TREE)
    make_commit(repository, {**TREE, "new": b"new"}, branch="other")
    told: list[tuple[int, int]] = []
    report = fsck(repository, progress=lambda done, total: told.append((done, total)))
    assert report.intact
    assert report.commits == 2
    assert told[-1] == (report.objects, report.objects)


def test_files_that_differ_in_attributes_alone_survive_a_chmod_only_build(
    repository: Repository,
) -> None:
    content = b"the same bytes"
    before: dict[str | bytes, Spec] = {
        "a": File(content, mode=0o644),
        "b": File(content, mode=0o4755, uid=3, gid=5, xattrs=(("user.x", b"1"),)),
    }
    first = make_commit(repository, before)
    second = make_commit(repository, {**before, "a": File(content, mode=0o600)})
    assert fsck(repository).intact
    names = {object_of(repository, c, path) for c in (first, second) for path in (b"a", b"b")}
    assert len(names) == {Mode.ARCHIVE: 1, Mode.BARE: 3, Mode.BARE_USER: 3}[repository.mode]

    prune(repository, Policy(Rule(depth=0)), now=2e9, grace=0)
    assert not repository.has_meta(first)
    assert fsck(repository).intact
    for path, mode in ((b"a", 0o600), (b"b", 0o4755)):
        entry = entry_of(repository, second, path)
        assert entry.mode == mode
        assert b"".join(repository.read_content(entry)) == content
    gone = names - {object_of(repository, second, path) for path in (b"a", b"b")}
    assert not any(repository.has(name) for name in gone)


@pytest.mark.parametrize("path", [b"etc/motd", b"usr/bin/tool"])
def test_a_flipped_bit_in_content_is_found(repository: Repository, path: bytes) -> None:
    commit = make_commit(repository, TREE, version="47.1")
    make_commit(repository, {"unrelated": b"x"}, branch="other")
    name = object_of(repository, commit, path)
    flip(repository.objects / name, -2)
    finding = only(fsck(repository))
    assert (finding.object, finding.problem) == (name, "broken")
    assert [(b.branch, b.sequence, b.version, b.commit) for b in finding.builds] == [
        ("fastqa", 1, "47.1", commit.hex())
    ]


def test_truncated_and_overlong_content_is_found(repository: Repository) -> None:
    commit = make_commit(repository, TREE)
    tool = repository.objects / object_of(repository, commit, b"usr/bin/tool")
    motd = repository.objects / object_of(repository, commit, b"etc/motd")
    os.truncate(tool, tool.stat().st_size - 1)
    with motd.open("ab") as stream:
        stream.write(b"more")
    broken = {finding.object for finding in fsck(repository).findings}
    assert broken == {str(p.relative_to(repository.objects)) for p in (tool, motd)}


def test_a_damaged_tree_is_found_with_every_build_that_needs_it(repository: Repository) -> None:
    first = make_commit(repository, TREE)
    second = make_commit(repository, {**TREE, "more": b"more"})
    name = tree_of(repository, first, b"etc")
    flip(repository.objects / name, 12)
    finding = only(fsck(repository))
    assert (finding.object, finding.problem) == (name, "broken")
    assert [build.commit for build in finding.builds] == [first.hex(), second.hex()]


def test_a_damaged_commit_is_found_with_its_branch(repository: Repository) -> None:
    commit = make_commit(repository, TREE)
    flip(repository.objects / meta_name(commit), 40)
    finding = only(fsck(repository))
    assert (finding.object, finding.problem) == (meta_name(commit), "broken")
    assert finding.refs == ["fastqa"]


def test_missing_content_and_trees_are_named(repository: Repository) -> None:
    commit = make_commit(repository, TREE)
    motd = object_of(repository, commit, b"etc/motd")
    tree = tree_of(repository, commit, b"usr")
    (repository.objects / motd).unlink()
    (repository.objects / tree).unlink()
    findings = {finding.object: finding for finding in fsck(repository).findings}
    assert findings.keys() == {motd, tree}
    for finding in findings.values():
        assert finding.problem == "missing"
        assert [build.commit for build in finding.builds] == [commit.hex()]


def test_one_missing_variant_is_missing_though_the_content_is_there(bare: Repository) -> None:
    commit = make_commit(bare, {"a": File(b"x", mode=0o644), "b": File(b"x", mode=0o755)})
    name = object_of(bare, commit, b"b")
    (bare.objects / name).unlink()
    finding = only(fsck(bare))
    assert (finding.object, finding.problem) == (name, "missing")


def test_an_absent_parent_ends_history_without_complaint(repository: Repository) -> None:
    first = make_commit(repository, TREE)
    make_commit(repository, {**TREE, "new": b"new"})
    (repository.objects / meta_name(first)).unlink()
    assert fsck(repository).intact


def test_a_ref_to_an_absent_commit_is_found(repository: Repository) -> None:
    commit = make_commit(repository, TREE)
    (repository.objects / meta_name(commit)).unlink()
    finding = only(fsck(repository))
    assert (finding.problem, finding.refs) == ("missing", ["fastqa"])


def test_a_damaged_ref_and_a_ref_to_another_branch_are_found(repository: Repository) -> None:
    commit = make_commit(repository, TREE)
    (repository.path / "refs" / "other").write_text(commit.hex() + "\n")
    (repository.path / "refs" / "torn").write_text(commit.hex()[:10])
    report = fsck(repository)
    assert not report.intact
    assert len(report.refs) == 2
    assert any("other" in line and "fastqa" in line for line in report.refs)
    assert any("torn" in line for line in report.refs)


def test_totals_and_sizes_must_be_exact(bare: Repository) -> None:
    honest = make_commit(bare, TREE, branch="honest")
    value = decode_commit(bare.read_meta(honest, 1 << 20))
    fields = {name: getattr(value, name) for name in value.__struct_fields__}
    lie = type(value)(**{**fields, "branch": "fastqa", "totals": Totals(1, 1, 1, 1)})
    commit = commit_raw(bare, encode_commit(lie))
    finding = only(fsck(bare))
    assert (finding.object, finding.problem) == (meta_name(commit), "broken")
    assert "unfolds" in finding.why


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda p: os.chmod(p, 0o666), "mode"),
        (lambda p: os.chown(p, 7, 0), "owner"),
        (lambda p: os.setxattr(p, "user.planted", b"1"), "extended attributes"),
        (lambda p: os.utime(p, (5, 5)), "mtime"),
    ],
)
def test_attributes_of_a_bare_inode_are_compared_with_its_name(
    bare: Repository,
    change: Callable[[Path], None],
    word: str,
) -> None:
    commit = make_commit(bare, TREE)
    path = bare.objects / object_of(bare, commit, b"etc/motd")
    change(path)
    finding = only(fsck(bare))
    assert finding.problem == "broken"
    assert word in finding.why


def test_mode_of_a_bare_user_inode_is_compared_with_its_name(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo", Mode.BARE_USER)
    commit = make_commit(repository, TREE)
    (repository.objects / object_of(repository, commit, b"etc/motd")).chmod(0o777)
    assert "0777 instead of 0644" in only(fsck(repository)).why


def test_what_is_no_regular_file_is_broken_and_never_followed_or_waited_for(
    repository: Repository,
) -> None:
    commit = make_commit(repository, TREE)
    motd = repository.objects / object_of(repository, commit, b"etc/motd")
    tool = repository.objects / object_of(repository, commit, b"usr/bin/tool")
    os.rename(motd, repository.path / "elsewhere")
    motd.symlink_to(repository.path / "elsewhere")
    tool.unlink()
    os.mkfifo(tool)
    assert {f.problem for f in fsck(repository).findings} == {"broken"}


def test_damage_that_a_root_links_names_the_root(bare: Repository) -> None:
    commit = make_commit(bare, TREE)
    path = bare.objects / object_of(bare, commit, b"etc/motd")
    for root, linked in (("os-111111111.1", True), ("os-222222222.1", False)):
        directory = bare.path / "roots" / root / "etc"
        directory.mkdir(parents=True)
        if linked:
            os.link(path, directory / "motd")
    flip(path, 0)
    assert only(fsck(bare)).roots == ["os-111111111.1"]


def test_repair_sets_aside_the_evidence_and_a_new_commit_of_the_tree_heals(
    repository: Repository,
) -> None:
    commit = make_commit(repository, TREE)
    name = object_of(repository, commit, b"etc/motd")
    flip(repository.objects / name, -2)
    damaged = (repository.objects / name).read_bytes()
    report = fsck(repository)
    assert set_aside_broken(repository, report) == 1
    kept = repository.path / only(report).set_aside
    assert kept.parent == repository.state / "damaged"
    assert kept.read_bytes() == damaged
    assert only(fsck(repository)).problem == "missing"

    make_commit(repository, TREE)
    assert fsck(repository).intact
    flip(repository.objects / name, -2)
    set_aside_broken(repository, fsck(repository))
    assert len(list((repository.state / "damaged").iterdir())) == 2


def test_repair_leaves_alone_what_was_mended_meanwhile(repository: Repository) -> None:
    commit = make_commit(repository, TREE)
    path = repository.objects / object_of(repository, commit, b"etc/motd")
    flip(path, -2)
    report = fsck(repository)
    flip(path, -2)
    assert set_aside_broken(repository, report) == 0
    assert fsck(repository).intact


def test_foreign_files_are_listed_and_left_alone(repository: Repository) -> None:
    make_commit(repository, TREE)
    (repository.objects / "README").write_text("mine")
    report = fsck(repository)
    assert report.intact
    assert report.foreign == ["README"]


def test_deep_nesting_is_walked_without_recursion(repository: Repository) -> None:
    make_commit(repository, {"/".join(["d"] * 250) + "/f": b"deep"})
    assert fsck(repository).intact


def test_the_command_reports_json_and_exits_5_until_healed(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = make_commit(repository, TREE, version="47.1")
    arguments = ["--repo", str(repository.path), "--json", "fsck"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["intact"] is True
    name = object_of(repository, commit, b"etc/motd")
    flip(repository.objects / name, -2)
    assert main([*arguments, "--repair"]) == 5
    document = json.loads(capsys.readouterr().out)
    assert document["findings"][0]["object"] == name
    assert document["findings"][0]["builds"][0]["version"] == "47.1"
    assert main(["--repo", str(repository.path), "fsck"]) == 5
    assert "needed by fastqa #1 (47.1)" in capsys.readouterr().out


def test_a_tree_that_stands_as_a_commit_is_no_commit(bare: Repository) -> None:
    commit = make_commit(bare, TREE)
    root = bare.load_commit(commit).root.id
    (bare.path / "refs" / "fastqa").write_text(root.hex() + "\n")
    finding = only(fsck(bare))
    assert finding.problem == "missing"
    assert "tree" in finding.why


def test_an_object_that_hashes_right_but_does_not_decode_is_broken(bare: Repository) -> None:
    data = b"\x93\xa4tree\x01\x91\x01"
    name = meta_name(hash_bytes(data))
    path = bare.objects / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    assert only(fsck(bare)).object == name
