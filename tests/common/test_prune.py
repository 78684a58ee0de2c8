"""Prune deletes exactly what nothing keeps, and never harms what is in progress."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hacktree.common.cli.main import main
from hacktree.common.errors import BusyError, CorruptError, UserError
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.repository.condemned import condemn, read_condemned, write_condemned
from hacktree.common.repository.fsck import fsck
from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.prune import PinUnreadableError, grace_seconds, plan_prune, prune
from hacktree.common.repository.reachability import list_objects
from hacktree.common.repository.refs import delete_ref, hold_refs, move_ref
from hacktree.common.repository.repository import ObjectMissingError, Repository, open_repository
from hacktree.common.repository.retention import (
    Ancestor,
    Policy,
    Rule,
    kept_commits,
    parse_branch_rule,
    parse_depth,
    parse_duration,
)
from support.trees import Spec, make_commit

DAY = 86400
NOW = 1_700_000_000
HEADS = Policy(Rule(depth=0))


@pytest.fixture
def bare(tmp_path: Path) -> Repository:
    init_repository(tmp_path / "repo", Mode.BARE)
    return open_repository(tmp_path / "repo")


@pytest.fixture
def archive(tmp_path: Path) -> Repository:
    init_repository(tmp_path / "repo", Mode.ARCHIVE)
    return open_repository(tmp_path / "repo")


def series(repository: Repository, count: int, branch: str = "fastqa") -> list[ObjectId]:
    """Daily builds, the oldest first; the newest is a day old at `NOW`."""
    return [
        make_commit(
            repository,
            {"version": f"{branch} {n}".encode(), "same": b"same", f"d/{n}": f"{n}".encode()},
            branch=branch,
            time=NOW - (count - n) * DAY,
        )
        for n in range(count)
    ]


def present(repository: Repository, commits: list[ObjectId]) -> list[int]:
    return [n for n, commit in enumerate(commits) if repository.has_meta(commit)]


def snapshot(repository: Repository) -> dict[str, int]:
    return {
        os.path.join(directory, name): os.lstat(os.path.join(directory, name)).st_mtime_ns
        for directory, _, names in os.walk(repository.path)
        for name in names
    }


def pin(repository: Repository, name: str, content: str) -> Path:
    path = repository.state / "pins" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    return path


# Retention: pure.


def line(*ages: float) -> list[Ancestor]:
    return [Ancestor(hash_bytes(str(n).encode()), n, age) for n, age in enumerate(ages)]


@pytest.mark.parametrize(
    ("rule", "count"),
    [
        (Rule(), 5),
        (Rule(depth=0), 1),
        (Rule(depth=2), 3),
        (Rule(depth=99), 5),
        (Rule(younger=25), 2),
        (Rule(younger=0), 1),
        (Rule(depth=1, younger=35), 3),
        (Rule(depth=3, younger=15), 4),
    ],
)
def test_either_clause_keeps(rule: Rule, count: int) -> None:
    ancestors = line(10, 20, 30, 40, 50)
    assert kept_commits(ancestors, rule) == [a.id for a in ancestors[:count]]


def test_a_wrong_clock_leaves_no_hole_in_history() -> None:
    ancestors = line(10, 500, 20, 600)
    assert kept_commits(ancestors, Rule(younger=30)) == [a.id for a in ancestors[:3]]


def test_the_first_rule_that_matches_a_branch_wins() -> None:
    policy = Policy(
        Rule(depth=1), (("qa/*", Rule(depth=5)), ("*", Rule(depth=9)), ("qa/x", Rule()))
    )
    assert policy.rule_for("qa/x") == Rule(depth=5)
    assert policy.rule_for("remotes/origin/qa/x") == Rule(depth=5)
    assert policy.rule_for("main") == Rule(depth=9)
    assert Policy(Rule(depth=1)).rule_for("main") == Rule(depth=1)


def test_rules_as_written() -> None:
    assert parse_branch_rule("qa/*=depth:20,younger:30d") == (
        "qa/*",
        Rule(depth=20, younger=30 * DAY),
    )
    assert parse_branch_rule("x=all") == ("x", Rule())
    assert parse_duration("36h") == 36 * 3600
    assert parse_depth("0") == 0


@pytest.mark.parametrize(
    "text", ["", "x", "x=", "=depth:1", "x=deep:1", "x=depth:-1", "x=younger:3"]
)
def test_malformed_rules_are_the_callers_fault(text: str) -> None:
    with pytest.raises(UserError):
        parse_branch_rule(text)


# Prune.


def test_depth_keeps_so_many_besides_the_head(bare: Repository) -> None:
    commits = series(bare, 5)
    report = prune(bare, Policy(Rule(depth=1)), now=NOW, grace=0)
    assert present(bare, commits) == [3, 4]
    assert sorted(report.commits) == sorted(c.hex() for c in commits[:3])
    assert report.kept_commits == 2
    assert fsck(bare).intact


def test_age_keeps_the_young(bare: Repository) -> None:
    commits = series(bare, 5)
    prune(bare, Policy(Rule(younger=2.5 * DAY)), now=NOW, grace=0)
    assert present(bare, commits) == [3, 4]
    assert fsck(bare).intact


def test_branches_have_rules_of_their_own(bare: Repository) -> None:
    daily, release = series(bare, 4, "daily"), series(bare, 4, "release/47")
    prune(bare, Policy(Rule(depth=0), (("release/*", Rule()),)), now=NOW, grace=0)
    assert present(bare, daily) == [3]
    assert present(bare, release) == [0, 1, 2, 3]
    assert fsck(bare).intact


def test_a_remote_ref_keeps_its_commit(bare: Repository) -> None:
    commits = series(bare, 3)
    with hold_refs(bare):
        move_ref(bare, "remotes/origin/fastqa", commits[0], expected=None)
    prune(bare, HEADS, now=NOW, grace=0)
    assert present(bare, commits) == [0, 2]
    assert fsck(bare).intact


def test_without_rules_only_what_no_branch_reaches_goes(bare: Repository) -> None:
    kept, dropped = series(bare, 3, "kept"), series(bare, 3, "dropped")
    delete_ref(bare, "dropped")
    prune(bare, Policy(), now=NOW, grace=0)
    assert present(bare, kept) == [0, 1, 2]
    assert present(bare, dropped) == []
    assert fsck(bare).intact


def test_no_object_is_left_that_nothing_needs(bare: Repository) -> None:
    series(bare, 4)
    head = make_commit(bare, {"only": b"this"}, time=NOW)
    report = prune(bare, HEADS, now=NOW, grace=0)
    # The head, its tree and its one file.
    assert len(list_objects(bare).names) == 3
    assert bare.has_meta(head)
    assert report.objects > 0
    assert report.freed > 0
    assert fsck(bare).intact


def test_pins_keep_one_commit_and_refuse_when_unreadable(bare: Repository) -> None:
    commits = series(bare, 4)
    pin(bare, "tester", commits[1].hex() + "\n")
    pin(bare, "absent", hash_bytes(b"never pulled").hex() + "\n")
    prune(bare, HEADS, now=NOW, grace=0)
    assert present(bare, commits) == [1, 3]
    assert fsck(bare).intact
    broken = pin(bare, "torn", commits[3].hex()[:20])
    before = snapshot(bare)
    with pytest.raises(PinUnreadableError, match="torn"):
        prune(bare, HEADS, now=NOW, grace=0)
    assert snapshot(bare) == before
    broken.unlink()
    (broken.parent / "directory").mkdir()
    with pytest.raises(PinUnreadableError, match="directory"):
        prune(bare, HEADS, now=NOW, grace=0)


def test_a_torn_temporary_of_a_pin_is_no_pin(bare: Repository) -> None:
    commits = series(bare, 2)
    pin(bare, ".tester.01234567.tmp", "to")
    prune(bare, HEADS, now=NOW, grace=0)
    assert present(bare, commits) == [1]


def test_a_root_keeps_its_commit(bare: Repository) -> None:
    commits = series(bare, 4)
    (bare.path / "roots" / f"gnomeos-{commits[1].hex()[:9]}.2").mkdir(parents=True)
    prune(bare, HEADS, now=NOW, grace=0)
    assert present(bare, commits) == [1, 3]
    assert fsck(bare).intact


def test_bytes_that_a_root_still_links_are_not_freed(bare: Repository, tmp_path: Path) -> None:
    make_commit(bare, {"big": b"x" * 100_000}, time=NOW)
    make_commit(bare, {"small": b"y"}, time=NOW)
    (big,) = (p for p in bare.objects.rglob("*.file") if p.stat().st_size == 100_000)
    os.link(big, tmp_path / "checkout")
    assert plan_prune(bare, HEADS, now=NOW, grace=0).freed < 100_000
    (tmp_path / "checkout").unlink()
    assert plan_prune(bare, HEADS, now=NOW, grace=0).freed >= 100_000


def test_a_dry_run_changes_nothing_and_foretells(archive: Repository) -> None:
    series(archive, 4)
    before = snapshot(archive)
    planned = plan_prune(archive, HEADS, now=NOW, grace=0)
    assert snapshot(archive) == before
    assert len(planned.commits) == 3
    assert prune(archive, HEADS, now=NOW, grace=0) == planned


def test_damage_in_what_is_kept_refuses(bare: Repository) -> None:
    commits = series(bare, 2)
    root = bare.load_commit(commits[1]).root.id
    bare.path.joinpath("objects", root.hex()[:2], root.hex()[2:] + ".meta").unlink()
    before = snapshot(bare)
    with pytest.raises(ObjectMissingError):
        prune(bare, HEADS, now=NOW, grace=0)
    assert snapshot(bare) == before


def test_a_head_that_is_missing_refuses(bare: Repository) -> None:
    commits = series(bare, 2)
    head = commits[1].hex()
    bare.path.joinpath("objects", head[:2], head[2:] + ".meta").unlink()
    with pytest.raises(CorruptError):
        prune(bare, HEADS, now=NOW, grace=0)


def test_damage_in_what_goes_does_not_stop_it_going(bare: Repository) -> None:
    commits = series(bare, 3)
    oldest = bare.path.joinpath("objects", commits[0].hex()[:2], commits[0].hex()[2:] + ".meta")
    make_commit(bare, {"a": b"a"}, branch="stays")
    delete_ref(bare, "fastqa")
    oldest.write_bytes(b"garbage")
    prune(bare, HEADS, now=NOW, grace=0)
    assert present(bare, commits) == []


# The period of grace of an archive.


def test_an_archive_keeps_what_became_unreachable_for_its_grace(archive: Repository) -> None:
    commits = series(archive, 3)
    grace = grace_seconds(archive)
    assert grace == DAY
    everything = list_objects(archive).names
    report = prune(archive, HEADS, now=NOW, grace=grace)
    assert list_objects(archive).names == everything
    assert report.kept_by_grace == len(read_condemned(archive)) > 2
    prune(archive, HEADS, now=NOW + DAY - 1, grace=grace)
    assert list_objects(archive).names == everything
    prune(archive, HEADS, now=NOW + DAY, grace=grace)
    assert present(archive, commits) == [2]
    assert read_condemned(archive) == {}
    assert fsck(archive).intact


def test_bare_repositories_have_no_grace(bare: Repository) -> None:
    assert grace_seconds(bare) == 0


def test_what_is_reachable_again_leaves_the_record(archive: Repository) -> None:
    commits = series(archive, 3)
    prune(archive, HEADS, now=NOW, grace=DAY)
    pin(archive, "again", commits[0].hex() + "\n")
    prune(archive, HEADS, now=NOW + DAY / 2, grace=DAY)
    (archive.state / "pins" / "again").unlink()
    prune(archive, HEADS, now=NOW + 1.2 * DAY, grace=DAY)
    assert present(archive, commits) == [0, 2]
    assert fsck(archive).intact
    prune(archive, HEADS, now=NOW + 2.2 * DAY, grace=DAY)
    assert present(archive, commits) == [2]


def test_a_commit_in_its_grace_stays_whole_though_its_files_were_condemned_before_it(
    archive: Repository,
) -> None:
    # The file is condemned with an old branch, used again by a new one, which is deleted at once:
    # the file's own time is up a day before the new commit's.
    make_commit(archive, {"file": b"shared"}, branch="old", time=NOW)
    make_commit(archive, {"other": b"other"}, branch="stays", time=NOW)
    delete_ref(archive, "old")
    prune(archive, HEADS, now=NOW, grace=DAY)
    late = make_commit(archive, {"file": b"shared", "x": b"x"}, branch="late", time=NOW)
    delete_ref(archive, "late")
    prune(archive, HEADS, now=NOW + 0.9 * DAY, grace=DAY)
    prune(archive, HEADS, now=NOW + 1.1 * DAY, grace=DAY)
    assert archive.has_meta(late)
    assert fsck(archive).intact
    prune(archive, HEADS, now=NOW + 2 * DAY, grace=DAY)
    assert not archive.has_meta(late)
    assert len(list_objects(archive).names) == 3


def test_a_damaged_record_and_a_clock_set_back_only_prolong_the_grace(archive: Repository) -> None:
    commits = series(archive, 2)
    for damaged in (b"\xff\xfe", b"not a time at all\n"):
        (archive.state / "condemned").write_bytes(damaged)
        assert read_condemned(archive) == {}
    prune(archive, HEADS, now=NOW, grace=DAY)
    assert present(archive, commits) == [0, 1]
    assert condemn({"a": 50.0, "b": 5.0, "gone": 1.0}, ["a", "b", "c"], 10.0) == {
        "a": 10.0,
        "b": 5.0,
        "c": 10.0,
    }


def test_the_record_survives_a_round_trip(archive: Repository) -> None:
    write_condemned(archive, {"ab/c.meta": 12.0, "ab/d.meta": 13.0})
    assert read_condemned(archive) == {"ab/c.meta": 12.0, "ab/d.meta": 13.0}


# Beside others.


@contextmanager
def other_process_holding_the_shared_lock(
    repository: Repository,
) -> Iterator[subprocess.Popen[str]]:
    """A real second process inside a transaction; it leaves when its standard input ends."""
    code = (
        "import sys; from pathlib import Path\n"
        "from hacktree.common.repository.repository import open_repository\n"
        "from hacktree.common.repository.transaction import begin_transaction\n"
        f"with begin_transaction(open_repository(Path({str(repository.path)!r}))):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0


def test_a_commit_in_progress_keeps_prune_from_deleting(bare: Repository) -> None:
    commits = series(bare, 3)
    with other_process_holding_the_shared_lock(bare) as process:
        # Planning needs the shared lock only.
        assert len(plan_prune(bare, HEADS, now=NOW, grace=0).commits) == 2
        with pytest.raises(BusyError, match=f"process {process.pid}"):
            prune(bare, HEADS, now=NOW, grace=0, timeout=0)
        assert present(bare, commits) == [0, 1, 2]
        assert fsck(bare).intact
    prune(bare, HEADS, now=NOW, grace=0, timeout=0)
    assert present(bare, commits) == [2]


@pytest.mark.parametrize("how", ["ref", "pin", "unnamed"])
def test_what_appears_between_planning_and_deleting_is_kept(
    bare: Repository, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    commits = series(bare, 3)
    appeared: list[ObjectId] = []

    def read_condemned_and_commit(repository: Repository) -> dict[str, float]:
        # The last thing that a plan reads; the first plan is made under the shared lock.
        if not appeared and how == "pin":
            appeared.append(commits[0])
            pin(bare, "late", commits[0].hex() + "\n")
        elif not appeared:
            # The very tree of a commit that was planned to go.
            tree: dict[str | bytes, Spec] = {"version": b"fastqa 0", "same": b"same", "d/0": b"0"}
            appeared.append(make_commit(bare, tree, branch="late", time=NOW))
            if how == "unnamed":
                (bare.path / "refs" / "late").unlink()
        return read_condemned(repository)

    monkeypatch.setattr(
        "hacktree.common.repository.prune.read_condemned", read_condemned_and_commit
    )
    prune(bare, HEADS, now=NOW, grace=0)
    assert fsck(bare).intact
    assert bare.has_meta(appeared[0]) == (how != "unnamed")


# The command.


def test_the_command_prunes_and_reports_json(
    bare: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    commits = series(bare, 3)
    base = ["--repo", str(bare.path), "prune", "--keep-depth", "0"]
    assert main([*base, "--json", "--dry-run"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["dry-run"] is True
    assert sorted(document["commits"]) == sorted(c.hex() for c in commits[:2])
    assert present(bare, commits) == [0, 1, 2]
    assert main(base) == 0
    assert "2 commits" in capsys.readouterr().out
    assert present(bare, commits) == [2]


def test_the_command_refuses_contradictions(
    archive: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--repo", str(archive.path), "prune"]
    assert main([*base, "--refs-only", "--keep-depth", "1"]) == 2
    assert main([*base, "--keep-depth", "few"]) == 2
    assert "--refs-only" in capsys.readouterr().err


def test_the_command_gives_grace_unless_told_otherwise(
    archive: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    commits = series(archive, 2)
    base = ["--repo", str(archive.path), "prune", "--keep-depth", "0"]
    assert main(base) == 0
    assert "period of grace" in capsys.readouterr().out
    assert present(archive, commits) == [0, 1]
    assert main([*base, "--no-grace"]) == 0
    assert present(archive, commits) == [1]
    assert fsck(archive).intact
