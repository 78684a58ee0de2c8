"""The file names of objects. docs/format.md, "The repository on disk"."""

import hashlib
import re
from functools import lru_cache
from typing import Final

import msgspec

from hacktree.common.objects.attributes import Xattrs
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import FileEntry
from hacktree.common.push.framing import ObjectKey, ObjectKind
from hacktree.common.repository.layout import Mode

META_SUFFIX: Final = ".meta"
ARCHIVE_SUFFIX: Final = ".file.zst"
BARE_SUFFIX: Final = ".file"

_NAME = re.compile(
    r"([0-9a-f]{62})\.(?:(meta)|(file\.zst)|((?:\d+-\d+-)?[0-7]{4}(?:-[0-9a-f]{16})?)\.file)"
)
_OWNED_VARIANT = re.compile(r"(\d+)-(\d+)-([0-7]{4})(?:-([0-9a-f]{16}))?")


def meta_name(object_id: ObjectId) -> str:
    """`17/a95e….meta`, relative to objects/."""
    text = object_id.hex()
    return f"{text[:2]}/{text[2:]}.meta"


def archive_name(object_id: ObjectId) -> str:
    """`17/a95e….file.zst`, relative to objects/."""
    text = object_id.hex()
    return f"{text[:2]}/{text[2:]}.file.zst"


def published_name(key: ObjectKey) -> str:
    """The object's file in an archive, relative to objects/."""
    return meta_name(key.id) if key.kind is ObjectKind.META else archive_name(key.id)


def content_name(mode: Mode, entry: FileEntry) -> str:
    """The name of the object a checkout of `entry` needs in a repository of this mode."""
    text = entry.id.hex()
    if mode is Mode.ARCHIVE:
        suffix = ARCHIVE_SUFFIX
    elif mode is Mode.BARE_USER:
        suffix = _user_suffix(entry.mode)
    else:
        suffix = _owned_suffix(entry.uid, entry.gid, entry.mode)
        if entry.xattrs:
            suffix = (
                f"{suffix.removesuffix(BARE_SUFFIX)}-{xattrs_digest(entry.xattrs)}{BARE_SUFFIX}"
            )
    return f"{text[:2]}/{text[2:]}{suffix}"


# A tree has a handful of owners and modes, and a pull asks for the names of all its files.
@lru_cache(1024)
def _owned_suffix(uid: int, gid: int, mode: int) -> str:
    return f".{uid}-{gid}-{mode:04o}{BARE_SUFFIX}"


@lru_cache(1024)
def _user_suffix(mode: int) -> str:
    return f".{user_mode(mode):04o}{BARE_SUFFIX}"


def user_mode(mode: int) -> int:
    """The mode of a bare-user variant: no setuid, readable by its owner."""
    return (mode & 0o777) | 0o400


def xattrs_digest(xattrs: Xattrs) -> str:
    """16 hexadecimal digits that name a set of extended attributes."""
    return hashlib.sha256(msgspec.msgpack.encode(xattrs)).hexdigest()[:16]


class ObjectName(msgspec.Struct, frozen=True):
    """A parsed object name; `variant` is the attribute part of a bare object's name."""

    id: ObjectId
    kind: str
    variant: str


def parse_object_name(directory: str, name: str) -> ObjectName | None:
    """What the file `directory/name` of objects/ claims to hold; None for a foreign name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    object_id = ObjectId(bytes.fromhex(directory + match[1]))
    if match[2]:
        return ObjectName(object_id, "meta", "")
    return ObjectName(object_id, "file", match[4] or "")


class VariantAttributes(msgspec.Struct, frozen=True):
    """The inode attributes that a bare variant's name promises."""

    uid: int
    gid: int
    mode: int
    xattrs_digest: str


def parse_owned_variant(variant: str) -> VariantAttributes | None:
    """The attributes in a bare-mode variant name; None for a bare-user one."""
    match = _OWNED_VARIANT.fullmatch(variant)
    if match is None:
        return None
    return VariantAttributes(int(match[1]), int(match[2]), int(match[3], 8), match[4] or "")
