"""Going live: the journal, the rename of a new root to its final name, and the swap of the link.

Write order (invariants 2 and 4): intent → final name of the root → sync → link → sync → order of
deployments → no intent. docs/architecture.md, "Crash table".
"""

import os
from typing import Final

import msgspec

from hacktree.client.removal import TEMPORARY_PREFIX
from hacktree.client.roots import link_target, read_live, read_roots, write_order
from hacktree.client.sysroot import Sysroot
from hacktree.common.errors import CorruptError
from hacktree.common.repository.durable import (
    remove_durably,
    swap_symlink,
    sync_directory,
    write_durably,
)

INTENT: Final = "intent.json"


class Intent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The swap that is under way: from one root, if any, to another."""

    old: str | None = msgspec.field(name="from")
    new: str = msgspec.field(name="to")


def read_intent(sysroot: Sysroot) -> Intent | None:
    """The swap that was begun and not finished, or None."""
    path = sysroot.repository.state / INTENT
    try:
        return msgspec.json.decode(path.read_bytes(), type=Intent)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise CorruptError(
            f"{path} is damaged: {error}", hint="Delete it: the live link is not affected."
        ) from error


def begin_swap(sysroot: Sysroot, root: str) -> None:
    """Journal that `root` is to go live."""
    intent = Intent(read_live(sysroot), root)
    write_durably(sysroot.repository.state / INTENT, msgspec.json.encode(intent))


def publish_root(sysroot: Sysroot, root: str) -> None:
    """Give a synced, recorded root its final name."""
    os.rename(sysroot.roots / f"{TEMPORARY_PREFIX}{root}", sysroot.roots / root)
    sync_directory(sysroot.roots)


def finish_swap(sysroot: Sysroot, root: str) -> None:
    """Make the complete root `root` live; its intent is journalled."""
    swap_symlink(sysroot.link, link_target(root))
    settle_swap(sysroot, root)


def settle_swap(sysroot: Sysroot, root: str) -> None:
    """Note that `root` went live and close the journal. Idempotent."""
    write_order(sysroot, read_roots(sysroot).with_live(root))
    remove_durably(sysroot.repository.state / INTENT)
