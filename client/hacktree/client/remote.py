"""Remotes: where builds come from. One TOML file each in the repository's private state."""

import shutil
import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec
import tomli_w
from msgspec import Meta

from hacktree.common.errors import CorruptError, UserError
from hacktree.common.loopback import is_loopback
from hacktree.common.objects.errors import NameInvalidError
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.durable import (
    make_directories,
    remove_durably,
    write_durably,
)
from hacktree.common.repository.repository import Repository

SCHEMES: Final = ("http", "https", "file")
_SUFFIX: Final = ".toml"


class RemoteMissingError(UserError):
    """There is no such remote."""


class Remote(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """A remote. TLS files are paths; `proxy` is a URL (else the environment's is used).

    `token_file` is the path of the token that bisections lease builds with.
    """

    name: str
    url: Annotated[str, Meta(max_length=4096)]
    trust: Literal["unsigned", "tuf"]
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    proxy: str | None = None
    token_file: str | None = None

    def __post_init__(self) -> None:
        check_remote_name(self.name)
        _check_url(self.url)
        if self.tls_key is not None and self.tls_cert is None:
            raise UserError("a TLS key without its certificate", hint="Add --tls-cert FILE.")

    @property
    def local_path(self) -> Path | None:
        """The directory of a `file://` remote."""
        parts = urlsplit(self.url)
        return Path(parts.path) if parts.scheme == "file" else None

    @property
    def is_near(self) -> bool:
        """Whether it is on this machine: no network is between."""
        return self.local_path is not None or is_loopback(self.url)

    @property
    def shown_url(self) -> str:
        """The URL without a password."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def check_remote_name(name: str) -> str:
    """A remote's name is one component of a branch name; raises `NameInvalidError`."""
    if "/" in name:
        raise NameInvalidError(f"remote name {name!r}: it can't contain '/'")
    parse_branch_name(name)
    return name


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        complete = bool(parts.path if parts.scheme == "file" else parts.hostname)
    except ValueError as error:
        raise UserError(f"not a URL: {url!r}: {error}") from error
    if parts.scheme not in SCHEMES or not complete or parts.query or parts.fragment:
        raise UserError(
            f"not a URL of a repository: {url!r}",
            hint="https://host/path, http://host/path or file:///path, without '?' and '#'.",
        )
    if parts.scheme == "file" and parts.netloc:
        raise UserError(f"{url!r} names a host", hint="Three slashes: file:///path.")


def add_remote(repository: Repository, remote: Remote) -> None:
    """Record a remote; raises `UserError` if its name is taken by a different one."""
    path = _path(repository, remote.name)
    if path.exists():
        if load_remote(repository, remote.name) == remote:
            return
        raise UserError(
            f"there is a remote {remote.name} already",
            hint=f"hacktree remote remove {remote.name}",
        )
    make_directories(repository.path, Path("state/remotes"), mode=0o700)
    fields = {key: value for key, value in msgspec.to_builtins(remote).items() if value is not None}
    del fields["name"]
    write_durably(path, tomli_w.dumps(fields).encode())


def load_remote(repository: Repository, name: str) -> Remote:
    """The remote `name`; raises `RemoteMissingError`, `CorruptError`."""
    path = _path(repository, check_remote_name(name))
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise _missing(repository, name) from None
    try:
        return msgspec.convert({**tomllib.loads(text), "name": name}, Remote)
    except (ValueError, UserError) as error:
        raise CorruptError(f"{path}: {error}", hint="Mend or delete the file.") from error


def list_remotes(repository: Repository) -> list[Remote]:
    """All remotes, by name."""
    return [load_remote(repository, name) for name in _names(repository)]


def remove_remote(repository: Repository, name: str) -> None:
    """Forget a remote; what was pulled from it stays."""
    path = _path(repository, check_remote_name(name))
    if not path.exists():
        raise _missing(repository, name)
    remove_durably(path)
    # What was seen of its signatures, too: added again, it is believed by its fingerprint alone.
    shutil.rmtree(repository.state / "remote-trust" / name, ignore_errors=True)


def choose_remote(repository: Repository, name: str | None) -> Remote:
    """The named remote, or the only one; raises `UserError` when there are none or several."""
    if name is not None:
        return load_remote(repository, name)
    names = _names(repository)
    if len(names) == 1:
        return load_remote(repository, names[0])
    if not names:
        raise RemoteMissingError(
            f"{repository.path} has no remote",
            hint="hacktree remote add NAME URL --root-fingerprint …",
        )
    raise UserError(
        f"there are {len(names)} remotes: {', '.join(names)}",
        hint="Name one: hacktree pull NAME:BRANCH, or --remote NAME.",
    )


def _names(repository: Repository) -> list[str]:
    paths = (repository.state / "remotes").glob(f"*{_SUFFIX}")
    return sorted(path.name.removesuffix(_SUFFIX) for path in paths if path.name[0] != ".")


def _path(repository: Repository, name: str) -> Path:
    return repository.state / "remotes" / (name + _SUFFIX)


def _missing(repository: Repository, name: str) -> RemoteMissingError:
    known = ", ".join(_names(repository)) or "none"
    return RemoteMissingError(
        f"there is no remote {name} (known: {known})",
        hint=f"hacktree remote add {name} URL --root-fingerprint …",
    )
