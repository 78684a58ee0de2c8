"""Who the program in a root runs as: whoever asked for it, also through sudo or pkexec."""

import os
import pwd
from collections.abc import Mapping
from typing import Final

import msgspec

from hacktree.common.errors import UserError

_INVOKERS: Final = ("SUDO_UID", "PKEXEC_UID")
_NO_USER: Final = 2**32 - 1


class PersonError(UserError):
    """There is no such user, or this one may not become them."""


class Person(msgspec.Struct, frozen=True):
    """A user of the host. `groups` are numbers, all of them: devices belong to them."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


def invoking_person(environment: Mapping[str, str]) -> Person:
    """Who asked: under sudo or pkexec whoever called it, else the user of this process."""
    if os.geteuid() == 0:
        for variable in _INVOKERS:
            text = environment.get(variable, "")
            if text.isascii() and text.isdigit() and int(text) < _NO_USER:
                return _person(int(text), environment.get("SUDO_GID", ""))
    return _person(os.geteuid(), str(os.getegid()))


def requested_person(name: str | None, environment: Mapping[str, str]) -> Person:
    """What `--user` says: the user called `name`, or who asked if nobody is named."""
    return named_person(name) if name else invoking_person(environment)


def named_person(name: str) -> Person:
    """The user called `name`, or with that number; only root may be somebody else."""
    try:
        entry = pwd.getpwuid(int(name)) if name.isascii() and name.isdigit() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise PersonError(
            f"there is no user {name!r}", hint="`getent passwd` lists them."
        ) from None
    if os.geteuid() not in (0, entry.pw_uid):
        raise PersonError(
            f"only root may enter as {entry.pw_name}", hint="Leave out --user, or use sudo."
        )
    return _person(entry.pw_uid, "")


def _person(uid: int, gid: str) -> Person:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        number = int(gid) if gid.isascii() and gid.isdigit() else uid
        return Person(str(uid), uid, number, (number,), "/", "")
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return Person(
        entry.pw_name, uid, entry.pw_gid, tuple(groups), entry.pw_dir or "/", entry.pw_shell
    )
