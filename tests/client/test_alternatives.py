"""Files that can be compressed again come in one range, whatever the machine prefers or can do."""

import gzip
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pytest
from msgspec.structs import replace

from hacktree.client.packfetch import least_bytes
from hacktree.client.packs import JoinedPack, decodable_kinds, read_conformance
from hacktree.common.delta.contents import compare_trees
from hacktree.common.delta.entry import EntryKind
from hacktree.common.delta.pack import MAX_FRAME_LENGTH, decode_entries
from hacktree.common.delta.plan import join_trees
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.packing import Encoders, PackReport, make_pack
from hacktree.common.repository.packreading import summarise_pack
from hacktree.common.repository.packs import pack_path, read_head
from hacktree.common.repository.repository import Repository, open_repository
from support.pulling import assert_whole, make_repository
from support.servers import RunningServer, hacktree_program, nginx_serving
from support.trees import Spec
from support.trusting import SignedFarm, trusting_remote

NUMBERS = random.Random(3)
WORDS = [NUMBERS.randbytes(NUMBERS.randrange(2, 9)).hex().encode() for _ in range(5000)]
SIZES = {"usr/share/large.gz": 200_000, "usr/share/small.gz": 3_000, "usr/share/some.gz": 20_000}
TEXTS = {path: b" ".join(NUMBERS.choices(WORDS, k=count)) for path, count in SIZES.items()}
DENSE = NUMBERS.randbytes(1_500_000)


def build(number: int) -> dict[str | bytes, Spec]:
    """Compressed files that differ from their first byte on, a plain one, and one of noise."""
    tree: dict[str | bytes, Spec] = {
        path: gzip.compress(b"build %d " % number + text, 9, mtime=0)
        for path, text in TEXTS.items()
    }
    dense = DENSE if number == 1 else DENSE[::-1]
    return {**tree, "usr/bin/tool": b"tool %d " % number + WORDS[0] * 400, "usr/share/dense": dense}


@dataclass
class Upgrade:
    """A machine that has the first of two signed builds, and the pack between them."""

    farm: Repository
    machine: Repository
    server: RunningServer
    wanted: ObjectId
    report: PackReport

    def pull(self, prefer: str, *, compresses: bool = True) -> list[str]:
        """What a copy of the machine asks for until it has the second build."""
        copy = self.machine.path.with_name("copy")
        shutil.copytree(self.machine.path, copy, symlinks=True)
        machine = open_repository(copy)
        if not compresses:
            told = dict.fromkeys(read_conformance(machine), False)
            (machine.state / "conformance.json").write_bytes(msgspec.json.encode(told))
        before = len(self.server.requests())
        pull(machine, "--prefer", prefer)
        assert assert_whole(machine, self.wanted) == assert_whole(self.farm, self.wanted)
        shutil.rmtree(copy)
        return [f"{asked.status} {asked.path}" for asked in self.server.requests()[before:]]


def pull(repository: Repository, *words: str) -> None:
    command = [hacktree_program(), "--repo", str(repository.path), "pull", "-q", *words, "builds"]
    subprocess.run(command, check=True)


@pytest.fixture(scope="module")
def upgrade(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgrade]:
    place = tmp_path_factory.mktemp("upgrade")
    farm = make_repository(place / "farm")
    signed = SignedFarm(farm)
    first = signed.commit(build(1))
    with nginx_serving(farm.path) as server:
        machine = make_repository(place / "machine", Mode.BARE_USER)
        trusting_remote(machine, signed, server.url)
        pull(machine)
        # It is no beginner: it knows what its compressors make.
        assert set(decodable_kinds(machine)) == set(EntryKind)
        second = signed.commit(build(2))
        old, new = (farm.load_commit(commit).root.id for commit in (first, second))
        yield Upgrade(farm, machine, server, second, make_pack(farm, old, new, Encoders(2)))


def test_a_head_can_not_make_an_object_dear(upgrade: Upgrade) -> None:
    """One that lies about a frame's bytes would else have them fetched instead of the object."""
    farm, edge = upgrade.farm, upgrade.report.edge
    head = read_head(farm, edge)
    trees = compare_trees(farm.load_tree, edge.old, edge.new)
    entries = decode_entries(head, len(trees.targets), len(trees.bases))
    honest = least_bytes(
        [JoinedPack(edge, join_trees(head, edge.head_length, entries, trees), b"")]
    )
    frames = tuple(replace(frame, length=MAX_FRAME_LENGTH) for frame in head.frames)
    liar = join_trees(replace(head, frames=frames), edge.head_length, entries, trees)
    assert least_bytes([JoinedPack(edge, liar, b"")]).keys() == honest.keys()
    for name, least in least_bytes([JoinedPack(edge, liar, b"")]).items():
        assert honest[name] <= least <= trees.sizes[name] + 64


def test_an_edge_counts_no_alternatives(upgrade: Upgrade) -> None:
    """They stand behind all else: the route's cost is that of those who count bytes."""
    report, edge = upgrade.report, upgrade.report.edge
    assert report.kinds == {"delta": 1, "full": 4, "member": 3}
    assert report.left_out == []
    files = assert_whole(upgrade.farm, upgrade.wanted)
    assert (edge.entries, edge.decoded) == (len(files), sum(map(len, files.values())))
    whole = pack_path(upgrade.farm, edge.pack).stat().st_size
    assert whole == edge.length + report.alternatives
    assert report.alternatives > 2 * (edge.length - len(DENSE))
    assert summarise_pack(upgrade.farm, edge)["alternatives-bytes"] == report.alternatives


@pytest.mark.parametrize("compresses", [True, False], ids=["compresses", "differs"])
@pytest.mark.parametrize("prefer", ["auto", "bytes", "time"])
def test_a_signed_upgrade_takes_eight_requests(
    upgrade: Upgrade, prefer: str, *, compresses: bool
) -> None:
    """Trust, commit, graph, the pack's head and one range; no object by itself."""
    asked = upgrade.pull(prefer, compresses=compresses)
    assert len(asked) == 8, "\n".join(asked)
    assert [line for line in asked if "/objects/" in line and ".file" in line] == []
    assert sum("/packs/" in line for line in asked) == 2
