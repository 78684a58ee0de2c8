"""Frozen encodings: what was published stays readable, and ids never change.

tests/vectors/README.md says how the files are written. Nothing here or elsewhere writes them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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

VECTORS = Path(__file__).resolve().parent.parent / "vectors"
DECODERS: dict[str, Callable[[bytes], object]] = {
    "tree": decode_tree,
    "commit": decode_commit,
    "history": decode_page,
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


@pytest.mark.parametrize("path", _files("refused"))
def test_refused_encodings(path: Path) -> None:
    """Refused for the reason it gives: the neighbour without that fault is accepted."""
    vector = _read(path)
    decode = DECODERS[vector["kind"]]
    with pytest.raises(FormatError) as refusal:
        decode(_bytes(vector["refused"]))
    assert vector["message"] in refusal.value.message
    decode(_bytes(vector["accepted"]))
