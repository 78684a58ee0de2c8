"""Laying the machine's people over the account files of a root. Pure.

What the root has stays: its lines are written back as they were, except that a person is added to
the members of a group and gets a password where the root had none. Ids are never changed, on
either side: files have them.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from hacktree.client.users.accounts import (
    FILES,
    Group,
    LineError,
    SubRange,
    Table,
    User,
    names_and_ids,
    parse_range,
)
from hacktree.client.users.people import LOCKED, People, Person

_SHELLS: Final = ("/bin/bash", "/bin/sh")
_NO_LOGIN: Final = ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/false")

HasProgram = Callable[[str], bool]
"""Whether an absolute path names a program in the root."""


class Placement(msgspec.Struct):
    """What becomes of a person: `state` is "added", "present" (the root has the same) or
    "left out"; `groups` are those of the root that they are put in.
    """

    person: Person
    state: str = "added"
    shell: str = ""
    groups: list[str] = []
    absent_groups: list[str] = []


class Merge(msgspec.Struct, frozen=True):
    """`files` holds those that change; every note is a sentence with its next step."""

    files: Mapping[str, bytes]
    placements: tuple[Placement, ...]
    notes: tuple[str, ...]


def merge_people(
    root: Mapping[str, bytes | None], people: People, has_program: HasProgram
) -> Merge:
    """Merge into the files of a root: those of `FILES`, and those that nss-altfiles(5) reads, if
    any, as `lib/passwd` and `lib/group`. None for one that the root lacks.
    """
    merging = _Merging(root, people, has_program)
    if people.persons and root.get("passwd") is None and root.get("lib/passwd") is None:
        merging.notes.append(
            "this build has no /etc/passwd: its roots have this machine's people alone, not even "
            "root. Have the build ship one."
        )
    merging.place_groups()
    placements = tuple(merging.place(person) for person in people.persons)
    files = {}
    for name, table in merging.tables.items():
        before, after = root.get(name), table.data()
        if after != (before or b""):
            files[name] = after
    return Merge(files, placements, (*people.notes, *merging.notes))


class _Merging:
    def __init__(
        self, root: Mapping[str, bytes | None], people: People, has_program: HasProgram
    ) -> None:
        self.notes: list[str] = []
        self.tables = {name: Table(root.get(name) or b"") for name in FILES}
        self._gshadow = root.get("gshadow") is not None
        self._people = people
        self._has_program = has_program
        self._lib_groups = Table(root.get("lib/group") or b"")
        lib_users = Table(root.get("lib/passwd") or b"")
        self._uids = names_and_ids(lib_users) | names_and_ids(self.tables["passwd"])
        self._gids = names_and_ids(self._lib_groups) | names_and_ids(self.tables["group"])
        self._user_of = {uid: name for name, uid in reversed(self._uids.items())}
        self._group_of = {gid: name for name, gid in reversed(self._gids.items())}
        self._ranges = {name: _ranges(self.tables[name]) for name in ("subuid", "subgid")}

    def place_groups(self) -> None:
        """Add the people's groups whose name and number are free."""
        for group in self._people.groups:
            if group.name not in self._gids and group.gid not in self._group_of:
                self._add_group(group)
            elif group.name not in self._gids:
                self.notes.append(
                    f"group {group.name} is left out: gid {group.gid} belongs to "
                    f"{self._group_of[group.gid]} in this build. Give yours a free gid "
                    "(groupmod -g), or have the build free it."
                )
            elif self._gids[group.name] != group.gid:
                self.notes.append(
                    f"group {group.name} has gid {group.gid} on this machine and "
                    f"{self._gids[group.name]} in this build, which stays: files of the group show "
                    f"gid {group.gid} there. Give yours that number (groupmod -g) to share them."
                )

    def _add_group(self, group: Group) -> None:
        self._gids[group.name] = group.gid
        self._group_of[group.gid] = group.name
        # Members follow with each person: those who stay out must not be listed.
        self.tables["group"].add([group.name, "x", str(group.gid), ""])
        if self._gshadow and group.name not in self.tables["gshadow"]:
            self.tables["gshadow"].add([group.name, LOCKED, "", ""])

    def place(self, person: Person) -> Placement:
        """Add one person, or say why not."""
        user, placement = person.user, Placement(person, shell=person.user.shell)
        gid = self._primary_gid(person)
        problem = self._conflict(user)
        if not problem and user.name not in self._uids and gid is None:
            problem = (
                f"their primary gid {user.gid} belongs to {self._group_of[user.gid]} in this "
                "build. Give yours a free gid (groupmod -g), or have the build free it."
            )
        if problem:
            self.notes.append(f"user {user.name} is left out: {problem}")
            placement.state = "left out"
            return placement
        if user.name in self._uids or gid is None:
            placement.state = "present"
        else:
            placement.shell = self._shell(user)
            added = replace(user, password="x", gid=gid, shell=placement.shell)  # noqa: S106
            self.tables["passwd"].add(added.fields)
            self._uids[user.name] = user.uid
            self._user_of[user.uid] = user.name
        self._set_password(person)
        for name in person.groups:
            if name in self._gids:
                if self._join(user.name, name):
                    placement.groups.append(name)
            else:
                placement.absent_groups.append(name)
        if "sudo" in placement.absent_groups and "wheel" in self._gids:
            self._say_administrators_differ(user.name, "sudo", "wheel")
        elif "wheel" in placement.absent_groups and "sudo" in self._gids:
            self._say_administrators_differ(user.name, "wheel", "sudo")
        self._add_ranges("subuid", person.subuids, user)
        self._add_ranges("subgid", person.subgids, user)
        return placement

    def _say_administrators_differ(self, name: str, here: str, there: str) -> None:
        self.notes.append(
            f"{name} is in {here} here, which this build lacks. If {there} means the same to you, "
            f"a config script can run: usermod -aG {there} {name}"
        )

    def _primary_gid(self, person: Person) -> int | None:
        """The gid in the root: by name; None if the number is somebody else's there."""
        gid = person.user.gid
        name = self._people.group_names.get(gid)
        if name is not None and name in self._gids:
            return self._gids[name]
        return gid if gid not in self._group_of else None

    def _conflict(self, user: User) -> str:
        known = self._uids.get(user.name)
        if known is not None and known != user.uid:
            return (
                f"uid {user.uid} on this machine, {known} in this build. Rename yours "
                f"(usermod -l NEW {user.name}), or have the build's renamed."
            )
        other = self._user_of.get(user.uid)
        if known is None and other is not None:
            return (
                f"uid {user.uid} belongs to {other} in this build. Give yours a free uid "
                f"(usermod -u), or have the build free it."
            )
        if known is None and user.name in self.tables["passwd"]:
            return f"the build's /etc/passwd has a malformed line for {user.name}. Mend the build."
        return ""

    def _shell(self, user: User) -> str:
        if not user.shell or self._has_program(user.shell):
            return user.shell
        denied = user.shell.rpartition("/")[2] in ("nologin", "false")
        fallback = next(filter(self._has_program, _NO_LOGIN if denied else _SHELLS), None)
        if fallback is None or denied:
            # Without one, a login fails: what who may not log in is owed.
            return fallback or user.shell
        self.notes.append(
            f"{user.name} gets {fallback}: this build has no {user.shell}. An extension or a layer "
            "can bring it."
        )
        return fallback

    def _set_password(self, person: Person) -> None:
        shadow, name = self.tables["shadow"], person.user.name
        fields = shadow.fields(name)
        if fields is None:
            shadow.add([name, *person.shadow])
        elif len(fields) > 1 and fields[1].startswith(("!", "*")) and person.shadow[0] != LOCKED:
            shadow.replace([name, *person.shadow])

    def _join(self, user: str, group: str) -> bool:
        groups = self.tables["group"]
        if group not in groups:
            # Only glibc's "files" is written to; the line there then stands for both.
            groups.add(self._lib_groups.fields(group) or [])
        if len(groups.fields(group) or []) != 4:
            self.notes.append(
                f"{user} is not put in {group}: the build's /etc/group has a malformed line for "
                "it. Mend the build."
            )
            return False
        for table in (groups, self.tables["gshadow"]):
            fields = table.fields(group)
            if fields is not None and len(fields) == 4:
                members = [member for member in fields[3].split(",") if member]
                if user not in members:
                    table.replace([*fields[:3], ",".join([*members, user])])
        return True

    def _add_ranges(self, name: str, wanted: tuple[SubRange, ...], user: User) -> None:
        known = self._ranges[name]
        for found in wanted:
            ours = (user.name, str(user.uid))
            clash = next((other for other in known if other.overlaps(found)), None)
            if clash is None:
                self.tables[name].add([found.owner, str(found.start), str(found.count)])
                known.append(found)
            elif clash.owner not in ours:
                self.notes.append(
                    f"{user.name} doesn't get the {name} range {found.start}:{found.count}: it "
                    f"overlaps {clash.start}:{clash.count} of {clash.owner}. Give yours another in "
                    f"this machine's /etc/{name} (usermod --add-{name}s FIRST-LAST)."
                )


def _ranges(table: Table) -> list[SubRange]:
    found = []
    for _, fields in table.entries():
        try:
            found.append(parse_range(fields))
        except LineError:
            continue  # stays in the file, and can't be compared
    return found
