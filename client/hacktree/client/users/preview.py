"""What the next root of a build gets of this machine, without making it."""

from pathlib import Path

import msgspec

from hacktree.client.sysroot import Sysroot
from hacktree.client.users.buildfiles import BuildFiles
from hacktree.client.users.carry import Carrying, find_carried
from hacktree.client.users.homes import Bind, list_binds
from hacktree.client.users.host import find_host, read_people
from hacktree.client.users.merging import Merge, merge_people
from hacktree.client.users.people import People
from hacktree.client.users.registry import Registry, read_registry
from hacktree.common.objects.commit import Commit


class Preview(msgspec.Struct, frozen=True):
    """`host` None: the sysroot belongs to no machine, and nobody comes."""

    host: Path | None
    people: People
    merge: Merge
    carrying: Carrying
    binds: tuple[Bind, ...]
    registry: Registry

    @property
    def notes(self) -> tuple[str, ...]:
        """Conflicts and what else a person should know, each with its next step."""
        return (*self.merge.notes, *self.carrying.notes)


def preview(sysroot: Sysroot, commit: Commit) -> Preview:
    """Read the machine, the registry and the commit; raises as deploying it would."""
    host = find_host(sysroot)
    people = read_people(host, sysroot) if host is not None else People()
    files = BuildFiles(sysroot.repository, commit)
    return Preview(
        host,
        people,
        merge_people(files.account_files(), people, files.has_program),
        find_carried(host, sysroot.config.carry) if host is not None else Carrying((), ()),
        tuple(list_binds(sysroot)),
        read_registry(sysroot),
    )
