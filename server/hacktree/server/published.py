"""Which URL paths exist: the published layout of docs/format.md, and how long each may be cached.

A path is compared as it arrived, without percent-decoding. Every published name consists of
unreserved characters, so no client has a reason to encode one, and two spellings of one object
would be two entries in every cache on the way. What remains is a whitelist over `[a-z0-9._/-]` in
which no component can begin with a dot: traversal, dotfiles, backslashes and NUL are not filtered
out, they can't be written.

`deploy/nginx/hacktree.conf` states the same rules as location regexes; tests/server compares them.
"""

import enum
import re
from typing import Final

import msgspec

from hacktree.common.objects.errors import NameInvalidError
from hacktree.common.objects.names import parse_branch_name


class Lifetime(enum.Enum):
    """How a cache may keep a file; the value is its `Cache-Control`."""

    IMMUTABLE = "public, max-age=31536000, immutable"
    MUTABLE = "no-cache"


class PublishedFile(msgspec.Struct, frozen=True):
    """A path of the published layout, relative to the repository; it may or may not exist."""

    components: tuple[str, ...]
    lifetime: Lifetime
    media_type: str = "application/octet-stream"


_OBJECT: Final = re.compile(r"/(objects)/([0-9a-f]{2})/([0-9a-f]{62}\.(?:meta|file\.zst))")
_REF: Final = re.compile(r"/refs/([a-z0-9._/-]+)")
_HISTORY: Final = re.compile(r"/branches/([a-z0-9._/-]+)/history/(tail|[0-9a-f]{64})")

_PACK: Final = re.compile(r"/(packs)/([0-9a-f]{64})")
_TRUST: Final = re.compile(
    r"/(trust)/(timestamp\.json|[1-9][0-9]{0,8}\.(?:root|snapshot|targets|branch-[0-9a-f]{32})\.json)"
)
_GRAPH: Final = re.compile(r"/(graph)/(tail|[0-9a-f]{64})")
_DASHBOARD: Final = {
    "/dashboard/index.html": "text/html; charset=utf-8",
    "/dashboard/dashboard.json": "application/json",
    "/dashboard/verdicts.json": "application/json",
}

POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""`Content-Security-Policy` of what a browser shows: names in it come from whoever pushes."""


def find_published(path: str) -> PublishedFile | None:
    """What the undecoded URL path `path` (no query) names, or None where nothing is published."""
    if match := _OBJECT.fullmatch(path):
        return PublishedFile(match.groups(), Lifetime.IMMUTABLE)
    if match := _REF.fullmatch(path):
        return _of_branch(match[1], ("refs",), (), Lifetime.MUTABLE)
    if match := _HISTORY.fullmatch(path):
        lifetime = Lifetime.MUTABLE if match[2] == "tail" else Lifetime.IMMUTABLE
        return _of_branch(match[1], ("branches",), ("history", match[2]), lifetime)
    if match := _PACK.fullmatch(path):
        return PublishedFile(match.groups(), Lifetime.IMMUTABLE)
    if match := _TRUST.fullmatch(path):
        return PublishedFile(match.groups(), Lifetime.MUTABLE)
    if match := _GRAPH.fullmatch(path):
        lifetime = Lifetime.MUTABLE if match[2] == "tail" else Lifetime.IMMUTABLE
        return PublishedFile(match.groups(), lifetime)
    if media_type := _DASHBOARD.get(path):
        return PublishedFile(tuple(path[1:].split("/")), Lifetime.MUTABLE, media_type)
    return None


def _of_branch(
    branch: str, before: tuple[str, ...], after: tuple[str, ...], lifetime: Lifetime
) -> PublishedFile | None:
    try:
        name = parse_branch_name(branch)
    except NameInvalidError:
        return None
    return PublishedFile((*before, *name.split("/"), *after), lifetime)
