"""Running the command that installs a layer, and keeping what it leaves in $DESTDIR."""

import os
import pwd
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.layers.definition import LayerDefinition
from hacktree.client.scratch import scratch_below
from hacktree.common.errors import HacktreeError, UserError

_TEMPORARY: Final = "/var/tmp"  # noqa: S108 - the directory in it is ours alone


class CommandFailedError(HacktreeError):
    """The command that installs a layer failed."""


class Invocation(msgspec.Struct, frozen=True):
    """A command to run: where, with what added to the environment, as whom (None: as we are).

    It inherits the descriptor `lock`: what it installs to is kept for as long as a process of it
    lives, also if we are killed.
    """

    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str]
    user: pwd.struct_passwd | None
    lock: int


Runner = Callable[[Invocation], int]
"""Runs a command in the foreground; returns its exit status."""


def invoking_user(uid: int, environment: Mapping[str, str]) -> str:
    """Who asks, by name: the user of sudo(8), empty for root itself and for people without root.

    Building and installing into a directory needs no root, and files that root leaves in a person's
    build directory are in the way of their next build.
    """
    name = environment.get("SUDO_USER", "")
    return name if uid == 0 and name != "root" else ""


@contextmanager
def captured(layer: LayerDefinition, run: Runner) -> Iterator[Path]:
    """Run the command of a layer and give the directory that it installed to, then delete that;
    what a killed one left goes with the next, unless its command still runs.

    The directory is in $TMPDIR, else in /var/tmp: it belongs to whoever runs the command, who can't
    reach the repository. The one above it is ours, so that nothing else can be put in its place,
    as a link to what only root may read. Raises `CommandFailedError`.
    """
    user = _account(layer.user) if layer.user and os.geteuid() == 0 else None
    if not os.path.isdir(layer.path):
        raise UserError(
            f"{layer.path}, where the layer's command runs, is no directory",
            hint="Bring it back, or remove the layer and add it anew.",
        )
    place = os.environ.get("TMPDIR") or _TEMPORARY
    with scratch_below(Path(place).resolve(), "hacktree-layer-") as scratch:
        destination = scratch.path / "destdir"
        scratch.path.chmod(0o711)
        destination.mkdir(mode=0o700)
        if user is not None:
            os.chown(destination, user.pw_uid, user.pw_gid)
        environment = {"DESTDIR": str(destination)}
        status = run(Invocation(layer.command, Path(layer.path), environment, user, scratch.lock))
        if status != 0:
            raise CommandFailedError(
                f"{layer.command[0]} ended with status {status}: nothing was committed",
                hint="Mend it and run this again.",
            )
        destination.chmod(0o755)
        yield destination


def _account(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise UserError(
            f"the layer's command runs as {name}, who is no user of this machine",
            hint="Correct `user` in the layer's file in etc/hacktree/layers.d.",
        ) from None
