"""Which of the machine's users and groups belong in its roots. Pure."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from hacktree.client.users.accounts import (
    Group,
    LineError,
    SubRange,
    Table,
    User,
    parse_group,
    parse_range,
    parse_user,
)

_RANGE = re.compile(r"^\s*([UG]ID_M(?:IN|AX))\s+(\d{1,10})\b", re.MULTILINE)
_DEFAULTS: Final = {"UID_MIN": 1000, "UID_MAX": 60000, "GID_MIN": 1000, "GID_MAX": 60000}
LOCKED: Final = "!"
"""A password that nothing matches."""
_SHADOW_FIELDS: Final = 9

_T = TypeVar("_T")


class Person(msgspec.Struct, frozen=True):
    """A user of the machine who comes into its roots; `why` is said to people."""

    user: User
    why: str
    groups: tuple[str, ...]
    """Those that list the user as a member."""
    shadow: tuple[str, ...]
    """The line of shadow without the name: 8 fields."""
    subuids: tuple[SubRange, ...]
    subgids: tuple[SubRange, ...]


class People(msgspec.Struct, frozen=True):
    """Who comes, with the groups that are theirs; `group_names` tells primary gids' names."""

    persons: tuple[Person, ...] = ()
    groups: tuple[Group, ...] = ()
    group_names: Mapping[int, str] = {}
    notes: tuple[str, ...] = ()


def choose_people(
    files: Mapping[str, bytes | None],
    login_defs: bytes,
    names: Sequence[str],
    groups: Sequence[str],
) -> People:
    """The users in the range of login.defs(5), those in `names`, and the members of `groups`.

    `files` maps the names of the account files to what the machine has in them, None where that is
    absent or may not be read.
    """
    notes: list[str] = []
    limits = _DEFAULTS | {
        key: int(value) for key, value in _RANGE.findall(login_defs.decode("utf-8", "replace"))
    }
    users = _parse(files, "passwd", parse_user, notes)
    all_groups = _parse(files, "group", parse_group, notes)
    wanted = {group.name: group for group in all_groups if group.name in groups}
    chosen: dict[str, tuple[User, str]] = {}
    uids: dict[int, str] = {}
    for user in users:
        why = _why(user, limits, names, wanted)
        if not why:
            continue
        other = user.name if user.name in chosen else uids.get(user.uid)
        if other is not None:
            notes.append(
                f"user {user.name} (uid {user.uid}) is left out: {other} has that name or uid on "
                "this machine, too. Give one of them a uid of its own (usermod -u)."
            )
            continue
        chosen[user.name] = user, why
        uids[user.uid] = user.name
    notes += [
        f"{kind} {name}, which client.toml names, is not on this machine. Take it out there."
        for kind, asked, known in (
            ("user", names, {user.name for user in users}),
            ("group", groups, wanted.keys()),
        )
        for name in asked
        if name not in known
    ]
    shadow = Table(files["shadow"]) if files["shadow"] is not None else None
    ranges = {
        name: _parse(files, name, parse_range, notes) if chosen else []
        for name in ("subuid", "subgid")
    }
    persons = tuple(
        Person(
            user,
            why,
            tuple(group.name for group in all_groups if user.name in group.members),
            _shadow(user, shadow, notes),
            _ranges_of(user, ranges["subuid"]),
            _ranges_of(user, ranges["subgid"]),
        )
        for user, why in chosen.values()
    )
    return People(
        persons,
        tuple(_groups_of(persons, all_groups, limits, groups)),
        {
            group.gid: group.name
            for group in reversed(all_groups)
            if any(group.gid == person.user.gid for person in persons)
        },
        tuple(notes),
    )


def _parse(
    files: Mapping[str, bytes | None],
    name: str,
    parse: Callable[[Sequence[str]], _T],
    notes: list[str],
) -> list[_T]:
    found = []
    for number, fields in Table(files[name] or b"").entries():
        try:
            found.append(parse(fields))
        except LineError as error:
            notes.append(f"line {number} of this machine's /etc/{name} is passed over: {error}.")
    return found


def _why(
    user: User, limits: Mapping[str, int], names: Sequence[str], wanted: Mapping[str, Group]
) -> str:
    """Why the user comes along; empty for one who doesn't."""
    if limits["UID_MIN"] <= user.uid <= limits["UID_MAX"]:
        return f"uid in {limits['UID_MIN']} to {limits['UID_MAX']}"
    if user.name in names:
        return "named in client.toml"
    for group in wanted.values():
        if user.name in group.members or user.gid == group.gid:
            return f"member of {group.name}"
    return ""


def _groups_of(
    persons: Sequence[Person],
    groups: Sequence[Group],
    limits: Mapping[str, int],
    named: Sequence[str],
) -> list[Group]:
    """The primary groups, and those of people by their number or by configuration."""
    members = {person.user.name for person in persons}
    primary = {person.user.gid for person in persons}
    return [
        group
        for group in groups
        if group.gid in primary
        or group.name in named
        or (limits["GID_MIN"] <= group.gid <= limits["GID_MAX"] and members & {*group.members})
    ]


def _shadow(user: User, shadow: Table | None, notes: list[str]) -> tuple[str, ...]:
    rest = ("",) * (_SHADOW_FIELDS - 2)
    if user.password != "x":  # noqa: S105 - not a password: "see shadow"
        return (user.password, *rest)
    if shadow is None:
        notes.append(
            f"{user.name} has no password in new roots: this machine's /etc/shadow can't be read. "
            "Deploy as root to have it copied."
        )
        return (LOCKED, *rest)
    fields = shadow.fields(user.name)
    if fields is None:
        return (LOCKED, *rest)
    if len(fields) != _SHADOW_FIELDS or not all(field.isprintable() for field in fields):
        notes.append(
            f"{user.name} has no password in new roots: the line in this machine's /etc/shadow is "
            f"malformed. Set it again (passwd {user.name})."
        )
        return (LOCKED, *rest)
    return tuple(fields[1:])


def _ranges_of(user: User, ranges: Sequence[SubRange]) -> tuple[SubRange, ...]:
    return tuple(found for found in ranges if found.owner in (user.name, str(user.uid)))
