"""`.ht/state/users.json`: the ids that local steps got on this machine, for good.

Ids are only ever added, the preferred one first: of builds that use it themselves a name gets the
next. So a root that was built once is as its build would be today, and the registry needs no place
in the digest of a root's inputs. Forgetting a name counts `generation` up, which has one.
docs/architecture-deploy.md, "Users".
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from hacktree.client.sysroot import Sysroot
from hacktree.client.users.accounts import MAX_ID, LineError, parse_name
from hacktree.common.errors import CorruptError, UserError
from hacktree.common.repository.durable import write_durably

VERSION: Final = 1
_MAX_SIZE: Final = 1 << 20

_Ids = Annotated[
    tuple[Annotated[int, Meta(ge=1, le=MAX_ID)], ...], Meta(min_length=1, max_length=100)
]


class Registry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """name → ids, of users and of groups."""

    version: int = VERSION
    generation: int = 0
    users: dict[str, _Ids] = {}
    groups: dict[str, _Ids] = {}

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"version {self.version}; this hacktree reads {VERSION}")
        for ids in (self.users, self.groups):
            for name in ids:
                parse_name(name)


def registry_path(sysroot: Sysroot) -> Path:
    """Where it is."""
    return sysroot.repository.state / "users.json"


def read_registry(sysroot: Sysroot) -> Registry:
    """The registry, empty at first; raises `CorruptError`."""
    path = registry_path(sysroot)
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_SIZE + 1)
        if len(data) > _MAX_SIZE:
            raise ValueError(f"more than {_MAX_SIZE >> 20} MiB")
        return msgspec.json.decode(data, type=Registry)
    except FileNotFoundError:
        return Registry()
    except ValueError as error:
        raise CorruptError(
            f"{path} is damaged: {error}",
            hint="Delete it: users that scripts and extensions create may then get other ids, and "
            "files in /var that they own need chown.",
        ) from error


def write_registry(sysroot: Sysroot, registry: Registry) -> None:
    """Replace it, durably. The caller holds the sysroot lock."""
    encoded = msgspec.json.encode(registry, order="sorted")
    write_durably(registry_path(sysroot), msgspec.json.format(encoded) + b"\n")


def with_learned(
    registry: Registry, users: Mapping[str, int], groups: Mapping[str, int]
) -> Registry:
    """The registry once a root has these local ids."""
    return msgspec.structs.replace(
        registry,
        users=_with_ids(registry.users, users),
        groups=_with_ids(registry.groups, groups),
    )


def _with_ids(known: Mapping[str, _Ids], found: Mapping[str, int]) -> dict[str, _Ids]:
    ids = dict(known)
    for name, number in found.items():
        if number not in ids.get(name, ()) and _can_be_kept(name):
            ids[name] = (*ids.get(name, ()), number)
    return ids


def _can_be_kept(name: str) -> bool:
    try:
        parse_name(name)
    except LineError:
        return False
    return True


def without_name(registry: Registry, name: str) -> Registry:
    """The registry without a user and a group; raises `UserError` if it has neither."""
    if name not in registry.users and name not in registry.groups:
        raise UserError(
            f"no root of this machine has given {name} an id of its own",
            hint="`hacktree users` lists those that have one.",
        )
    return msgspec.structs.replace(
        registry,
        generation=registry.generation + 1,
        users={key: ids for key, ids in registry.users.items() if key != name},
        groups={key: ids for key, ids in registry.groups.items() if key != name},
    )
