"""Promise: a backup is a whole repository of one moment, whatever goes on while it is made."""

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest

from hacktree.client.connect import open_source
from hacktree.client.signed_heads import SignedHeads
from hacktree.common.cli.main import main
from hacktree.common.errors import BusyError, CorruptError, SpaceError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.checkout import LinkPolicy
from hacktree.common.repository.durable import publish_file, remove_durably
from hacktree.common.repository.fsck import fsck
from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.locks import LockKind, hold_lock
from hacktree.common.repository.packs import list_edges
from hacktree.common.repository.prune import prune, read_pins
from hacktree.common.repository.refs import delete_ref, list_refs
from hacktree.common.repository.repository import Repository, open_repository
from hacktree.common.repository.retention import Policy, Rule
from hacktree.common.trust.editing import head_signed, renew
from hacktree.common.trust.store import TrustStore
from hacktree.server import backup as backup_module
from hacktree.server.backup import BackupReport, back_up
from hacktree.server.backupplace import BackupPlaceError
from hacktree.server.database import NotAFarmError, database_path, open_database
from hacktree.server.grants import parse_grant
from hacktree.server.promotion.logs import keep_log, log_path
from hacktree.server.tokens import authenticate, create_token, list_tokens
from support.backups import assert_whole
from support.documents import commands_in
from support.pulling import FakeTime, make_repository, patience
from support.trees import Spec, make_commit
from support.trusting import BUILDS, SignedFarm, trusting_remote

NOW = 1_800_000_000
PUSH = (parse_grant("push:builds"),)

COMMITTER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from hacktree.common.repository.repository import open_repository
from support.trees import make_commit

repository = open_repository(Path(sys.argv[1]))
number = 0
while True:
    tree = {f"d{n % 7}/f{n}": b"%d %d" % (n, number) for n in range(20)}
    for branch in ("builds", f"other/b{number % 3}"):
        print(make_commit(repository, tree, branch=branch).hex(), flush=True)
    number += 1
"""


def tree(build: int) -> dict[str | bytes, Spec]:
    source = random.Random(5)
    return {
        f"usr/lib/file{number}": source.randbytes(3000) + (b"%d" % build if number < 3 else b"")
        for number in range(5)
    }


@pytest.fixture
def farm(tmp_path: Path) -> Repository:
    """Two builds on one branch, one on another."""
    init_repository(tmp_path / "farm", Mode.ARCHIVE)
    repository = open_repository(tmp_path / "farm")
    for build in (1, 2):
        make_commit(repository, tree(build), branch="builds")
    make_commit(repository, tree(2), branch="qa/fast")
    return repository


def copy_to(
    repository: Repository,
    destination: Path,
    policy: LinkPolicy = LinkPolicy.COPY,
    progress: Callable[[int, int], None] | None = None,
) -> BackupReport:
    return back_up(repository, destination, policy, NOW, progress)


def public_files(path: Path) -> dict[str, tuple[bytes, int, int]]:
    """Every published file: content, mode, mtime."""
    found = {}
    for folder in ("objects", "refs", "branches", "graph", "packs"):
        for file in (path / folder).rglob("*"):
            if file.is_file():
                status = file.stat()
                name = str(file.relative_to(path))
                found[name] = (file.read_bytes(), status.st_mode, status.st_mtime_ns)
    return found


# What is in it


def test_a_copy_is_a_repository_with_everything_that_matters(
    farm: Repository, tmp_path: Path
) -> None:
    assert main(["--repo", str(farm.path), "delta", "generate", "--jobs", "1", "--quiet"]) == 0
    (farm.path / "config.toml").write_text('min-free-space = "1MB"\n')
    head = list_refs(farm)["builds"]
    (farm.state / "pins").mkdir(mode=0o700)
    (farm.state / "pins/release").write_text(f"{head.hex()}\n")
    _, secret = create_token(open_database(farm), PUSH, "CI", None, NOW)
    report = copy_to(farm, tmp_path / "copy")
    copy = assert_whole(tmp_path / "copy")
    assert public_files(copy.path) == public_files(farm.path)
    assert list(copy.staging.iterdir()) == []
    assert report.refs == 2
    assert report.sealed == len(list_edges(copy)) > 0
    assert main(["--repo", str(copy.path), "delta", "verify"]) == 0
    assert read_pins(copy) == {"release": head}
    assert copy.config == open_repository(farm.path).config
    assert authenticate(open_database(copy), secret, NOW).label == "CI"
    for name in ("state", "state/pins", "tmp"):
        assert (copy.path / name).stat().st_mode & 0o777 == 0o700
    for name in ("state/pins/release", "state/server.sqlite"):
        assert (copy.path / name).stat().st_mode & 0o777 == 0o600


def test_a_farm_without_database_has_a_backup_without_one(farm: Repository, tmp_path: Path) -> None:
    copy_to(farm, tmp_path / "copy")
    assert not database_path(assert_whole(tmp_path / "copy")).exists()
    assert not database_path(farm).exists()


def test_a_refresh_copies_only_what_is_missing(farm: Repository, tmp_path: Path) -> None:
    assert main(["--repo", str(farm.path), "delta", "generate", "--jobs", "1", "--quiet"]) == 0
    copy_to(farm, tmp_path / "copy")
    kept = {name: file[0] for name, file in public_files(tmp_path / "copy").items()}
    inodes = {path: path.stat().st_ino for path in (tmp_path / "copy/objects").rglob("*.*")}
    report = copy_to(farm, tmp_path / "copy")
    assert (report.objects, report.sealed, report.bytes) == (0, 0, 0)
    make_commit(farm, tree(3), branch="builds")
    report = copy_to(farm, tmp_path / "copy")
    assert report.objects == 3 + 3 + 1, "three contents, three trees, a commit"
    copy = assert_whole(tmp_path / "copy")
    assert public_files(copy.path) == public_files(farm.path)
    assert len(kept) < len(public_files(copy.path))
    assert all(path.stat().st_ino == inode for path, inode in inodes.items())


def test_deleted_branches_and_pins_go_and_others_may_take_their_place(
    farm: Repository, tmp_path: Path
) -> None:
    (farm.state / "pins").mkdir()
    (farm.state / "pins/old").write_text(f"{list_refs(farm)['builds'].hex()}\n")
    (farm.path / "config.toml").write_text("zstd-level = 3\n")
    copy_to(farm, tmp_path / "copy")
    delete_ref(farm, "builds")
    delete_ref(farm, "qa/fast")
    (farm.path / "refs/qa").rmdir()
    (farm.state / "pins/old").unlink()
    (farm.path / "config.toml").unlink()
    make_commit(farm, tree(4), branch="builds/x86_64")
    make_commit(farm, tree(4), branch="qa")
    copy_to(farm, tmp_path / "copy")
    copy = assert_whole(tmp_path / "copy")
    assert list_refs(copy) == list_refs(farm)
    assert set(list_refs(copy)) == {"builds/x86_64", "qa"}
    assert read_pins(copy) == {}
    assert not (copy.path / "config.toml").exists()


def test_a_database_that_is_gone_or_new_is_followed(farm: Repository, tmp_path: Path) -> None:
    database = open_database(farm)
    copy_to(farm, tmp_path / "copy")
    create_token(database, PUSH, "", None, NOW)
    copy_to(farm, tmp_path / "copy")
    copy = assert_whole(tmp_path / "copy")
    assert list_tokens(open_database(copy)) == list_tokens(database)
    database.path.unlink()
    copy_to(farm, tmp_path / "copy")
    assert not database_path(copy).exists()


def test_what_was_pruned_stays_in_the_copy_until_that_is_pruned(
    farm: Repository, tmp_path: Path
) -> None:
    first = farm.load_commit(list_refs(farm)["builds"]).parents[0]
    copy_to(farm, tmp_path / "copy")
    prune(farm, Policy(Rule(depth=0)), now=NOW, grace=0)
    copy_to(farm, tmp_path / "copy")
    copy = assert_whole(tmp_path / "copy")
    assert copy.has_meta(first)
    assert not farm.has_meta(first)
    prune(copy, Policy(Rule(depth=0)), now=NOW, grace=0)
    copy_to(farm, tmp_path / "copy")
    assert not assert_whole(tmp_path / "copy").has_meta(first)


def test_links_share_inodes_and_outlive_a_prune(farm: Repository, tmp_path: Path) -> None:
    before = public_files(farm.path)
    copy_to(farm, tmp_path / "copy", LinkPolicy.HARDLINK)
    copy = assert_whole(tmp_path / "copy")
    assert public_files(copy.path) == before == public_files(farm.path)
    for path in farm.objects.rglob("*.*"):
        assert path.samefile(copy.path / path.relative_to(farm.path))
    for name in ("refs/builds", "branches/builds/history/tail"):
        assert not (farm.path / name).samefile(copy.path / name), "what changes is never linked"
    prune(farm, Policy(Rule(depth=0)), now=NOW, grace=0)
    make_commit(farm, tree(9), branch="builds")
    assert public_files(assert_whole(copy.path).path) == before


# While others work


@pytest.mark.parametrize("policy", LinkPolicy)
def test_commits_go_on_while_a_backup_runs(
    farm: Repository, tmp_path: Path, policy: LinkPolicy
) -> None:
    """Refs and objects appear in the middle of it; every copy is whole, and as new as its start."""
    committer = subprocess.Popen(
        [sys.executable, "-c", COMMITTER, str(farm.path), str(Path(__file__).parents[1])],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert committer.stdout is not None
    try:
        for _ in range(6):
            acknowledged = ObjectId(bytes.fromhex(committer.stdout.readline()))
            copy_to(farm, tmp_path / "copy", policy)
            copy = assert_whole(tmp_path / "copy")
            assert copy.has_meta(acknowledged)
            for head in list_refs(copy).values():
                assert copy.has_meta(head)
    finally:
        committer.kill()
        committer.communicate()
    copy_to(farm, tmp_path / "copy", policy)
    assert list_refs(assert_whole(tmp_path / "copy")) == list_refs(farm)


@pytest.mark.parametrize(
    "step", ["backup", "changing_files", "list_objects", "find_commits", "sealed_files"]
)
def test_a_commit_between_any_two_steps_is_in_the_copy_whole_or_not_at_all(
    farm: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Builds come right before and after each thing that the backup reads, and in between."""
    real = getattr(backup_module, step)
    builds = count(10)

    def commit() -> None:
        build = next(builds)
        make_commit(farm, tree(build), branch="builds")
        make_commit(farm, tree(build), branch=f"new/b{build % 4}")

    def disturbed(*arguments: object) -> object:
        commit()
        result = real(*arguments)
        commit()
        if not isinstance(result, Iterator):
            return result
        return disturbed_items(result)

    def disturbed_items(items: Iterator[object]) -> Iterator[object]:
        for item in items:
            commit()
            yield item

    open_database(farm)
    copy_to(farm, tmp_path / "copy")
    with monkeypatch.context() as patch:
        patch.setattr(backup_module, step, disturbed)
        copy_to(farm, tmp_path / "copy")
    assert next(builds) >= 12, "nothing was disturbed"
    assert_whole(tmp_path / "copy")
    copy_to(farm, tmp_path / "copy")
    assert_whole(tmp_path / "copy")
    assert public_files(tmp_path / "copy") == public_files(farm.path)


def test_a_commit_in_the_middle_of_a_listing_is_not_copied_in_part(
    farm: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of its objects are then in the listing, and some, in directories before, are not."""
    for number in range(256):  # As in a real farm: a directory that appears later is not listed.
        (farm.objects / f"{number:02x}").mkdir(mode=0o755, exist_ok=True)
    listdir = os.listdir
    listed = 0
    committing = False

    def disturbed(path: str = ".") -> list[str]:
        nonlocal listed, committing
        names = listdir(path)
        if not committing and Path(path).parent == farm.objects:
            listed += 1
            if listed % 32 == 0:
                committing = True
                make_commit(farm, tree(listed), branch="builds")
                committing = False
        return names

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", disturbed)
        copy_to(farm, tmp_path / "copy")
    assert listed == 2 * 256, "nothing was disturbed"
    assert_whole(tmp_path / "copy")
    copy_to(farm, tmp_path / "copy")
    assert_whole(tmp_path / "copy")
    assert public_files(tmp_path / "copy") == public_files(farm.path)


def test_a_build_that_comes_in_the_middle_is_left_to_the_next_backup(
    farm: Repository, tmp_path: Path
) -> None:
    heads = list_refs(farm)
    made: list[ObjectId] = []

    def commit_once(done: int, _: int) -> None:
        if done == 1:
            made.append(make_commit(farm, tree(7), branch="builds"))
            delete_ref(farm, "qa/fast")

    copy_to(farm, tmp_path / "copy", progress=commit_once)
    assert list_refs(assert_whole(tmp_path / "copy")) == heads
    assert not open_repository(tmp_path / "copy").has_meta(made[0])
    copy_to(farm, tmp_path / "copy")
    assert list_refs(assert_whole(tmp_path / "copy")) == {"builds": made[0]}


def test_prune_is_kept_out_and_a_second_backup_too(farm: Repository, tmp_path: Path) -> None:
    met: list[type[Exception]] = []

    def disturb(done: int, _: int) -> None:
        if done != 1:
            return
        with pytest.raises(BusyError):
            prune(farm, Policy(Rule(depth=0)), now=NOW, grace=0, timeout=0)
        with pytest.raises(BusyError):
            copy_to(farm, tmp_path / "copy")
        met.append(BusyError)

    copy_to(farm, tmp_path / "copy", progress=disturb)
    assert met == [BusyError]
    assert_whole(tmp_path / "copy")


# What goes wrong


def test_what_is_deleted_under_its_eyes_is_left_out(
    farm: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A branch, and a pack that was retired a week ago: both were listed, and are gone then."""
    retired = farm.path / "packs" / ("ab" * 32)
    retired.write_bytes(b"nothing names it")

    def vanishing(real: Callable[[Repository], Iterator[Path]], name: str) -> object:
        def files(repository: Repository) -> Iterator[Path]:
            for path in real(repository):
                if str(path) == name:
                    (farm.path / path).unlink(missing_ok=True)
                yield path

        return files

    with monkeypatch.context() as patch:
        for step, name in (
            ("changing_files", "refs/qa/fast"),
            ("sealed_files", f"packs/{retired.name}"),
        ):
            patch.setattr(backup_module, step, vanishing(getattr(backup_module, step), name))
        copy_to(farm, tmp_path / "copy")
    assert set(list_refs(assert_whole(tmp_path / "copy"))) == {"builds"}
    assert not retired.exists()
    assert list((tmp_path / "copy/packs").iterdir()) == []


def test_an_interrupted_first_backup_has_no_name_and_is_continued(
    farm: Repository, tmp_path: Path
) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == total:  # Among the commits: what they reach is there already.
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_to(farm, tmp_path / "copy", progress=interrupt)
    assert not (tmp_path / "copy").exists()
    report = copy_to(farm, tmp_path / "copy")
    assert report.objects == 3, "the commits"
    assert list_refs(assert_whole(tmp_path / "copy")) == list_refs(farm)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "farm"]


def test_a_damaged_ref_does_not_replace_a_good_one(tmp_path: Path, farm: Repository) -> None:
    copy_to(farm, tmp_path / "copy")
    heads = list_refs(farm)
    for data in (b"\0" * 65, b"ab" * 32 + b"\n"):
        (farm.path / "refs/builds").write_bytes(data)
        with pytest.raises(CorruptError, match="refs/builds"):
            copy_to(farm, tmp_path / "copy")
        assert list_refs(assert_whole(tmp_path / "copy")) == heads


def test_a_damaged_object_does_not_replace_a_good_one_and_is_mended_from_the_copy(
    farm: Repository, tmp_path: Path
) -> None:
    copy_to(farm, tmp_path / "copy")
    victim = next(farm.objects.rglob("*.file.zst"))
    victim.write_bytes(b"rot")
    assert not fsck(farm, jobs=1).intact
    copy_to(farm, tmp_path / "copy")
    copy = assert_whole(tmp_path / "copy")
    shutil.copy2(copy.path / victim.relative_to(farm.path), victim)
    assert fsck(farm, jobs=1).intact


def test_places_that_are_refused(farm: Repository, tmp_path: Path) -> None:
    other = tmp_path / "other"
    init_repository(other, Mode.ARCHIVE)
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "link").symlink_to(farm.path)
    for place in (
        farm.path,
        farm.path / "state/copy",
        tmp_path / "link",
        other,
        file,
        Path("/proc"),
        tmp_path / "missing/copy",
    ):
        before = public_files(other)
        with pytest.raises(BackupPlaceError):
            copy_to(farm, place)
        assert public_files(other) == before
    (tmp_path / "empty").mkdir()
    copy_to(farm, tmp_path / "empty")
    assert_whole(tmp_path / "empty")


def test_a_backup_of_another_farm_keeps_its_branches(farm: Repository, tmp_path: Path) -> None:
    init_repository(tmp_path / "other", Mode.ARCHIVE)
    other = open_repository(tmp_path / "other")
    make_commit(other, tree(1), branch="other")
    copy_to(farm, tmp_path / "copy")
    with pytest.raises(BackupPlaceError, match="is a backup of"):
        copy_to(other, tmp_path / "copy")
    assert list_refs(assert_whole(tmp_path / "copy")) == list_refs(farm)
    (tmp_path / "copy/state/backup.json").write_text("{}")
    with pytest.raises(BackupPlaceError, match="damaged"):
        copy_to(farm, tmp_path / "copy")


def test_links_need_one_file_system_and_a_farm_is_an_archive(
    farm: Repository, tmp_path: Path
) -> None:
    with pytest.raises(BackupPlaceError, match="another file system"):
        copy_to(farm, Path("/proc/copy"), LinkPolicy.HARDLINK)
    init_repository(tmp_path / "bare", Mode.BARE_USER)
    with pytest.raises(NotAFarmError):
        copy_to(open_repository(tmp_path / "bare"), tmp_path / "copy")


def test_a_lack_of_space_is_told_before_anything_is_copied(
    farm: Repository, tmp_path: Path
) -> None:
    copy_to(farm, tmp_path / "copy")
    heads = list_refs(farm)
    (tmp_path / "copy/config.toml").write_text('min-free-space = "900TB"\n')
    make_commit(farm, tree(5), branch="builds")
    with pytest.raises(SpaceError):
        copy_to(farm, tmp_path / "copy")
    assert list_refs(assert_whole(tmp_path / "copy")) == heads


# The command, and the document


def test_the_command_reports(
    farm: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--repo", str(farm.path), "backup", str(tmp_path / "copy")]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["refs"] == 2
    assert report["objects"] > 10
    assert main([*arguments, "--link"]) == 0
    assert "2 branches; 0 objects and 0 packs and pages linked" in capsys.readouterr().out
    assert main(["--repo", str(farm.path), "backup", str(farm.path)]) == 2
    marker = json.loads((tmp_path / "copy/state/backup.json").read_text())
    assert marker["finished"] > NOW - 10**9
    with hold_lock(farm.path / "lock", LockKind.SHARED):
        assert main([*arguments, "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_backup_and_restore_as_the_document_says(tmp_path: Path) -> None:
    """docs/operations.md, "Backup" and "Restore", line by line, with a loss in between."""
    (tmp_path / "srv").mkdir()
    (tmp_path / "backup").mkdir()
    init_repository(tmp_path / "srv/hacktree", Mode.ARCHIVE)
    farm = open_repository(tmp_path / "srv/hacktree")
    head = make_commit(farm, tree(1), branch="builds")
    _, secret = create_token(open_database(farm), PUSH, "CI", None, NOW)
    before = public_files(farm.path)
    run_lines(commands_in("Backup"), tmp_path)
    shutil.rmtree(farm.path / "objects")
    run_lines(commands_in("Restore"), tmp_path)
    restored = assert_whole(farm.path)
    assert list_refs(restored) == {"builds": head}
    assert public_files(restored.path) == before
    assert authenticate(open_database(restored), secret, NOW).label == "CI"
    with pytest.raises(BackupPlaceError):
        copy_to(restored, restored.path)
    make_commit(restored, tree(2), branch="builds")
    with pytest.raises(BackupPlaceError, match="no backup"):
        copy_to(open_repository(tmp_path / "backup/hacktree"), restored.path)


def run_lines(lines: list[str], work: Path) -> None:
    assert lines
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in lines:
        there = line.replace("/srv/", f"{work}/srv/").replace(" /backup/", f" {work}/backup/")
        if shlex.split(line)[0] == "systemctl":
            continue  # There is no service here to stop.
        subprocess.run(shlex.split(there), check=True, capture_output=True, env=environment)


async def test_a_restored_copy_goes_on_signing_and_testers_believe_it(tmp_path: Path) -> None:
    signed = SignedFarm(make_repository(tmp_path / "farm"))
    copy = tmp_path / "copy"
    heads = []
    for number in range(3):
        heads.append(signed.commit({"f": f"{number}".encode()}))
        back_up(signed.repository, copy, LinkPolicy.COPY, NOW)
        state = TrustStore(open_repository(copy)).load()
        assert head_signed(state, BUILDS) == heads[-1]
    client = make_repository(tmp_path / "client", Mode.BARE_USER)
    remote = trusting_remote(client, signed, f"file://{copy}")
    async with open_source(remote, patience(FakeTime()), 1) as source:
        assert await SignedHeads(client, remote, source).read_head(BUILDS) == heads[-1]
    restored = TrustStore(open_repository(copy))
    assert renew(restored, signed.now + timedelta(days=4), {}) == ["snapshot", "timestamp"]


def test_signatures_in_a_copy_lead_somewhere_at_every_instant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each file that it writes or removes, the copy's timestamp is good."""
    signed = SignedFarm(make_repository(tmp_path / "farm"))
    copy = tmp_path / "copy"
    signed.commit({"f": b"0"})
    back_up(signed.repository, copy, LinkPolicy.COPY, NOW)
    for path in signed.store.directory.iterdir():
        os.utime(path, (1, 1))  # Long ago: what is not current goes with the next publication.
    head = signed.commit({"f": b"1"})
    for step in count():
        left = step

        def crash(call: Callable[..., None]) -> Callable[..., None]:
            def crashing(*args: object, **options: object) -> None:
                nonlocal left
                if left == 0:
                    raise KeyboardInterrupt
                left -= 1
                call(*args, **options)

            return crashing

        monkeypatch.setattr(backup_module, "publish_file", crash(publish_file))
        monkeypatch.setattr(backup_module, "remove_durably", crash(remove_durably))
        try:
            back_up(signed.repository, copy, LinkPolicy.COPY, NOW)
        except KeyboardInterrupt:
            assert head_signed(TrustStore(open_repository(copy)).load(), BUILDS)
            continue
        break
    assert step >= 5
    assert head_signed(TrustStore(open_repository(copy)).load(), BUILDS) == head


def test_suites_and_logs_of_verdicts_are_copied(farm: Repository, tmp_path: Path) -> None:
    make_commit(farm, tree(1), branch="builds")
    (farm.path / "server.toml").write_text('[suites.fastqa]\nsource = "builds"\n')
    log = keep_log(farm, b"what it said")
    back_up(farm, tmp_path / "copy", LinkPolicy.COPY, NOW)
    assert (tmp_path / "copy/server.toml").read_text().startswith("[suites")
    copied = log_path(open_repository(tmp_path / "copy"), log)
    assert copied.read_bytes() == b"what it said"
    assert copied.stat().st_mode & 0o777 == 0o600
