"""Pull over packs: few requests where packs are honest, whole objects wherever they are not."""

import asyncio
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hacktree.client.packfetch import portions
from hacktree.client.pull import PullPlan, PullReport, PullResult
from hacktree.client.source import Traffic
from hacktree.common.delta.graph import Edge
from hacktree.common.delta.pack import PackHead
from hacktree.common.delta.streams import pack_blob
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import FileEntry
from hacktree.common.objects.walk import find_entry
from hacktree.common.repository.decoder_process import MAX_WANTED, OUTPUT
from hacktree.common.repository.decoding import PIECE
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.repository import Repository
from support.faulty_server import Exchange, faulty_server, replaced, status
from support.packmaking import Lies, change, change_edge, publish_packs
from support.pulling import assert_whole, make_repository, pull_from
from support.servers import hacktree_serving, nginx_serving
from support.trees import File, Spec, make_commit

Tree = dict[str | bytes, Spec]
NUMBERS = random.Random(1)
BULK = {f"usr/lib/{i}": NUMBERS.randbytes(30_000) for i in range(12)}
BULK["usr/lib/large"] = NUMBERS.randbytes(PIECE + 10_000)


def build(number: int) -> Tree:
    """Build `number`: all of the files in BULK change a little, and one is new."""
    tree: Tree = {"etc/same": b"same", "etc/empty": b""}
    for path, data in BULK.items():
        mark = f"build {number} {path}".encode()
        tree[path] = File(data[:9000] + mark + data[9000 + len(mark) :], 0o755)
    tree[f"new/{number}"] = f"new in {number}".encode() * 50
    return tree


def url_of(farm: Repository) -> str:
    return f"file://{farm.path}"


async def bring(farm: Repository, client: Repository, commit: ObjectId) -> None:
    """The client gets a build without packs."""
    await pull_from(client, url_of(farm), f"fastqa@{commit.hex()}")


async def two_builds(
    farm: Repository, client: Repository, lies: Lies | None = None
) -> tuple[ObjectId, list[Edge]]:
    """The client has build 1; build 2 and a pack are published."""
    first = make_commit(farm, build(1))
    await bring(farm, client, first)
    second = make_commit(farm, build(2))
    return second, publish_packs(farm, [(first, second)], lies)


def left_in_staging(client: Repository) -> list[Path]:
    return list(client.staging.rglob("*"))


@pytest.mark.parametrize("serving", [nginx_serving, hacktree_serving], ids=["nginx", "serve"])
async def test_an_upgrade_takes_at_most_eight_requests(
    farm: Repository, client: Repository, serving: Callable[..., Any]
) -> None:
    second, edges = await two_builds(farm, client)
    with serving(farm.path) as server:
        result, traffic = await pull_from(client, server.url)
        asked = [entry for entry in server.requests() if entry.agent == "hacktree"]
    assert result.packs.objects == len(BULK) + 1
    assert result.packs.notes == []
    assert result.totals.fetched_objects == 0
    assert assert_whole(client, second) == assert_whole(farm, second)
    assert len(asked) == traffic.requests <= 8
    assert {entry.status for entry in asked} == {200, 206}
    assert traffic.bytes < edges[0].length + 3000
    assert left_in_staging(client) == []


async def test_what_packs_brought_is_not_decoded_again_when_something_vanished(
    farm: Repository, client: Repository
) -> None:
    """A prune takes a file that both builds have; the second round fetches that one alone."""
    second, _ = await two_builds(farm, client)
    kept = find_entry(farm.load_tree, farm.load_commit(second).root.id, b"etc/same")
    assert isinstance(kept, FileEntry)
    path = client.content_path(kept)
    plans: list[PullPlan] = []

    class Prune(PullReport):
        def planned(self, plan: PullPlan) -> None:
            plans.append(plan)
            if len(plans) == 1:
                path.unlink()

    result, _ = await pull_from(client, url_of(farm), report=Prune())
    assert len(plans) == 2
    assert result.packs.objects == len(BULK) + 1
    assert result.totals.fetched_objects == 1
    assert assert_whole(client, second) == assert_whole(farm, second)


async def test_large_files_that_the_disk_has_leave_memory(
    farm: Repository, client: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade does not push out what the user works with; small files are not worth a call."""
    # Reached by the last frame.
    whole = sum(map(len, BULK.values()))
    monkeypatch.setattr("hacktree.client.packfetch._SYNC_BYTES", whole)
    second, _ = await two_builds(farm, client)
    result, _ = await pull_from(client, url_of(farm))
    assert result.packs.objects == len(BULK) + 1
    in_memory = {path: _bytes_in_memory(client, second, path) for path in BULK}
    assert in_memory.pop("usr/lib/large") == 0
    assert all(in_memory.values())
    assert assert_whole(client, second) == assert_whole(farm, second)


def _bytes_in_memory(repository: Repository, commit: ObjectId, path: str) -> int:
    entry = find_entry(repository.load_tree, repository.load_commit(commit).root.id, path.encode())
    assert isinstance(entry, FileEntry)
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES"]
    file = str(repository.content_path(entry))
    return int(subprocess.run([*command, file], capture_output=True, check=True).stdout)


async def test_nothing_new_takes_one_request(farm: Repository, client: Repository) -> None:
    await two_builds(farm, client)
    with nginx_serving(farm.path) as server:
        await pull_from(client, server.url)
        before = len(server.requests())
        await pull_from(client, server.url)
        assert len(server.requests()) == before + 1


async def test_a_route_of_several_packs_leaves_nothing_of_the_builds_between(
    farm: Repository, client: Repository
) -> None:
    commits = [make_commit(farm, build(number)) for number in range(1, 5)]
    await bring(farm, client, commits[0])
    publish_packs(farm, list(itertools.pairwise(commits)))
    result, _ = await pull_from(client, url_of(farm))
    assert result.packs.notes == []
    # What is small may be cheaper whole than by way of three packs.
    assert result.packs.objects > len(BULK) // 2
    assert result.packs.objects + result.totals.fetched_objects == len(BULK) + 1
    assert assert_whole(client, commits[-1]) == assert_whole(farm, commits[-1])
    between = farm.load_commit(commits[1]).root.id
    assert not client.has_meta(between)
    assert left_in_staging(client) == []


async def test_a_route_whose_last_pack_brings_little_is_taken(
    farm: Repository, client: Repository
) -> None:
    """What it brings is judged as a whole: the last step may be one small file."""
    commits = [make_commit(farm, build(number)) for number in range(1, 3)]
    await bring(farm, client, commits[0])
    tree = build(2)
    for number in range(3):
        tree[f"tiny/{number}"] = b"%d" % number
        commits.append(make_commit(farm, tree))
    publish_packs(farm, list(itertools.pairwise(commits)))
    with nginx_serving(farm.path) as server:
        result, traffic = await pull_from(client, server.url)
    assert result.packs.notes == []
    assert result.packs.objects > len(BULK) // 2
    assert traffic.requests < len(BULK)
    assert assert_whole(client, commits[-1]) == assert_whole(farm, commits[-1])


async def test_a_pack_serves_every_branch_that_has_its_tree(
    farm: Repository, client: Repository
) -> None:
    first = make_commit(farm, build(1))
    await bring(farm, client, first)
    other = make_commit(farm, build(2), branch="builds")
    publish_packs(farm, [(first, other)])
    result, _ = await pull_from(client, url_of(farm), "builds")
    assert result.packs.objects == len(BULK) + 1


async def test_one_content_under_two_owners_is_decoded_once(
    farm: Repository, client: Repository
) -> None:
    first = make_commit(farm, build(1))
    await bring(farm, client, first)
    tree = build(2)
    twin = tree["usr/lib/0"]
    assert isinstance(twin, File)
    second = make_commit(farm, {**tree, "usr/lib/twin": File(twin.data, 0o640)})
    publish_packs(farm, [(first, second)])
    result, _ = await pull_from(client, url_of(farm))
    assert result.packs.notes == []
    assert_whole(client, second)


async def without_ranges(exchange: Exchange) -> None:
    """A server that knows no ranges."""
    await exchange.send(f"HTTP/1.1 200 OK\nContent-Length: {len(exchange.body)}", exchange.body)


async def test_a_server_without_ranges_will_do(farm: Repository, client: Repository) -> None:
    second, edges = await two_builds(farm, client)
    async with faulty_server(farm.path) as server:
        server.always[f"packs/{edges[0].pack.hex()}"] = without_ranges
        result, _ = await pull_from(client, server.url)
    assert result.packs.notes == []
    assert result.packs.objects == len(BULK) + 1
    assert_whole(client, second)


async def test_planning_waits_for_no_frame_that_is_slow_to_come(
    farm: Repository, client: Repository
) -> None:
    second, edges = await two_builds(farm, client)
    planned = asyncio.Event()

    async def late(exchange: Exchange) -> None:
        if not exchange.headers["range"].startswith("bytes=0-"):
            await planned.wait()
        await without_ranges(exchange)

    class Tell(PullReport):
        def planned(self, plan: PullPlan) -> None:
            planned.set()

    async with faulty_server(farm.path) as server, asyncio.timeout(60):
        server.always[f"packs/{edges[0].pack.hex()}"] = late
        result, _ = await pull_from(client, server.url, report=Tell())
    assert result.packs.objects == len(BULK) + 1
    assert assert_whole(client, second) == assert_whole(farm, second)


def spoil(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def lie_about_metas(head: PackHead) -> PackHead:
    return change(head, metas=pack_blob(b"\x93\xa4tree\x01\x90" * 3))


def lie_about_sizes(head: PackHead) -> PackHead:
    frames = list(head.frames)
    frames[0] = type(frames[0])(frames[0].length, frames[0].digest, 1, 1)
    return change(head, frames=tuple(frames))


def bomb(head: PackHead) -> PackHead:
    return change(head, entries=pack_blob(bytes(30 << 20)))


LIES = {
    "frames of other bytes": Lies(served=spoil),
    "frames cut short": Lies(served=lambda data: data[: len(data) // 2]),
    "frames that are no frames": Lies(frame=lambda data: b"\x93" + bytes(len(data))),
    "objects of other bytes": Lies(new=lambda name, data: spoil(data)),
    "objects of another size": Lies(new=lambda name, data: data + b"more"),
    "fabricated trees": Lies(head=lie_about_metas),
    "sizes": Lies(head=lie_about_sizes),
    "an index that is a bomb": Lies(head=bomb),
    "head length": Lies(edge=lambda edge: change_edge(edge, head_length=edge.head_length - 1)),
    "the pack's name": Lies(edge=lambda edge: change_edge(edge, pack=hash_bytes(b"none"))),
    "length": Lies(edge=lambda edge: change_edge(edge, length=edge.head_length)),
    "the tree it starts from": Lies(head=lambda head: change(head, from_tree=hash_bytes(b"x"))),
}


@pytest.mark.parametrize("lies", LIES.values(), ids=LIES.keys())
async def test_a_lying_pack_costs_bandwidth_and_nothing_else(
    lies: Lies, farm: Repository, client: Repository
) -> None:
    second, _ = await two_builds(farm, client, lies)
    result, _ = await pull_from(client, url_of(farm))
    assert assert_whole(client, second) == assert_whole(farm, second)
    assert result.packs.objects + result.totals.fetched_objects == len(BULK) + 1
    assert result.packs.notes or lies is LIES["length"]
    assert left_in_staging(client) == []


async def pull_with_faults(
    farm: Repository, client: Repository, faults: dict[str, bytes | None]
) -> tuple[PullResult, Traffic]:
    """Pull while these paths are replaced, or (None) gone."""
    async with faulty_server(farm.path) as server:
        for path, body in faults.items():
            gone = status("404 Not Found")
            server.always[path] = gone if body is None else replaced(body)
        return await pull_from(client, server.url)


@pytest.mark.parametrize("body", [None, b"", b"junk", bytes(300_000)], ids=repr)
async def test_without_a_sound_graph_objects_are_fetched_whole(
    body: bytes | None, farm: Repository, client: Repository
) -> None:
    second, _ = await two_builds(farm, client)
    result, _ = await pull_with_faults(farm, client, {"graph/tail": body})
    assert result.packs.objects == 0
    assert_whole(client, second)


async def test_a_pack_that_is_gone_is_done_without(farm: Repository, client: Repository) -> None:
    second, edges = await two_builds(farm, client)
    path = f"packs/{edges[0].pack.hex()}"
    result, _ = await pull_with_faults(farm, client, {path: None})
    assert result.packs.objects == 0
    assert any("no such file" in note for note in result.packs.notes)
    assert_whole(client, second)


async def test_when_a_pack_is_gone_another_route_is_taken(
    farm: Repository, client: Repository
) -> None:
    commits = [make_commit(farm, build(number)) for number in range(1, 4)]
    await bring(farm, client, commits[0])
    direct, *steps = publish_packs(farm, [(commits[0], commits[2]), *itertools.pairwise(commits)])
    for gone in ([direct], [direct, steps[1]]):
        result, _ = await pull_with_faults(
            farm, client, {f"packs/{edge.pack.hex()}": None for edge in gone}
        )
        assert any("no such file" in note for note in result.packs.notes)
        assert (result.packs.objects > 0) == (len(gone) == 1)
        assert_whole(client, commits[2])
        client = make_repository(client.path.with_name("another"), Mode.BARE_USER)
        await bring(farm, client, commits[0])


async def test_a_damaged_local_base_is_blamed_and_not_the_pack(
    farm: Repository, client: Repository
) -> None:
    second, _ = await two_builds(farm, client)
    damaged = next(p for p in client.objects.glob("*/*.0755.file"))
    os.chmod(damaged, 0o755)
    damaged.write_bytes(spoil(damaged.read_bytes()))
    result, _ = await pull_from(client, url_of(farm))
    assert result.packs.objects == len(BULK)
    assert result.totals.fetched_objects == result.packs.missed == 1
    (note,) = result.packs.notes
    assert "fsck --repair" in note
    assert_whole(client, second)


def test_the_command_says_that_deltas_were_of_no_use(farm: Repository, client: Repository) -> None:
    asyncio.run(two_builds(farm, client))
    for base in client.objects.glob("*/*.0755.file"):
        base.write_bytes(spoil(base.read_bytes()))
    program = "from hacktree.common.cli.main import main; exit(main())"
    command = [sys.executable, "-c", program, "--repo", str(client.path)]
    remote = ["remote", "add", "farm", url_of(farm), "--unsigned"]
    subprocess.run([*command, *remote], check=True, capture_output=True)
    pull = [*command, "pull", "farm:fastqa"]
    told = subprocess.run(pull, check=True, capture_output=True, text=True).stdout
    assert f"  {len(BULK)} of them were to come by delta: --verbose says why not" in told


async def test_a_graph_of_cycles_ends(farm: Repository, client: Repository) -> None:
    commits = [make_commit(farm, build(number)) for number in range(1, 4)]
    await bring(farm, client, commits[0])
    first, second, third = commits
    publish_packs(farm, [(second, third), (third, second), (second, first)])
    result, _ = await pull_from(client, url_of(farm))
    assert result.packs.objects == 0
    assert_whole(client, third)


async def test_what_a_killed_pull_left_is_not_fetched_again(
    farm: Repository, client: Repository
) -> None:
    second, edges = await two_builds(farm, client)
    pack = farm.path / "packs" / edges[0].pack.hex()
    frames = pack.read_bytes()[edges[0].head_length :]
    staging = client.staging / "pull-0"
    staging.mkdir(mode=0o700)
    half = len(frames) // 30
    (staging / f"frame-{edges[0].pack.hex()[:16]}-0").write_bytes(frames[:half])
    with nginx_serving(farm.path) as server:
        result, traffic = await pull_from(client, server.url)
    assert result.packs.notes == []
    assert result.packs.objects == len(BULK) + 1
    assert traffic.bytes < edges[0].length + 3000 - half
    assert_whole(client, second)


@given(
    st.lists(st.integers(0, OUTPUT * 3 // 2), max_size=40), st.integers(1, 30), st.integers(1, 3)
)
def test_jobs_have_what_a_decoder_takes_at_once(few: list[int], times: int, step: int) -> None:
    """In order, each entry once; an entry that is larger than an output by itself."""
    sizes = few * times
    entries = range(0, len(sizes), step)
    jobs = list(portions(entries, sizes))
    assert [entry for job in jobs for entry in job] == list(entries)
    for job in jobs:
        assert 0 < len(job) <= MAX_WANTED
        assert len(job) == 1 or sum(sizes[entry] for entry in job) <= OUTPUT
    for job, following in itertools.pairwise(jobs):
        whole = [*job, following[0]]
        assert len(whole) > MAX_WANTED or sum(sizes[entry] for entry in whole) > OUTPUT
