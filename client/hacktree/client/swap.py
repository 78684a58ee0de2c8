"""Going live: the rename of a new root to its final name, and the swap of the link.

Write order (invariants 2 and 4): final name of the root → sync → link → sync → order of
deployments. That order is the journal, too: a live root that is not its last was not noted yet. Of
all this only the order needs room on the disk, and it can wait. docs/architecture-deploy.md.
"""

import os

from hacktree.client.removal import TEMPORARY_PREFIX
from hacktree.client.roots import Roots, prepare_link, read_roots, write_order
from hacktree.client.sysroot import Sysroot
from hacktree.common.errors import NO_SPACE
from hacktree.common.repository.durable import replace_by_link, sync_directory


def publish_root(sysroot: Sysroot, root: str) -> None:
    """Give a synced, recorded root its final name."""
    os.rename(sysroot.roots / f"{TEMPORARY_PREFIX}{root}", sysroot.roots / root)
    sync_directory(sysroot.roots)


def swap_root(sysroot: Sysroot, root: str) -> None:
    """Make the complete root `root` live, on a full disk, too, and note it."""
    replace_by_link(sysroot.link, prepare_link(sysroot, root))
    note_live(sysroot)


def find_unnoted(roots: Roots) -> str | None:
    """The live root, if it is not yet in the order of deployments as the latest."""
    noted = roots.current not in roots.records or roots.order[-1:] == (roots.current,)
    return None if noted else roots.current


def note_live(sysroot: Sysroot) -> None:
    """Note which root is live, if that isn't so. Without room it stays for the next command to do.

    Until then `previous` is right: the last of the order was live before.
    """
    roots = read_roots(sysroot)
    live = find_unnoted(roots)
    if live is None:
        return
    # The rename may not have been durable when a command died.
    sync_directory(sysroot.path)
    try:
        write_order(sysroot, roots.with_live(live))
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
