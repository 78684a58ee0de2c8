"""`<sysroot>/etc/hacktree/client.toml`: how a tester's machine names and keeps its roots."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from hacktree.common.errors import UserError
from hacktree.common.objects.names import parse_branch_name

CONFIG_PATH: Final = Path("etc/hacktree/client.toml")
"""Relative to the sysroot."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class UsersConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Who of the machine comes into its roots, beside those with an ordinary uid: users by `names`,
    and the members of `groups`.
    """

    names: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


class ClientConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """`name`: of the live link and, with a commit and a number, of roots. `keep-roots`: how many of
    the last deployed roots stay, beside running and pinned ones. `remote`: pulled from when none is
    named. `branch-prefix`: components put before a branch that a person names.

    What new roots get of the machine (docs/operations.md, "Users and homes"): `host`, the directory
    with the machine's `etc`, else the sysroot itself; `users`; `carry`, the files that are copied;
    `bind` and `bind-read-only`, directories that are there besides /home; `share-root`, whether
    /root is.
    """

    name: str = "gnomeos"
    keep_roots: Annotated[int, Meta(ge=1, le=1000)] = 3
    remote: str = ""
    branch_prefix: str = ""
    host: str = ""
    users: UsersConfig = UsersConfig()
    carry: tuple[str, ...] = ("default",)
    bind: tuple[str, ...] = ()
    bind_read_only: tuple[str, ...] = ()
    share_root: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name {self.name!r}: [a-z0-9], then up to 63 of [a-z0-9._-]")
        if self.branch_prefix:
            parse_branch_name(self.branch_prefix)
        if self.host and not self.host.startswith("/"):
            raise ValueError(f"host {self.host!r}: not an absolute path")

    def full_branch(self, branch: str) -> str:
        """The branch that a person means by `branch`: with the prefix, unless it has it."""
        prefix = f"{self.branch_prefix}/" if self.branch_prefix else ""
        return branch if branch.startswith(prefix) else prefix + branch


def read_client_config(sysroot: Path) -> ClientConfig:
    """The configuration, with defaults for what is absent; raises `UserError` naming the fault."""
    path = sysroot / CONFIG_PATH
    try:
        text = path.read_text()
    except FileNotFoundError:
        return ClientConfig()
    try:
        return msgspec.convert(tomllib.loads(text), ClientConfig)
    except (ValueError, UserError) as error:
        raise UserError(f"{path}: {error}", hint="Mend or delete the file.") from error
