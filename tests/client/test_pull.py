"""Pull: only what is missing travels, nothing unverified is kept, whatever the source."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from hacktree.client.plan import LARGE_FILE, Progress
from hacktree.client.pull import PullPlan, PullReport
from hacktree.client.source import NotServedError, SourceError, WrongBytesError
from hacktree.client.staging import take_staging
from hacktree.client.target import NotInHistoryError, WrongBranchError
from hacktree.common.errors import SpaceError, UserError
from hacktree.common.objects.commit import Commit, RootDirectory, Totals, encode_commit
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import DirectoryEntry, FileEntry, Tree, encode_tree
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.objectnames import archive_name, meta_name
from hacktree.common.repository.refs import read_ref
from hacktree.common.repository.repository import Repository, open_repository
from support.faulty_server import faulty_server, replaced
from support.pulling import assert_whole, make_repository, pull_from
from support.servers import RunningServer, hacktree_serving, nginx_serving
from support.trees import Directory, File, Spec, Symlink, make_commit

LARGE = os.urandom(64) * (LARGE_FILE // 64 + 1000)
ACL = bytes.fromhex("0200000001000600ffffffff02000500e803000004000400ffffffff10000500ffffffff")
ACL += bytes.fromhex("20000000ffffffff")
"""user::rw-, user:1000:r-x, group::r--, mask::r-x, other::---"""

TREE: dict[str | bytes, Spec] = {
    "etc/empty": b"",
    "etc/motd": b"hello",
    "etc/shared": File(b"shared", 0o650, xattrs=(("system.posix_acl_access", ACL),)),
    "usr/bin/tool": File(b"\x7fELF", 0o4755),
    "usr/bin/wall": File(b"wall", 0o2755, 0, 5),
    "usr/bin/link": Symlink(b"tool"),
    b"usr/\xff": File(b"odd", xattrs=(("user.note", b"1"),)),
    "usr/lib/large": LARGE,
    "var": Directory(0o1777),
}
CHANGED: dict[str | bytes, Spec] = {**TREE, "etc/motd": b"hello again"}
CHMOD: dict[str | bytes, Spec] = {**TREE, "etc/motd": File(b"hello", 0o600)}
FILES = 7


@pytest.fixture(
    params=["nginx", "serve", "archive directory", "bare directory", "bare-user directory"]
)
def origin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Repository, str]]:
    """A publishing repository and its URL: the contract below holds for every source."""
    modes = {"bare directory": Mode.BARE, "bare-user directory": Mode.BARE_USER}
    repository = make_repository(tmp_path / "origin", modes.get(request.param, Mode.ARCHIVE))
    servers: dict[str, Callable[[Path], AbstractContextManager[RunningServer]]] = {
        "nginx": nginx_serving,
        "serve": hacktree_serving,
    }
    if request.param in servers:
        with servers[request.param](repository.path) as server:
            yield repository, server.url
    else:
        yield repository, f"file://{repository.path}"


@pytest.fixture(params=list(Mode), ids=lambda mode: mode.value)
def mirror(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "mirror", request.param)


def objects_of(repository: Repository) -> set[str]:
    return {f"{p.parent.name}/{p.name}" for p in repository.objects.glob("*/*")}


async def test_a_pulled_commit_is_whole_and_its_ref_moves(
    origin: tuple[Repository, str], mirror: Repository
) -> None:
    publisher, url = origin
    head = make_commit(publisher, TREE)
    result, _ = await pull_from(mirror, url)
    assert result.target.id == head
    assert assert_whole(mirror, head) == assert_whole(publisher, head)
    assert read_ref(mirror, "remotes/farm/fastqa") == head
    assert list(mirror.staging.iterdir()) == []


async def test_only_what_is_missing_is_fetched(
    origin: tuple[Repository, str], mirror: Repository
) -> None:
    publisher, url = origin
    make_commit(publisher, TREE)
    await pull_from(mirror, url)
    head = make_commit(publisher, CHANGED)
    result, _ = await pull_from(mirror, url)
    assert result.totals.fetched_objects + result.totals.linked_objects == 1
    assert result.reused_files == FILES - 1
    assert result.trees_fetched == 2
    assert_whole(mirror, head)


async def test_a_chmod_downloads_no_content(
    origin: tuple[Repository, str], mirror: Repository
) -> None:
    publisher, url = origin
    make_commit(publisher, TREE)
    await pull_from(mirror, url)
    head = make_commit(publisher, CHMOD)
    result, _ = await pull_from(mirror, url)
    assert result.totals.fetched_objects == 0
    assert_whole(mirror, head)


async def test_pulling_again_does_nothing_unless_an_object_is_gone(
    origin: tuple[Repository, str], mirror: Repository
) -> None:
    publisher, url = origin
    head = make_commit(publisher, TREE)
    await pull_from(mirror, url)
    result, traffic = await pull_from(mirror, url)
    assert result.was_complete
    assert traffic.requests <= 3
    entry = FileEntry(b"", 0o644, 0, 0, (), hash_bytes(b"hello"), 5)
    mirror.content_path(entry).unlink()
    result, _ = await pull_from(mirror, url)
    assert not result.was_complete
    assert_whole(mirror, head)


async def test_an_older_build_is_found_through_the_chain(
    origin: tuple[Repository, str], mirror: Repository
) -> None:
    publisher, url = origin
    ids = [make_commit(publisher, {"f": b"%d" % i}, time=86400 * i + 5) for i in range(1, 6)]
    for wanted, expected in {
        "fastqa~0": ids[4],
        "fastqa~4": ids[0],
        f"fastqa@{ids[1].hex()}": ids[1],
        f"fastqa@{ids[2].hex()[:10]}": ids[2],
        "farm:fastqa@1970-01-03": ids[1],
        "fastqa@1970-01-03T00:00:04": ids[0],
    }.items():
        result, _ = await pull_from(mirror, url, wanted)
        assert result.target.id == expected, wanted
        assert_whole(mirror, expected)
    for absent in ("fastqa~5", f"fastqa@{'0' * 64}", "fastqa@1970-01-01"):
        with pytest.raises(NotInHistoryError):
            await pull_from(mirror, url, absent)


@pytest.mark.parametrize("text", ["", "A", "fastqa@", "fastqa@zz", "fastqa~x", "a:b:c", "x@12"])
async def test_a_malformed_wish_is_refused(text: str, mirror: Repository) -> None:
    with pytest.raises(UserError):
        await pull_from(mirror, "file:///nowhere", text)


async def test_a_missing_branch_is_named(
    origin: tuple[Repository, str], mirror: Repository
) -> None:
    with pytest.raises(NotServedError, match="refs/absent"):
        await pull_from(mirror, origin[1], "absent")


async def test_anothers_commit_is_not_accepted_for_a_branch(
    origin: tuple[Repository, str], mirror: Repository
) -> None:
    publisher, url = origin
    make_commit(publisher, TREE, branch="dailyqa")
    (publisher.path / "refs/fastqa").write_bytes((publisher.path / "refs/dailyqa").read_bytes())
    with pytest.raises(WrongBranchError, match="dailyqa"):
        await pull_from(mirror, url)
    assert objects_of(mirror) == set()


async def test_a_reference_spares_the_remote(tmp_path: Path, mirror: Repository) -> None:
    publisher = make_repository(tmp_path / "origin")
    head = make_commit(publisher, TREE)
    near = make_repository(tmp_path / "near", Mode.BARE_USER)
    await pull_from(near, f"file://{publisher.path}")
    with nginx_serving(publisher.path) as server:
        _, traffic = await pull_from(mirror, server.url, references=(near.path,))
    assert traffic.requests == 2, "the ref and the commit"
    assert_whole(mirror, head)


async def test_a_damaged_reference_only_means_a_download(
    tmp_path: Path, mirror: Repository
) -> None:
    publisher = make_repository(tmp_path / "origin")
    head = make_commit(publisher, TREE)
    near = make_repository(tmp_path / "near")
    await pull_from(near, f"file://{publisher.path}")
    for path in near.objects.glob("*/*"):
        path.unlink()
        path.write_bytes(b"damaged")
    result, _ = await pull_from(mirror, f"file://{publisher.path}", references=(near.path,))
    assert_whole(mirror, head)
    assert result.totals.fetched_objects + result.totals.linked_objects >= FILES - 1


@pytest.mark.parametrize("data", [b"hello", LARGE])
async def test_a_corrupt_content_publishes_nothing(
    data: bytes, tmp_path: Path, mirror: Repository
) -> None:
    publisher = make_repository(tmp_path / "origin")
    head = make_commit(publisher, TREE)
    other = archive_name(hash_bytes(b"\x7fELF"))
    path = f"objects/{archive_name(hash_bytes(data))}"
    async with faulty_server(publisher.path) as server:
        server.always[path] = replaced((publisher.objects / other).read_bytes())
        with pytest.raises(WrongBytesError, match=path) as info:
            await pull_from(mirror, server.url)
        assert info.value.exit_code == 4
        assert objects_of(mirror) == set()
        assert read_ref(mirror, "remotes/farm/fastqa") is None
        server.always.clear()
        await pull_from(mirror, server.url)
    assert_whole(mirror, head)


@pytest.mark.parametrize("claimed", ["tree", "commit"])
async def test_a_corrupt_meta_publishes_nothing(
    claimed: str, tmp_path: Path, mirror: Repository
) -> None:
    publisher = make_repository(tmp_path / "origin")
    head = make_commit(publisher, TREE)
    root = publisher.load_commit(head).root
    path = f"objects/{meta_name(root.id if claimed == 'tree' else head)}"
    async with faulty_server(publisher.path) as server:
        server.always[path] = replaced(bytes(root.size))
        with pytest.raises(WrongBytesError, match=path):
            await pull_from(mirror, server.url)
    assert objects_of(mirror) == set()


def publish_raw(repository: Repository, trees: list[bytes], totals: Totals) -> ObjectId:
    """Publish a commit whose trees nobody has checked; the first is its root."""
    for data in trees:
        path = repository.objects / meta_name(hash_bytes(data))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    root = RootDirectory(hash_bytes(trees[0]), len(trees[0]), 0o755, 0, 0, ())
    commit = Commit(1, root, (), 1, "fastqa", "", 1, "", "", "", totals, {})
    data = encode_commit(commit)
    path = repository.objects / meta_name(hash_bytes(data))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    (repository.path / "refs/fastqa").write_text(f"{hash_bytes(data).hex()}\n")
    return hash_bytes(data)


def nested(depth: int) -> list[bytes]:
    trees = [encode_tree(Tree(1, ()))]
    for _ in range(depth):
        below = trees[0]
        entry = DirectoryEntry(b"d", 0o755, 0, 0, (), hash_bytes(below), len(below))
        trees.insert(0, encode_tree(Tree(1, (entry,))))
    return trees


_FILE = FileEntry(b"name", 0o644, 0, 0, (), hash_bytes(b"x"), 1)
_ONE = encode_tree(Tree(1, (_FILE,)))


@pytest.mark.parametrize(
    ("trees", "totals"),
    [
        ([_ONE.replace(b"\xc4\x04name", b"\xc4\x02..")], Totals(1, 0, 0, 1)),
        ([_ONE.replace(b"\xc4\x04name", b"\xc4\x04a/me")], Totals(1, 0, 0, 1)),
        ([_ONE.replace(b"\xc4\x04name", b"\xc4\x04a\0me")], Totals(1, 0, 0, 1)),
        ([_ONE], Totals(1, 0, 0, 2)),
        ([_ONE], Totals(0, 0, 0, 0)),
        (nested(300), Totals(0, 300, 0, 0)),
        (nested(5), Totals(0, 3, 0, 0)),
        ([b"\x93\xa4tree\x01\xc0"], Totals(0, 0, 0, 0)),
    ],
    ids=["dotdot", "slash", "nul", "bytes lie", "files lie", "deep", "more trees", "not a tree"],
)
async def test_a_hostile_tree_is_refused_whole(
    trees: list[bytes], totals: Totals, tmp_path: Path, mirror: Repository
) -> None:
    publisher = make_repository(tmp_path / "origin")
    publish_raw(publisher, trees, totals)
    with pytest.raises(SourceError) as info:
        await pull_from(mirror, f"file://{publisher.path}")
    assert info.value.exit_code == 4
    assert objects_of(mirror) == set()


class _Interference(PullReport):
    """Deletes an object once, right after the plan was made."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def planned(self, plan: PullPlan) -> None:
        self._path.unlink(missing_ok=True)


async def test_what_a_prune_takes_during_the_pull_is_fetched_again(
    tmp_path: Path, mirror: Repository
) -> None:
    publisher = make_repository(tmp_path / "origin")
    make_commit(publisher, TREE)
    await pull_from(mirror, f"file://{publisher.path}")
    head = make_commit(publisher, CHANGED)
    entry = FileEntry(b"", 0o4755, 0, 0, (), hash_bytes(b"\x7fELF"), 4)
    plans: list[PullPlan] = []

    class Once(_Interference):
        def planned(self, plan: PullPlan) -> None:
            plans.append(plan)
            if len(plans) == 1:
                super().planned(plan)

    report = Once(mirror.content_path(entry))
    await pull_from(mirror, f"file://{publisher.path}", report=report)
    assert len(plans) == 2
    assert_whole(mirror, head)


async def test_too_small_a_disk_is_refused_before_anything_is_fetched(
    tmp_path: Path, mirror: Repository
) -> None:
    publisher = make_repository(tmp_path / "origin")
    make_commit(publisher, TREE)
    (mirror.path / "config.toml").write_text('min-free-space = "900TB"\n')
    with pytest.raises(SpaceError, match="needed"):
        await pull_from(open_repository(mirror.path), f"file://{publisher.path}")
    assert objects_of(mirror) == set()


class _Interrupted(Exception):
    pass


class _InterruptAtTheEnd(PullReport):
    def progressed(self, progress: Progress) -> None:
        if progress.objects_done == progress.objects_total:
            raise _Interrupted


@pytest.mark.parametrize("mode", [0o000, 0o111, 0o444, 0o644])
@pytest.mark.parametrize("kind", [Mode.BARE, Mode.BARE_USER])
def test_an_interrupted_content_can_be_read_by_its_owner(
    mode: int, kind: Mode, tmp_path: Path
) -> None:
    """Whoever is not root could not even judge it, if it already had a mode that is closed."""
    with take_staging(make_repository(tmp_path / "mirror", kind)) as staging:
        entry = FileEntry(b"shadow", mode, 0, 0, (), hash_bytes(LARGE), len(LARGE))

        def chunks() -> Iterator[bytes]:
            yield LARGE[:1000]
            (path,) = staging.directory.glob(f"{hash_bytes(LARGE).hex()}.*")
            assert path.stat().st_mode & 0o600 == 0o600
            yield LARGE[1000:]

        staging.store_chunks(entry, chunks())
        staging.check_content(entry)


async def test_staged_leftovers_are_rehashed_and_the_sound_ones_kept(
    tmp_path: Path, mirror: Repository
) -> None:
    publisher = make_repository(tmp_path / "origin")
    head = make_commit(publisher, TREE)
    async with faulty_server(publisher.path) as server:
        with pytest.raises(_Interrupted):
            await pull_from(mirror, server.url, report=_InterruptAtTheEnd())
        assert objects_of(mirror) == set()
        (damaged,) = mirror.staging.glob(f"pull-0/{hash_bytes(b'hello').hex()}.*")
        damaged.write_bytes(b"damaged")
        result, _ = await pull_from(mirror, server.url)
    assert result.totals.recovered_objects == FILES - 2, "all but the damaged and the empty one"
    assert result.totals.fetched_objects == 1
    assert result.trees_fetched == 0
    assert_whole(mirror, head)
