"""Who may say what: the names of roles, how long their word lasts, and a head as a target. Pure.

Each branch has a delegated role of its own, named by a hash of the branch: TUF puts role names into
file names, and a `/` there becomes a `%2F` that web servers answer with 404.
"""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Final

from tuf.api.metadata import TargetFile, Targets

from hacktree.common.objects.errors import FormatError, NameInvalidError
from hacktree.common.objects.ids import ObjectId, parse_object_id
from hacktree.common.objects.names import BranchName

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = "root", "targets", "snapshot", "timestamp"
ONLINE_ROLES: Final = (SNAPSHOT, TIMESTAMP)

_LIFETIMES: Final = {
    ROOT: timedelta(days=365),
    TARGETS: timedelta(days=365),
    SNAPSHOT: timedelta(days=7),
    TIMESTAMP: timedelta(days=7),
}
_BRANCH_LIFETIME: Final = timedelta(days=90)
"""A quiet branch blocks nobody: its signer renews long before."""

MAX_METADATA: Final = 4 << 20
"""Bytes of any metadata file; the client's own limits are lower for most."""


def role_of_branch(branch: BranchName) -> str:
    """The name of the role that may move `branch`."""
    return f"branch-{hashlib.sha256(branch.encode()).hexdigest()[:32]}"


def lifetime(role: str) -> timedelta:
    """For how long a signature of the role counts."""
    return _LIFETIMES.get(role, _BRANCH_LIFETIME)


def expiry(role: str, now: datetime) -> datetime:
    """When metadata signed `now` expires: whole seconds, as the format has them."""
    return (now + lifetime(role)).astimezone(UTC).replace(microsecond=0)


def is_due(role: str, expires: datetime, now: datetime) -> bool:
    """Whether less than half of the role's lifetime is left."""
    return expires - now < lifetime(role) / 2


def target_of(branch: BranchName, head: ObjectId, length: int) -> TargetFile:
    """The head of a branch as a target: the file is the commit object, whose sha256 is its id."""
    return TargetFile(length, {"sha256": head.hex()}, branch)


def head_of(target: TargetFile) -> ObjectId:
    """The commit that a target is; raises `FormatError`."""
    try:
        return parse_object_id(target.hashes.get("sha256", ""))
    except NameInvalidError as error:
        raise FormatError(f"a branch's target has no sha256: {error.message}") from error


def only_head(targets: Targets, branch: BranchName) -> ObjectId | None:
    """The head that a branch's role signs; None before the first. Raises `FormatError`."""
    if not set(targets.targets) <= {branch}:
        raise FormatError(f"the role of {branch} signs other targets than its branch")
    target = targets.targets.get(branch)
    return None if target is None else head_of(target)
