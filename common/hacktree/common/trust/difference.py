"""What a pending change does, for whoever is asked to sign it: the whole result, marked."""

from collections.abc import Mapping
from typing import Any

import msgspec
from tuf.api.metadata import Metadata, Role, Targets

from hacktree.common.objects.moments import display_time
from hacktree.common.trust.changes import missing_signatures
from hacktree.common.trust.pending import Pending
from hacktree.common.trust.report import fingerprint
from hacktree.common.trust.roles import ROOT, TARGETS


class RoleDifference(msgspec.Struct, frozen=True):
    """One role. `threshold_before` is 0 for a new one; keys by id."""

    name: str
    threshold: int
    threshold_before: int
    kept: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether the change touches it."""
        return bool(self.added or self.removed) or self.threshold != self.threshold_before


class PartDifference(msgspec.Struct, frozen=True):
    """One metadata file: its versions, its expiry in seconds since 1970, and its roles."""

    name: str
    version_before: int
    version: int
    expires_before: int
    expires: int
    roles: tuple[RoleDifference, ...]


class Difference(msgspec.Struct, frozen=True):
    """`root`: sha256 of the root that the change begins with; `missing`: who must still sign."""

    root: str
    root_version: int
    parts: tuple[PartDifference, ...]
    missing: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields


def describe_pending(pending: Pending) -> Difference:
    """What a change does to what was published."""
    change, parts = pending.change, []
    if change.root is not None:
        before, after = pending.root.signed, change.root.signed
        parts.append(_part(ROOT, pending.root, change.root, before.roles, after.roles))
    if change.targets is not None:
        parts.append(
            _part(
                TARGETS, pending.targets, change.targets,
                _by_branch(pending.targets.signed), _by_branch(change.targets.signed),
            )
        )  # fmt: skip
    missing = tuple(missing_signatures(change, pending.root.signed))
    root = fingerprint(pending.root.to_bytes())
    return Difference(root, pending.root.signed.version, tuple(parts), missing)


def lines_of(difference: Difference) -> list[str]:
    """As a person reads it."""
    lines = [f"Begins with root version {difference.root_version}, sha256 {difference.root}"]
    for part in difference.parts:
        until, was = display_time(part.expires), display_time(part.expires_before)
        lines.append(
            f"{part.name}: version {part.version_before} -> {part.version}, until {until} "
            f"(was {was})"
        )
        for role in part.roles:
            count = len(role.kept) + len(role.added)
            lines.append(f"  {role.name}: {_threshold(role)} of {count} keys must sign")
            lines += [f"    + {keyid}  ADDED" for keyid in role.added]
            lines += [f"    - {keyid}  REMOVED" for keyid in role.removed]
            lines += [f"      {keyid}" for keyid in role.kept]
    lines += [f"Missing: {line}" for line in difference.missing] or ["All signatures are there"]
    return lines


def _part(
    name: str, before: Metadata[Any], after: Metadata[Any],
    old: Mapping[str, Role], new: Mapping[str, Role],
) -> PartDifference:  # fmt: skip
    roles = [_role(role, old.get(role), new.get(role)) for role in sorted({*old, *new})]
    return PartDifference(
        name, before.signed.version, after.signed.version,
        int(before.signed.expires.timestamp()), int(after.signed.expires.timestamp()),
        tuple(roles),
    )  # fmt: skip


def _role(name: str, old: Role | None, new: Role | None) -> RoleDifference:
    before, after = (set(role.keyids) if role is not None else set() for role in (old, new))
    return RoleDifference(
        name,
        0 if new is None else new.threshold,
        0 if old is None else old.threshold,
        tuple(sorted(before & after)),
        tuple(sorted(after - before)),
        tuple(sorted(before - after)),
    )


def _by_branch(targets: Targets) -> dict[str, Role]:
    roles = {} if targets.delegations is None else targets.delegations.roles or {}
    return {f"branch {(role.paths or [''])[0]}": role for role in roles.values()}


def _threshold(role: RoleDifference) -> str:
    if role.threshold == role.threshold_before:
        return str(role.threshold)
    return f"{role.threshold} (was {role.threshold_before or 'nobody'})"
