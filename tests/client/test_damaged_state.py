"""Promise: a byte of a small file that turns costs what the file was for, or is named; no more."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hacktree.client.bisect.farm.graphcache import read_graph_kept
from hacktree.client.bisect.farm.transfers import read_trees
from hacktree.client.edits.kept import read_kept
from hacktree.client.inventory import is_known_complete
from hacktree.client.replay.cache import read_entry
from hacktree.client.roots import read_order
from hacktree.client.sysroot import Sysroot
from hacktree.common.errors import CorruptError
from hacktree.common.objects.ids import EMPTY_FILE_ID
from hacktree.common.repository.packs import delete_retired
from support.sysroots import make_sysroot

TURNED = b'{"\xff": "not UTF-8"}'
KEPT = b'{"root": "\xff", "digest": ""}'
PACKED = b"\x92\xc4\x01x\x91\x93\xa2\xff\xff\x00\x00"

Use = Callable[[Sysroot], object]


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    return make_sysroot(tmp_path)


def damage(sysroot: Sysroot, name: str, data: bytes) -> Path:
    path = sysroot.repository.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "data", "use", "nothing"),
    [
        ("state/bisect/builds.zst", TURNED, lambda s: read_trees(s.repository), {}),
        ("state/bisect/graph.zst", TURNED, lambda s: read_graph_kept(s.repository, ()), ()),
        ("kept/a/changes.json", KEPT, lambda s: read_kept(s.repository.path / "kept/a"), None),
        ("cache/a/entry.json", TURNED, lambda s: read_entry(s.repository.path / "cache/a"), None),
        ("state/retired", TURNED, lambda s: delete_retired(s.repository, 0, 0), []),
        (
            "state/complete.msgpack",
            PACKED,
            lambda s: is_known_complete(s.repository, EMPTY_FILE_ID),
            False,
        ),
    ],
)
def test_what_can_be_made_again_is(
    sysroot: Sysroot, name: str, data: bytes, use: Use, nothing: object
) -> None:
    damage(sysroot, name, data)
    assert use(sysroot) == nothing


def test_what_can_not_is_named(sysroot: Sysroot) -> None:
    path = damage(sysroot, "state/deployments.json", b'["\xff"]')
    with pytest.raises(CorruptError, match="is damaged") as caught:
        read_order(sysroot)
    assert str(path) in caught.value.message
