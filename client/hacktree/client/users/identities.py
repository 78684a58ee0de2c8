"""The last step: what earlier steps created gets the ids that it has on this machine.

Before the steps nothing is reserved: a user that is there already makes a plain `useradd` fail.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.beneath import Attributes, read_file, replace_file
from hacktree.client.replay.step import Build, Root
from hacktree.client.users.accounts import MAX_FILE
from hacktree.client.users.buildfiles import BuildFiles
from hacktree.client.users.host import find_host, read_people
from hacktree.client.users.people import People
from hacktree.client.users.registry import (
    Registry,
    read_registry,
    with_learned,
    write_registry,
)
from hacktree.client.users.renumbering import (
    Renumbering,
    ids_of,
    local_ids,
    plan_renumbering,
    renumber_file,
    renumber_primary_groups,
)
from hacktree.common.repository.layout import Mode

_CODE: Final = "identities 1"
_CAPABILITY: Final = "security.capability"


class Ids(msgspec.Struct, frozen=True):
    """name → id, of users and of groups."""

    users: Mapping[str, int]
    groups: Mapping[str, int]


def build_ids(build: Build) -> Ids:
    """Those of the build."""
    files = BuildFiles(build.sysroot.repository, build.commit).account_files()
    return Ids(
        ids_of(files["passwd"], files["lib/passwd"]), ids_of(files["group"], files["lib/group"])
    )


def _root_ids(root: Path) -> Ids:
    passwd, group = (read_file(root, f"etc/{name}", MAX_FILE) for name in ("passwd", "group"))
    return Ids(ids_of(passwd and passwd[0]), ids_of(group and group[0]))


def _ids_of_people(found: Ids, people: People) -> Ids:
    users = {person.user.name for person in people.persons}
    groups = {group.name for group in people.groups}
    return Ids(
        {name: number for name, number in found.users.items() if name in users},
        {name: number for name, number in found.groups.items() if name in groups},
    )


class IdentitiesStep(msgspec.Struct, frozen=True):
    """Renumbers them in the root's files."""

    before: Ids
    people: People
    registry: Registry
    name: str = "ids"

    @property
    def digest(self) -> bytes:
        """Not of what the registry holds: see there."""
        people = sorted(person.user.name for person in self.people.persons)
        groups = sorted(group.name for group in self.people.groups)
        inputs = [_CODE, self.registry.generation, people, groups]
        return hashlib.sha256(msgspec.msgpack.encode(inputs)).digest()

    def apply(self, root: Root) -> None:
        """See `Step.apply`."""
        found = _root_ids(root.path)
        people = _ids_of_people(found, self.people)
        users = plan_renumbering(
            "user", found.users, self.before.users, people.users, self.registry.users
        )
        groups = plan_renumbering(
            "group", found.groups, self.before.groups, people.groups, self.registry.groups
        )
        for note in (*users.notes, *groups.notes):
            root.say(note)
        local = local_ids(found.users, self.before.users, people.users)
        self._rewrite(root, users, groups, local)
        if users.moved or groups.moved:
            _move_files(root.path, users.moved, groups.moved)

    def _rewrite(
        self, root: Root, users: Renumbering, groups: Renumbering, local: Mapping[str, int]
    ) -> None:
        keeps_owner = root.build.sysroot.repository.mode is Mode.BARE
        passwd = read_file(root.path, "etc/passwd", MAX_FILE)
        group = read_file(root.path, "etc/group", MAX_FILE)
        changes = []
        if passwd is not None:
            data = renumber_file(passwd[0], users.names, 2)
            data = renumber_primary_groups(data, local, groups.moved)
            changes.append(("etc/passwd", data, passwd))
        if group is not None:
            changes.append(("etc/group", renumber_file(group[0], groups.names, 2), group))
        for path, data, (old, attributes) in changes:
            if data != old:
                kept = attributes if keeps_owner else Attributes(attributes.mode, None)
                replace_file(root.path, path, data, kept)


def _move_files(root: Path, uids: Mapping[int, int], gids: Mapping[int, int]) -> None:
    """Give files to the new ids. What is mounted in the root, as /dev, is not entered."""
    device = os.lstat(root).st_dev
    for _, directories, files, parent in os.fwalk(root, follow_symlinks=False):
        _move(".", parent, uids, gids)
        below = []
        for name in directories:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                files.append(name)  # a link to a directory
            # Of an overlay's files st_dev may be the lower's; of its directories it is its own.
            elif status.st_dev == device:
                below.append(name)
        directories[:] = below
        for name in files:
            _move(name, parent, uids, gids)


def _move(name: str, parent: int, uids: Mapping[int, int], gids: Mapping[int, int]) -> None:
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    uid = uids.get(status.st_uid, status.st_uid)
    gid = gids.get(status.st_gid, status.st_gid)
    if (uid, gid) == (status.st_uid, status.st_gid):
        return
    if not stat.S_ISREG(status.st_mode):
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        return
    # chown(2) takes set-id bits and capabilities away.
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        capable = _CAPABILITY in os.listxattr(descriptor)
        capability = os.getxattr(descriptor, _CAPABILITY) if capable else b""
        # By name: the descriptor is of the lower file, where an overlay has not copied it yet.
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=parent)
        if capability:
            os.setxattr(f"/proc/self/fd/{parent}/{name}", _CAPABILITY, capability)
    finally:
        os.close(descriptor)


def learn(build: Build, root: Path) -> None:
    """Keep the ids that the steps of a replay created in `root`, durably.

    Called after every successful replay, before the root may go live, by whoever holds the sysroot
    lock: a root whose ids are not kept may differ from the next one of the same inputs.
    """
    found = _root_ids(root)
    host = find_host(build.sysroot)
    people = _ids_of_people(found, read_people(host, build.sysroot) if host else People())
    before = build_ids(build)
    registry = read_registry(build.sysroot)
    learned = with_learned(
        registry,
        local_ids(found.users, before.users, people.users),
        local_ids(found.groups, before.groups, people.groups),
    )
    if learned != registry:
        write_registry(build.sysroot, learned)
