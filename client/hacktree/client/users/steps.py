"""The steps for users, carried files, ids and homes, and where they come in the replay.

People first: whatever runs in the root may look them up. Carried files before the config scripts,
which may change them, but after extensions and layers, so that a new resolv.conf doesn't cost an
installation. Ids and homes last.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec

from hacktree.client.beneath import Attributes, has_program, read_file, replace_file
from hacktree.client.clientconfig import CONFIG_PATH
from hacktree.client.replay.step import Build, Root, Step
from hacktree.client.sysroot import Sysroot
from hacktree.client.users.accounts import MAX_FILE, Table, names_and_ids
from hacktree.client.users.buildfiles import ACCOUNT_PATHS
from hacktree.client.users.carry import CarryStep, find_carried
from hacktree.client.users.homes import HomesStep, bind_targets
from hacktree.client.users.host import find_host, read_people
from hacktree.client.users.identities import IdentitiesStep, build_ids
from hacktree.client.users.merging import merge_people
from hacktree.client.users.people import People
from hacktree.client.users.registry import read_registry
from hacktree.common.repository.layout import Mode

_CODE: Final = "users 1"


class UsersStep(msgspec.Struct, frozen=True):
    """Merges the machine's people into the root's account files."""

    people: People
    name: str = "users"

    @property
    def digest(self) -> bytes:
        """Of the people, their groups and passwords."""
        inputs = [_CODE, self.people.persons, self.people.groups]
        names = sorted(self.people.group_names.items())
        return hashlib.sha256(msgspec.msgpack.encode([*inputs, names])).digest()

    def apply(self, root: Root) -> None:
        """See `Step.apply`."""
        found = {name: read_file(root.path, path, MAX_FILE) for name, path in ACCOUNT_PATHS.items()}
        before = {name: None if file is None else file[0] for name, file in found.items()}
        merge = merge_people(before, self.people, partial(has_program, root.path))
        for note in merge.notes:
            root.say(note)
        for name, data in merge.files.items():
            old = found[name]
            attributes = _new_attributes(name, merge.files.get("group") or before["group"] or b"")
            if old is not None:
                attributes = old[1]
            if root.build.sysroot.repository.mode is Mode.BARE_USER:
                attributes = Attributes(attributes.mode, None)
            replace_file(root.path, ACCOUNT_PATHS[name], data, attributes)


def _new_attributes(name: str, group: bytes) -> Attributes:
    """Of an account file that the root lacks."""
    if name not in ("shadow", "gshadow"):
        return Attributes(0o644)
    shadow = names_and_ids(Table(group)).get("shadow")
    return Attributes(0o600) if shadow is None else Attributes(0o640, (0, shadow))


class UsersSource:
    """The machine's people."""

    def steps(self, build: Build) -> Sequence[Step]:
        """See `StepSource.steps`."""
        host = find_host(build.sysroot)
        return () if host is None else (UsersStep(read_people(host, build.sysroot)),)


class CarrySource:
    """The machine's files."""

    def steps(self, build: Build) -> Sequence[Step]:
        """See `StepSource.steps`."""
        host = find_host(build.sysroot)
        if host is None:
            return ()
        return (CarryStep(find_carried(host, build.sysroot.config.carry)),)


class LastSource:
    """Ids and homes, after all other steps."""

    def steps(self, build: Build) -> Sequence[Step]:
        """See `StepSource.steps`."""
        sysroot = build.sysroot
        host = find_host(sysroot)
        targets = tuple(bind_targets(sysroot))
        steps: list[Step] = []
        if host is not None or _may_create_users(sysroot):
            people = read_people(host, sysroot) if host is not None else People()
            steps.append(IdentitiesStep(build_ids(build), people, read_registry(sysroot)))
        if host is not None or targets:
            steps.append(HomesStep(targets))
        return steps


def _may_create_users(sysroot: Sysroot) -> bool:
    """Whether there are scripts or extensions; without, a root is just its build."""
    places = (sysroot.path / CONFIG_PATH.parent / name for name in ("config.d", "extensions.d"))
    return any(place.is_dir() and os.listdir(place) for place in places)
