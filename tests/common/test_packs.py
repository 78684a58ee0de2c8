"""Promise: the graph names only packs that are there, and what it stops naming stays a week."""

import json
from pathlib import Path

import pytest

from hacktree.common.delta.graph import Edge
from hacktree.common.errors import BusyError, CorruptError, UserError
from hacktree.common.objects.ids import hash_bytes
from hacktree.common.repository import packs
from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.locks import LockKind, hold_lock
from hacktree.common.repository.packs import (
    RETIREMENT_SECONDS,
    PackMissingError,
    delete_retired,
    find_pack,
    list_edges,
    pack_path,
    publish_pack,
    read_head,
    require_archive,
    retire_packs,
)
from hacktree.common.repository.repository import Repository, open_repository

NOW = 1_700_000_000.0


@pytest.fixture
def archive(tmp_path: Path) -> Repository:
    init_repository(tmp_path / "repo", Mode.ARCHIVE)
    return open_repository(tmp_path / "repo")


def publish(repository: Repository, number: int, *, variant: str = "") -> Edge:
    """A pack from tree `number` to the next; the store doesn't look into it."""
    data = f"pack {number} {variant}".encode()
    trees = [hash_bytes(f"tree {n}".encode()) for n in (number, number + 1)]
    edge = Edge(trees[0], trees[1], hash_bytes(data), len(data), len(data), 1, 10, 1)
    staged = repository.staging / "pack"
    staged.write_bytes(data)
    staged.chmod(0o600)
    publish_pack(repository, staged, edge)
    return edge


def named_files(repository: Repository) -> set[str]:
    return {path.name for path in (repository.path / "packs").iterdir()}


def test_a_published_pack_is_public_and_in_the_graph(archive: Repository) -> None:
    edge = publish(archive, 1)
    assert list_edges(archive) == [edge]
    for path, mode in (
        (pack_path(archive, edge.pack), 0o644),
        (archive.path / "graph" / "tail", 0o644),
        (archive.path / "packs", 0o755),
        (archive.path / "graph", 0o755),
    ):
        assert path.stat().st_mode & 0o7777 == mode
    assert list(archive.staging.iterdir()) == []


def test_an_archive_of_an_older_version_gets_its_directories(archive: Repository) -> None:
    (archive.path / "packs").rmdir()
    (archive.path / "graph").rmdir()
    publish(archive, 1)
    assert (archive.path / "packs").stat().st_mode & 0o7777 == 0o755
    assert (archive.path / "graph").stat().st_mode & 0o7777 == 0o755


def test_the_newest_edge_comes_first(archive: Repository) -> None:
    edges = [publish(archive, number) for number in range(4)]
    assert list_edges(archive) == edges[::-1]


def test_a_pack_made_again_replaces_the_one_before(archive: Repository) -> None:
    publish(archive, 1)
    other = publish(archive, 2)
    again = publish(archive, 1, variant="smaller")
    assert list_edges(archive) == [again, other]
    publish(archive, 1, variant="smaller")
    assert len(list_edges(archive)) == 2


def test_old_edges_are_sealed_and_still_listed(
    archive: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hacktree.common.delta.graph.SEGMENT_LENGTH", 2)
    edges = [publish(archive, number) for number in range(9)]
    assert list_edges(archive) == edges[::-1]
    assert len(list((archive.path / "graph").iterdir())) == 4
    retire_packs(archive, [edges[0].pack])
    assert list_edges(archive) == edges[:0:-1]


def test_a_retired_pack_stays_for_a_week(archive: Repository) -> None:
    """Whoever read the graph just before still finds it."""
    old, kept = publish(archive, 1), publish(archive, 2)
    retire_packs(archive, [old.pack])
    assert list_edges(archive) == [kept]
    assert delete_retired(archive, NOW, RETIREMENT_SECONDS) == []
    assert delete_retired(archive, NOW + RETIREMENT_SECONDS - 1, RETIREMENT_SECONDS) == []
    assert named_files(archive) == {old.pack.hex(), kept.pack.hex()}
    later = NOW + RETIREMENT_SECONDS
    assert delete_retired(archive, later, RETIREMENT_SECONDS) == [f"packs/{old.pack.hex()}"]
    assert named_files(archive) == {kept.pack.hex()}
    assert json.loads((archive.state / "retired").read_text()) == {}


def test_a_clock_set_back_or_a_lost_record_deletes_nothing_early(archive: Repository) -> None:
    edge = publish(archive, 1)
    retire_packs(archive, [edge.pack])
    delete_retired(archive, NOW + 100 * RETIREMENT_SECONDS, RETIREMENT_SECONDS)
    assert delete_retired(archive, NOW, RETIREMENT_SECONDS) == []
    (archive.state / "retired").write_text("{damaged")
    assert delete_retired(archive, NOW + RETIREMENT_SECONDS - 1, RETIREMENT_SECONDS) == []
    assert named_files(archive) == {edge.pack.hex()}


def test_a_pack_that_is_named_again_is_not_deleted(archive: Repository) -> None:
    edge = publish(archive, 1)
    retire_packs(archive, [edge.pack])
    delete_retired(archive, NOW, RETIREMENT_SECONDS)
    publish(archive, 1)
    assert delete_retired(archive, NOW + 2 * RETIREMENT_SECONDS, RETIREMENT_SECONDS) == []
    assert named_files(archive) == {edge.pack.hex()}


def test_packs_are_found_by_the_beginning_of_their_name(archive: Repository) -> None:
    edge = publish(archive, 1)
    assert find_pack(archive, edge.pack.hex()[:6]) == edge
    with pytest.raises(UserError, match="no pack"):
        find_pack(archive, "z")


def test_a_head_that_is_not_what_its_name_says_is_damage(archive: Repository) -> None:
    edge = publish(archive, 1)
    pack_path(archive, edge.pack).write_bytes(b"something else")
    with pytest.raises(PackMissingError):
        read_head(archive, edge)
    pack_path(archive, edge.pack).unlink()
    with pytest.raises(PackMissingError):
        read_head(archive, edge)


def test_a_damaged_graph_says_how_to_mend_it(archive: Repository) -> None:
    publish(archive, 1)
    (archive.path / "graph" / "tail").write_bytes(b"nonsense")
    with pytest.raises(CorruptError) as raised:
        list_edges(archive)
    assert "graph/" in raised.value.hint


def test_packs_are_for_archives(tmp_path: Path) -> None:
    init_repository(tmp_path / "machine", Mode.BARE_USER)
    with pytest.raises(UserError, match="publishes no packs"):
        require_archive(open_repository(tmp_path / "machine"))
    assert not (tmp_path / "machine" / "packs").exists()


def test_two_writers_of_the_graph_wait_for_one_another(
    archive: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(archive, 1)
    monkeypatch.setattr(packs, "_LOCK_SECONDS", 0.0)
    with (
        hold_lock(archive.state / "graph.lock", LockKind.EXCLUSIVE),
        pytest.raises(BusyError),
    ):
        publish(archive, 2)
    assert len(list_edges(archive)) == 1
