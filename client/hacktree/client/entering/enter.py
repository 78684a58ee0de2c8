"""Entering a root, or from a root the host: what is mounted, who runs, and how it is started."""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

import msgspec
from msgspec.structs import replace

from hacktree.client.edits.places import SILENCE, EtcPlace, prepare_etc
from hacktree.client.edits.var import prepare_var
from hacktree.client.entering.binds import session_binds
from hacktree.client.entering.environment import session_environment
from hacktree.client.entering.filesystem import Bind, View, Writes, build_filesystem, etc_tag
from hacktree.client.entering.holders import open_holder
from hacktree.client.entering.person import Person
from hacktree.client.entering.session import Session, begin_session
from hacktree.client.entering.syscalls import join_namespace, unshare
from hacktree.client.replay.namespaces import CLONE_NEWUSER
from hacktree.client.roots import RootMissingError
from hacktree.client.sysroot import Sysroot, refuse_other_owner
from hacktree.client.users.homes import list_binds
from hacktree.common.errors import BusyError, SystemFault
from hacktree.common.repository.locks import LockKind, take_lock, try_lock

_PATIENCE: Final = 60.0
"""Seconds; mounting takes a few milliseconds."""

_HOMES: Final = Path("/home")
_SHELLS: Final = ("/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh")


class NamespaceRefusedError(SystemFault):
    """This user may make no namespaces here."""


class Request(msgspec.Struct, frozen=True):
    """What to run (empty: a shell), as whom, with which environment; `above` as in `View`.

    `waiting` is told for whom and for what, when beginning takes more than a second.
    `variables` are set as they are, whatever is dropped of the caller's `environment`.
    """

    command: tuple[str, ...]
    person: Person
    environment: dict[str, str]
    writes: Writes = Writes.REFUSED
    above: Sequence[Path] = ()
    waiting: Callable[[str], None] | None = None
    variables: Mapping[str, str] = {}


def enter_root(sysroot: Sysroot, root: str, request: Request) -> int:
    """Run the request in `root`; returns the command's exit status, 128 + n for signal n.

    No prune deletes the root meanwhile. Raises `RootMissingError`, `NamespaceRefusedError`,
    `SessionError`, `CommandMissingError`, `CommandRefusedError`.
    """
    refuse_other_owner(sysroot.repository.path)
    with _hold_root(sysroot.roots / root):
        etc = prepare_etc(sysroot, root, _telling(request, "prepares /etc of another root"))
        view = View(
            sysroot.roots / root,
            _binds(sysroot, request),
            request.writes,
            etc,
            prepare_var(sysroot, root, _telling(request, "fills /var")),
            rootless=os.geteuid() != 0,
            above=request.above,
        )
        with _mounting(etc, _telling(request, f"mounts /etc of {root}")):
            session = _begin(view)
        return _run(session, root, request, rootless=view.rootless)


def enter_apart(sysroot: Sysroot, root: str, request: Request) -> int:
    """As `enter_root`, with the /etc and /var that the root was made with, not the machine's."""
    refuse_other_owner(sysroot.repository.path)
    with _hold_root(sysroot.roots / root):
        binds = _binds(sysroot, request)
        rootless = os.geteuid() != 0
        view = View(sysroot.roots / root, binds, request.writes, rootless=rootless)
        return _run(_begin(view), root, request, rootless=rootless)


def enter_host(host: Path, request: Request) -> int:
    """Run the request in the host's own file system, read-only, with the homes that are here."""
    homes = [Bind(_HOMES.resolve(), str(_HOMES))] if _HOMES.is_dir() else []
    binds = session_binds(request.person, request.environment, homes)
    view = View(host, binds, request.writes, rootless=os.geteuid() != 0)
    return _run(_begin(view), "host", request, rootless=view.rootless)


def _binds(sysroot: Sysroot, request: Request) -> list[Bind]:
    """What of the host a session in a root sees."""
    declared = [
        Bind(bind.source, f"/{bind.target}", bind.read_only) for bind in list_binds(sysroot)
    ]
    return session_binds(request.person, request.environment, declared)


@contextmanager
def _hold_root(directory: Path) -> Iterator[None]:
    """The root's own lock, shared; every process of the session but the command has it, too."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _gone(directory) from None
    try:
        if not try_lock(descriptor, LockKind.SHARED):
            raise BusyError(
                f"{directory.name} is being deleted", hint="`hacktree status` lists the others."
            )
        if not directory.exists():
            raise _gone(directory)
        yield
    finally:
        os.close(descriptor)


def _gone(directory: Path) -> RootMissingError:
    return RootMissingError(f"{directory.name} was deleted", hint="See `hacktree status`.")


def _telling(request: Request, task: str) -> Callable[[str], None] | None:
    tell = request.waiting
    return None if tell is None else lambda holders: tell(f"waiting for {holders}, which {task}")


@contextmanager
def _mounting(etc: EtcPlace | None, waiting: Callable[[str], None] | None) -> Iterator[None]:
    """One session at a time mounts this /etc; the next finds it mounted."""
    if etc is None:
        yield
        return
    descriptor = os.open(etc.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        take_lock(
            descriptor,
            etc.directory,
            LockKind.EXCLUSIVE,
            timeout=_PATIENCE,
            waiting=waiting,
            silence=SILENCE,
        )
        yield
    finally:
        # Closing is not enough: the session's first process has the descriptor, too.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _begin(view: View) -> Session:
    holder = open_holder(etc_tag(view.etc)) if view.etc is not None else None
    try:
        if view.rootless:
            _join_user_namespace(holder.users if holder is not None else None)
        mounts = replace(view, holder=holder)
        return begin_session(lambda: build_filesystem(mounts))
    finally:
        if holder is not None:
            holder.close()


def _join_user_namespace(users: int | None) -> None:
    """Without root: a user namespace in which this user may mount, and is alone."""
    user, group = os.geteuid(), os.getegid()
    try:
        if users is not None:
            join_namespace(users, CLONE_NEWUSER)
            return
        unshare(CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError as error:
        raise NamespaceRefusedError(
            f"user {user} may make no user namespace here: {error.strerror}",
            hint="Run it with sudo, or let users make them: sysctl user.max_user_namespaces, "
            "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns.",
        ) from error


def _run(session: Session, name: str, request: Request, *, rootless: bool) -> int:
    environment = session_environment(request.environment, request.person, name)
    environment |= request.variables
    directory = _working_directory()

    def start() -> NoReturn:
        if not rootless:
            _become(request.person)
        _change_directory(directory, request.person)
        shell = _find_shell(request.person)
        command = request.command or (shell,)
        try:
            os.execvpe(command[0], command, environment | {"SHELL": shell})  # noqa: S606
        except OSError as error:
            raise OSError(error.errno, error.strerror, command[0]) from error

    return session.run(start)


def _become(person: Person) -> None:
    os.setgroups(person.groups)
    os.setresgid(person.gid, person.gid, person.gid)
    os.setresuid(person.uid, person.uid, person.uid)


def _find_shell(person: Person) -> str:
    places = (person.shell, *_SHELLS)
    return next((path for path in places if path and os.access(path, os.X_OK)), _SHELLS[-1])


def _working_directory() -> tuple[str, os.stat_result] | None:
    try:
        path = os.getcwd()
        return path, os.stat(path)
    except OSError:
        return None


def _change_directory(before: tuple[str, os.stat_result] | None, person: Person) -> None:
    """Where the caller is, if that is the same directory in the root; else home; else /."""
    os.chdir("/")
    if before is not None:
        path, status = before
        try:
            if os.path.samestat(os.stat(path), status):
                os.chdir(path)
                return
        except OSError:
            # It is not there in the root.
            path = person.home
    try:
        os.chdir(person.home)
    except OSError:
        # A tree need not have it.
        return
