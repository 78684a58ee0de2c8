"""Which ids the users and groups that local steps made get in a root. Pure.

useradd takes the highest free id, so another script before it, or another build, moves it. What is
in the build stays as it is, and so do the machine's people; the rest gets the registry's ids.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from hacktree.client.users.accounts import LineError, Table, names_and_ids, parse_id

ALLOCATED: Final = range(100, 60001)
"""Ids that programs choose. Below, they are chosen by people; above are nobody and systemd's."""
_SYSTEM_END: Final = 999


class Renumbering(msgspec.Struct, frozen=True):
    """`moved`: old → new id, for every file; `names`: name → new id; notes are sentences."""

    moved: Mapping[int, int]
    names: Mapping[str, int]
    notes: tuple[str, ...]


def local_ids(
    found: Mapping[str, int], build: Mapping[str, int], people: Mapping[str, int]
) -> dict[str, int]:
    """What local steps made: in a root, neither in its build nor of the machine's people.

    An id that one of those has, too, is shared on purpose and not counted.
    """
    taken = {*build.values(), *people.values()}
    return {
        name: number
        for name, number in found.items()
        if name not in build and name not in people and number in ALLOCATED and number not in taken
    }


def plan_renumbering(
    kind: str,
    found: Mapping[str, int],
    build: Mapping[str, int],
    people: Mapping[str, int],
    registry: Mapping[str, Sequence[int]],
) -> Renumbering:
    """Give each local user or group (`kind`) the registry's id, or one that nobody has.

    `found` is what the root has after all steps, `build` what it had before, `people` what the
    machine put in.
    """
    local = local_ids(found, build, people)
    taken = {number for name, number in found.items() if name not in local} | {*build.values()}
    given: dict[str, int] = {}
    notes: list[str] = []
    for name in sorted(local.keys() & registry.keys()):
        usable = next((number for number in registry[name] if number not in taken), None)
        if usable is not None:
            given[name] = usable
            taken.add(usable)
    reserved = {number for ids in registry.values() for number in ids}
    for name in sorted(local.keys() - given.keys()):
        number = local[name]
        if number in taken or number in reserved:
            number = _free(number, taken | reserved | {*local.values()})
        given[name] = number
        taken.add(number)
    for name, number in sorted(given.items()):
        if name in registry and number != registry[name][0]:
            other = next(
                (other for other, its in found.items() if its == registry[name][0]), "somebody"
            )
            notes.append(
                f"{kind} {name} has id {number} in this root: {other} has {registry[name][0]} in "
                f"it. What {name} owns outside the roots, as in /var, needs chown."
            )
        elif name in registry and number != local[name]:
            notes.append(
                f"{kind} {name} keeps id {number} (a step gave it {local[name]}); "
                f"`hacktree users --forget {name}` lets it change"
            )
        elif number != local[name]:
            notes.append(f"{kind} {name} gets id {number}: {local[name]} is kept for another")
    notes += [
        f"{kind} {name} is the build's own now, with id {build[name]}; on this machine it was "
        f"{ids[0]}. What it owns outside the roots, as in /var, needs chown."
        for name, ids in sorted(registry.items())
        if name in build and build[name] not in ids
    ]
    # Two names of one id (useradd -o) can't both move its files: the first, by name, has them.
    moved: dict[int, int] = {}
    for name, number in sorted(given.items()):
        moved.setdefault(local[name], number)
    return Renumbering(
        {old: new for old, new in moved.items() if old != new},
        {name: number for name, number in given.items() if number != local[name]},
        tuple(notes),
    )


def _free(near: int, taken: set[int]) -> int:
    """A free id of the same class: of system ids the highest, of others the lowest from there."""
    system = range(_SYSTEM_END, ALLOCATED.start - 1, -1)
    candidates = system if near <= _SYSTEM_END else range(near, ALLOCATED.stop)
    return next((number for number in candidates if number not in taken), near)


def renumber_file(data: bytes, names: Mapping[str, int], column: int) -> bytes:
    """passwd or group with the ids of some names changed."""
    table = Table(data)
    for name, number in names.items():
        fields = table.fields(name)
        if fields is not None:
            table.replace([*fields[:column], str(number), *fields[column + 1 :]])
    return table.data()


def renumber_primary_groups(
    data: bytes, users: Mapping[str, int], moved: Mapping[int, int]
) -> bytes:
    """passwd with the primary groups of `users` changed."""
    table = Table(data)
    for name in users:
        fields = table.fields(name)
        if fields is None or len(fields) != 7:
            continue
        with suppress(LineError):
            gid = parse_id(fields[3])
            table.replace([*fields[:3], str(moved.get(gid, gid)), *fields[4:]])
    return table.data()


def ids_of(*files: bytes | None) -> dict[str, int]:
    """name → number over passwd or group files; the first that has a name counts."""
    found: dict[str, int] = {}
    for data in files:
        if data is not None:
            found = names_and_ids(Table(data)) | found
    return found
