"""Promise: what a branch's published history names is there, whatever happened to its pages."""

import json
import os
from pathlib import Path

import pytest

from hacktree.common.cli.main import main
from hacktree.common.objects.history import MAX_PAGE_SIZE, decode_page, verified_chain
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.objects.zstandard import decompress_bounded
from hacktree.common.repository.history_rebuilding import history_fault, rebuild_history
from hacktree.common.repository.repository import Repository
from support.pulling import make_repository
from support.trees import make_commit

BUILDS = parse_branch_name("builds")
PAGE_LENGTH = 4


@pytest.fixture
def farm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """With small pages: builds take time to make."""
    monkeypatch.setattr("hacktree.common.repository.published_history.PAGE_LENGTH", PAGE_LENGTH)
    return make_repository(tmp_path / "farm")


def build(farm: Repository, count: int) -> list[ObjectId]:
    """So many builds, newest first."""
    return [make_commit(farm, {"f": os.urandom(9)}, branch="builds") for _ in range(count)][::-1]


def pages(farm: Repository) -> Path:
    return farm.path / "branches/builds/history"


def snapshot(farm: Repository) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in pages(farm).iterdir()}


def published(farm: Repository, head: ObjectId) -> list[ObjectId]:
    """The builds that a reader finds who begins at `head`."""
    commits: list[bytes] = []
    name = "tail"
    while name:
        page = decode_page(decompress_bounded((pages(farm) / name).read_bytes(), MAX_PAGE_SIZE))
        commits.extend(page.commits)
        name = page.older.hex()
    return [object_id for object_id, _, _ in verified_chain(head, commits)]


def test_pages_that_are_right_are_left_alone(farm: Repository) -> None:
    builds = build(farm, 2 * PAGE_LENGTH + 3)
    before = snapshot(farm)
    assert len(before) == 2
    assert history_fault(farm, BUILDS) == ""
    report = rebuild_history(farm, BUILDS)
    assert (report.builds, report.fault) == (len(builds), "")
    assert snapshot(farm) == before


@pytest.mark.parametrize("harm", ["tail-lost", "tail-damaged", "page-lost", "page-damaged"])
def test_what_was_lost_or_damaged_is_written_anew(farm: Repository, harm: str) -> None:
    builds = build(farm, 2 * PAGE_LENGTH + 3)
    before = snapshot(farm)
    sealed = next(name for name in before if name != "tail")
    path = pages(farm) / ("tail" if harm.startswith("tail") else sealed)
    if harm.endswith("lost"):
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-4] + b"evil")
    assert history_fault(farm, BUILDS) != ""
    assert rebuild_history(farm, BUILDS).fault != ""
    assert history_fault(farm, BUILDS) == ""
    assert published(farm, builds[0]) == builds
    assert snapshot(farm) == before


def test_a_tail_that_lacks_builds_is_written_anew(farm: Repository) -> None:
    build(farm, 2)
    old = (pages(farm) / "tail").read_bytes()
    build(farm, 2)
    (pages(farm) / "tail").write_bytes(old)
    assert "lacks" in history_fault(farm, BUILDS)
    rebuild_history(farm, BUILDS)
    assert history_fault(farm, BUILDS) == ""


def test_builds_that_were_pruned_are_named_no_more(farm: Repository) -> None:
    """And the pages that only the old tail led to go with the next run, not under a reader."""
    builds = build(farm, 2 * PAGE_LENGTH + 10)
    (farm.path / "config.toml").write_text('min-free-space = "0"\nkeep-unreachable-hours = 0\n')
    assert main(["--repo", str(farm.path), "prune", "--keep-depth", "4", "--quiet"]) == 0
    assert "pruned" in history_fault(farm, BUILDS)
    before = set(snapshot(farm))
    assert rebuild_history(farm, BUILDS).builds == 5
    assert published(farm, builds[0]) == builds[:5]
    assert set(snapshot(farm)) == before
    assert rebuild_history(farm, BUILDS).fault == ""
    assert set(snapshot(farm)) == {"tail"}
    newest = build(farm, 1)
    assert published(farm, newest[0]) == newest + builds[:5]


def test_a_page_that_is_ahead_of_its_ref_is_right(farm: Repository) -> None:
    """A publication writes it first, and may just be at work or have been killed."""
    (head,) = build(farm, 1)
    ref = farm.path / "refs/builds"
    make_commit(farm, {"f": b"2"}, branch="builds")
    ref.write_text(f"{head.hex()}\n")
    before = snapshot(farm)
    assert rebuild_history(farm, BUILDS).fault == ""
    assert snapshot(farm) == before


def test_a_large_tail_is_sealed_as_in_publishing(
    farm: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hacktree.common.repository.published_history._FULL_TAIL", 500)
    build(farm, 8)
    before = snapshot(farm)
    assert len(before) > 2
    (pages(farm) / "tail").unlink()
    rebuild_history(farm, BUILDS)
    assert snapshot(farm) == before


def test_the_command_compares_and_mends(
    farm: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    build(farm, 3)
    base = ["--repo", str(farm.path), "history", "builds"]
    assert main(base) == 0
    assert "3 builds" in capsys.readouterr().out
    (pages(farm) / "tail").unlink()
    assert main([*base, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "dry-run": True,
        "fault": "the page tail is missing",
    }
    assert not (pages(farm) / "tail").exists()
    assert main([*base, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["builds"] == 3
    assert (pages(farm) / "tail").exists()
    assert main(["--repo", str(farm.path), "history", "nothing"]) == 2
