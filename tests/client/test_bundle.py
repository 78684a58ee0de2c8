"""Bundles: a build brought to a machine without a network, with nothing of it believed."""

from pathlib import Path

import pytest

from hacktree.common.cli.main import main
from hacktree.common.errors import UserError
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.bundle import export_bundle, read_bundle
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.refs import read_ref
from hacktree.common.repository.repository import Repository
from support.packmaking import publish_packs
from support.pulling import assert_whole, make_repository, pull_from
from support.trees import make_commit


@pytest.fixture
async def builds(farm: Repository, client: Repository) -> tuple[ObjectId, ObjectId]:
    """Two builds of which the client has the first; a pack joins them."""
    first = make_commit(farm, {"a": b"one" * 5000, "b": b"b"})
    await pull_from(client, f"file://{farm.path}")
    second = make_commit(farm, {"a": b"one" * 4000 + b"two" * 1000, "c/d": b"d"})
    publish_packs(farm, [(first, second)])
    return first, second


def apply(client: Repository, bundle: Path, *authority: str) -> int:
    return main(["--repo", str(client.path), "--quiet", "delta", "apply", str(bundle), *authority])


def test_a_bundle_brings_a_build(
    farm: Repository, client: Repository, builds: tuple[ObjectId, ObjectId], tmp_path: Path
) -> None:
    first, second = builds
    bundle = tmp_path / "b"
    arguments = ["--repo", str(farm.path), "delta", "export", "fastqa", "--from", first.hex()]
    assert main([*arguments, "-o", str(bundle)]) == 0
    assert apply(client, bundle, "--commit", second.hex()) == 0
    assert assert_whole(client, second) == assert_whole(farm, second)
    assert read_ref(client, "remotes/bundle/fastqa") == second


def test_another_commit_than_the_one_asked_for_is_refused(
    farm: Repository, client: Repository, builds: tuple[ObjectId, ObjectId], tmp_path: Path
) -> None:
    first, second = builds
    export_bundle(farm, second, [first], tmp_path / "b")
    assert apply(client, tmp_path / "b", "--commit", first.hex()) == 2
    assert not client.has_meta(second)


def test_a_machine_without_the_old_build_is_told(
    farm: Repository, builds: tuple[ObjectId, ObjectId], tmp_path: Path
) -> None:
    first, second = builds
    export_bundle(farm, second, [first], tmp_path / "b")
    other = make_repository(tmp_path / "other", Mode.BARE_USER)
    assert apply(other, tmp_path / "b", "--unsigned") == 4


def test_every_damaged_byte_is_noticed(
    farm: Repository, builds: tuple[ObjectId, ObjectId], tmp_path: Path
) -> None:
    first, second = builds
    bundle = tmp_path / "b"
    export_bundle(farm, second, [first], bundle)
    data = bundle.read_bytes()
    for cut in (0, 5, 20, 60, len(data) - 1):
        bundle.write_bytes(data[:cut])
        with bundle.open("rb") as stream, pytest.raises(FormatError):
            read_bundle(stream)
    bundle.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    other = make_repository(tmp_path / "other", Mode.BARE_USER)
    assert apply(other, bundle, "--commit", second.hex()) != 0


def test_builds_that_no_pack_joins_are_refused(
    farm: Repository, builds: tuple[ObjectId, ObjectId], tmp_path: Path
) -> None:
    first, second = builds
    with pytest.raises(UserError, match="no packs lead"):
        export_bundle(farm, first, [second], tmp_path / "b")


def test_an_archive_applies_no_bundle(
    farm: Repository, builds: tuple[ObjectId, ObjectId], tmp_path: Path
) -> None:
    export_bundle(farm, builds[1], [builds[0]], tmp_path / "b")
    assert apply(farm, tmp_path / "b", "--unsigned") == 2
