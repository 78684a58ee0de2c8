"""Frozen encodings: what was published stays readable, and ids never change.

tests/vectors/README.md says how the files are written. Nothing here or elsewhere writes them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hacktree.common.delta.graph import (
    MAX_SEGMENT_SIZE,
    Edge,
    Segment,
    decode_segment,
    encode_segment,
)
from hacktree.common.delta.pack import (
    FrameInfo,
    PackEntries,
    PackHead,
    decode_entries,
    decode_head,
    encode_entries,
    encode_head,
    metas_context,
    read_metas,
)
from hacktree.common.delta.streams import Blob, Method
from hacktree.common.objects.attributes import Xattrs
from hacktree.common.objects.commit import (
    Commit,
    RootDirectory,
    Totals,
    decode_commit,
    encode_commit,
)
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.history import HistoryPage, decode_page, encode_page
from hacktree.common.objects.ids import hash_bytes, parse_object_id
from hacktree.common.objects.tree import (
    DirectoryEntry,
    Entry,
    FileEntry,
    SymlinkEntry,
    Tree,
    decode_tree,
    encode_tree,
)
from hacktree.common.objects.zstandard import decompress_bounded

VECTORS = Path(__file__).resolve().parent.parent / "vectors"


def _decode_entries(data: bytes) -> PackEntries:
    """The columns of a pack of one frame, between trees with 50 targets and 60 bases."""
    nothing = Blob(Method.STORED, 0, b"")
    frames = (FrameInfo(1, hash_bytes(b""), 1, 0),)
    entries = Blob(Method.STORED, len(data), data)
    head = PackHead(1, b"", hash_bytes(b""), 1, b"", nothing, frames, entries, nothing)
    return decode_entries(head, 50, 60)


DECODERS: dict[str, Callable[[bytes], object]] = {
    "tree": decode_tree,
    "commit": decode_commit,
    "history": decode_page,
    "pack": lambda data: decode_head(data, hash_bytes(data)),
    "entries": _decode_entries,
    "graph": decode_segment,
}


def _files(directory: str) -> list[Any]:
    found = sorted((VECTORS / directory).glob("*.json"))
    assert found, f"no vectors in {directory}"
    return [pytest.param(path, id=path.stem) for path in found]


def _read(path: Path) -> dict[str, Any]:
    vector: dict[str, Any] = json.loads(path.read_text(encoding="ascii"))
    return vector


def _bytes(lines: list[str]) -> bytes:
    return bytes.fromhex("".join(lines))


def _xattrs(pairs: list[list[str]]) -> Xattrs:
    return tuple((name, bytes.fromhex(value)) for name, value in pairs)


def _entry(fields: dict[str, Any]) -> Entry:
    name = fields["name"].encode("latin-1")
    uid, gid = fields["uid"], fields["gid"]
    if fields["kind"] == "symlink":
        target = fields["target"].encode("latin-1")
        return SymlinkEntry(name=name, uid=uid, gid=gid, target=target)
    kinds: dict[str, type[FileEntry | DirectoryEntry]]
    kinds = {"file": FileEntry, "directory": DirectoryEntry}
    return kinds[fields["kind"]](
        name=name,
        mode=int(fields["mode"], 8),
        uid=uid,
        gid=gid,
        xattrs=_xattrs(fields["xattrs"]),
        id=parse_object_id(fields["id"]),
        size=fields["size"],
    )


def _tree(fields: dict[str, Any]) -> Tree:
    return Tree(version=fields["version"], entries=tuple(map(_entry, fields["entries"])))


def _commit(fields: dict[str, Any]) -> Commit:
    root = fields["root"]
    return Commit(
        **{
            **fields,
            "root": RootDirectory(
                id=parse_object_id(root["id"]),
                size=root["size"],
                mode=int(root["mode"], 8),
                uid=root["uid"],
                gid=root["gid"],
                xattrs=_xattrs(root["xattrs"]),
            ),
            "parents": tuple(map(parse_object_id, fields["parents"])),
            "totals": Totals(**fields["totals"]),
        }
    )


def _page(fields: dict[str, Any]) -> HistoryPage:
    return HistoryPage(
        format=fields["format"],
        commits=tuple(map(bytes.fromhex, fields["commits"])),
        older=bytes.fromhex(fields["older"]),
    )


def _blob(fields: dict[str, Any]) -> Blob:
    return Blob(fields["method"], fields["length"], bytes.fromhex(fields["data"]))


def _frame(fields: dict[str, Any]) -> FrameInfo:
    return FrameInfo(**{**fields, "digest": parse_object_id(fields["digest"])})


def _head(fields: dict[str, Any]) -> PackHead:
    return PackHead(
        format=1,
        from_tree=bytes.fromhex(fields["from"]),
        to_tree=parse_object_id(fields["to"]),
        to_size=fields["to_size"],
        dictionary=bytes.fromhex(fields["dictionary"]),
        shared=_blob(fields["shared"]),
        frames=tuple(map(_frame, fields["frames"])),
        entries=_blob(fields["entries"]),
        metas=_blob(fields["metas"]),
    )


def _edge(fields: dict[str, Any]) -> Edge:
    old = fields["old"]
    ids = {
        "old": None if old is None else parse_object_id(old),
        "new": parse_object_id(fields["new"]),
        "pack": parse_object_id(fields["pack"]),
    }
    return Edge(**{**fields, **ids})


def _segment(fields: dict[str, Any]) -> Segment:
    older = parse_object_id(fields["older"]) if fields["older"] else None
    return Segment(tuple(map(_edge, fields["edges"])), older)


@pytest.mark.parametrize("path", _files("tree"))
def test_trees(path: Path) -> None:
    """The bytes decode to the value, the value encodes to the bytes, the id is theirs."""
    vector = _read(path)
    encoded, value = _bytes(vector["encoded"]), _tree(vector["value"])
    assert decode_tree(encoded) == value
    assert encode_tree(value) == encoded
    assert hash_bytes(encoded) == parse_object_id(vector["id"])


@pytest.mark.parametrize("path", _files("commit"))
def test_commits(path: Path) -> None:
    """The bytes decode to the value, the value encodes to the bytes, the id is theirs."""
    vector = _read(path)
    encoded, value = _bytes(vector["encoded"]), _commit(vector["value"])
    assert decode_commit(encoded) == value
    assert encode_commit(value) == encoded
    assert hash_bytes(encoded) == parse_object_id(vector["id"])


@pytest.mark.parametrize("path", _files("history"))
def test_history_pages(path: Path) -> None:
    """The bytes decode to the value and the value encodes to the bytes."""
    vector = _read(path)
    encoded, value = _bytes(vector["encoded"]), _page(vector["value"])
    assert decode_page(encoded) == value
    assert encode_page(value) == encoded
    assert hash_bytes(encoded) == parse_object_id(vector["id"])


@pytest.mark.parametrize("path", _files("pack"))
def test_pack_heads(path: Path) -> None:
    """The bytes decode to the value and the value encodes to the bytes; so do its entries; its
    trees are those that the new tree reaches and the old one lacks.
    """
    vector = _read(path)
    encoded, value = _bytes(vector["encoded"]), _head(vector["value"])
    head = decode_head(encoded, parse_object_id(vector["id"]))
    assert head == value
    assert encode_head(value) == encoded
    columns = {name: np.array(column, np.int64) for name, column in vector["columns"].items()}
    entries = decode_entries(head, 1000, 1000)
    for name, column in columns.items():
        assert getattr(entries, name).tolist() == column.tolist()
    assert encode_entries(PackEntries(**columns)) == head.entries.data
    old = [bytes.fromhex(tree) for tree in vector["old_trees"]]
    new = read_metas(head, [hash_bytes(tree) for tree in old], metas_context(old))
    assert [tree.data.hex() for tree in new] == vector["new_trees"]


@pytest.mark.parametrize("path", _files("graph"))
def test_graph_segments(path: Path) -> None:
    """The file decodes to the value; what is compressed in it is the value's one encoding."""
    vector = _read(path)
    encoded, value = _bytes(vector["encoded"]), _segment(vector["value"])
    assert decode_segment(encoded) == value
    assert hash_bytes(encoded) == parse_object_id(vector["id"])
    for data in (encoded, encode_segment(value)):
        assert decompress_bounded(data, MAX_SEGMENT_SIZE) == _bytes(vector["plain"])


@pytest.mark.parametrize("path", _files("refused"))
def test_refused_encodings(path: Path) -> None:
    """Refused for the reason it gives: the neighbour without that fault is accepted."""
    vector = _read(path)
    decode = DECODERS[vector["kind"]]
    with pytest.raises(FormatError) as refusal:
        decode(_bytes(vector["refused"]))
    assert vector["message"] in refusal.value.message
    decode(_bytes(vector["accepted"]))
