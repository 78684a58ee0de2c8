"""What a machine says of its layers: `<sysroot>/etc/hacktree/layers.d/<name>.toml`.

A layer is a tree as `make install DESTDIR=` leaves one. Its files are commits of the local branch
`local/layers/<name>`; the definition says where they come from and how they are laid over a root.
"""

import enum
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import msgspec
import tomli_w
from msgspec import Meta

from hacktree.client.sysroot import Sysroot, SysrootOwnerError
from hacktree.common.errors import UserError
from hacktree.common.objects.names import BranchName, parse_branch_name
from hacktree.common.repository.durable import make_directories, remove_durably, write_durably
from hacktree.common.repository.locks import LockKind, hold_lock
from hacktree.common.repository.retention import LAYERS

DIRECTORY: Final = Path("etc/hacktree/layers.d")
"""Relative to the sysroot."""

_SUFFIX: Final = ".toml"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_STEP: Final = 10
_MAX_SIZE: Final = 1 << 20

Pattern = Annotated[str, Meta(min_length=1, max_length=4096)]


class LayerMissingError(UserError):
    """There is no such layer."""


class SourceKind(enum.Enum):
    """Where a layer's tree comes from."""

    DIRECTORY = "directory"
    TAR = "tar"
    COMMAND = "command"


class MisfitPolicy(enum.Enum):
    """What a library that a layer needs and a root lacks means for a deploy."""

    REFUSE = "refuse"
    WARN = "warn"


class LayerDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """One layer. `path`: the directory or tar archive, or the directory that `command` runs in.

    `user`: who runs the command when root is asked to. `order`: the lowest is laid first. `replace`
    and `remove`: `fnmatch` patterns of the operating system's paths, which also match what is below
    a directory. `keep_owners`: owners are those of the source, not root. `enabled`: laid at all.
    """

    source: SourceKind
    path: Annotated[str, Meta(min_length=1, max_length=4096)]
    command: tuple[str, ...] = ()
    user: str = ""
    order: Annotated[int, Meta(ge=0, le=1_000_000)] = _STEP
    replace: tuple[Pattern, ...] = ()
    remove: tuple[Pattern, ...] = ()
    misfit: MisfitPolicy = MisfitPolicy.REFUSE
    keep_owners: bool = False
    enabled: bool = True

    def __post_init__(self) -> None:
        if (self.source is SourceKind.COMMAND) != bool(self.command):
            raise ValueError("`command` belongs to source = 'command', and to no other")
        if not os.path.isabs(self.path):
            raise ValueError(f"`path` is not absolute: {self.path!r}")
        for pattern in (*self.replace, *self.remove):
            check_pattern(pattern)


def check_pattern(pattern: str) -> None:
    """Raise `ValueError` for a pattern that can't match the path of anything in a root."""
    names = pattern.strip("/").split("/")
    if any(name in ("", ".", "..") for name in names):
        raise ValueError(f"not a pattern of paths: {pattern!r}")


def parse_layer_name(text: str) -> str:
    """A layer's name; raises `UserError` with the rule that it breaks."""
    if not _NAME.fullmatch(text):
        raise UserError(
            f"not a name for a layer: {text!r}",
            hint="[a-z0-9], then up to 63 of [a-z0-9._-].",
        )
    parse_branch_name(text)
    return text


def layer_branch(name: str) -> BranchName:
    """The local branch with the layer's versions."""
    return parse_branch_name(f"{LAYERS}{parse_layer_name(name)}")


def definition_path(sysroot: Sysroot, name: str) -> Path:
    """Where the layer is defined."""
    return sysroot.path / DIRECTORY / f"{parse_layer_name(name)}{_SUFFIX}"


def read_layers(sysroot: Sysroot) -> dict[str, LayerDefinition]:
    """Every layer by name, in the order in which they are laid, disabled ones too."""
    directory = sysroot.path / DIRECTORY
    try:
        found = sorted(os.listdir(directory))
    except FileNotFoundError:
        return {}
    names = [
        name.removesuffix(_SUFFIX)
        for name in found
        if name.endswith(_SUFFIX) and not name.startswith(".")
    ]
    layers = {name: read_layer(sysroot, name) for name in names}
    return dict(sorted(layers.items(), key=lambda item: (item[1].order, item[0])))


def read_layer(sysroot: Sysroot, name: str) -> LayerDefinition:
    """One layer; raises `LayerMissingError`, and `UserError` that names the fault in its file."""
    path = definition_path(sysroot, name)
    try:
        with open(path, "rb") as stream:
            text = stream.read(_MAX_SIZE)
    except FileNotFoundError:
        raise LayerMissingError(
            f"there is no layer {name}", hint="`hacktree layer list` lists them."
        ) from None
    try:
        return msgspec.convert(tomllib.loads(text.decode()), LayerDefinition)
    except ValueError as error:
        raise UserError(f"{path}: {error}", hint="Mend or delete the file.") from error


def write_layer(sysroot: Sysroot, name: str, layer: LayerDefinition) -> None:
    """Define a layer, or define it anew, durably; comments in the file are lost."""
    path = definition_path(sysroot, name)
    make_directories(sysroot.path, DIRECTORY, mode=0o755)
    write_durably(path, encode_layer(layer), mode=0o644)


def encode_layer(layer: LayerDefinition) -> bytes:
    """The definition as TOML; raises `UserError` for words that are not UTF-8."""
    try:
        return tomli_w.dumps(msgspec.to_builtins(layer)).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"not UTF-8: {error.object[: error.end]!r}",
            hint="A layer's definition is a text file: choose other names.",
        ) from None


def forget_layer(sysroot: Sysroot, name: str) -> None:
    """Delete a layer's definition."""
    remove_durably(definition_path(sysroot, name))


@contextmanager
def hold_layers(sysroot: Sysroot) -> Iterator[None]:
    """One change of layers at a time; raises `BusyError` that names who is at it.

    Not the sysroot's lock: a deploy goes on with the versions it began with, while a command builds
    the next one.
    """
    if not os.access(sysroot.repository.path, os.W_OK):
        raise SysrootOwnerError(
            f"{sysroot.repository.path} can't be written by this user",
            hint="Run this as its owner; for the machine's own roots that is root: sudo.",
        )
    path = sysroot.repository.state / "layers.lock"
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    with hold_lock(path, LockKind.EXCLUSIVE):
        yield


def next_order(layers: dict[str, LayerDefinition]) -> int:
    """Behind all others."""
    return max((layer.order for layer in layers.values()), default=0) + _STEP


def reorder(sysroot: Sysroot, names: Sequence[str]) -> dict[str, LayerDefinition]:
    """Lay the named layers first, in this order, then the others in theirs; returns all.

    One file after the other is replaced: run again it completes what was cut off.
    """
    layers = read_layers(sysroot)
    for name in names:
        if name not in layers:
            read_layer(sysroot, name)
    if len(set(names)) != len(names):
        raise UserError("a layer is named twice", hint="Name each layer once.")
    wanted = [*names, *(name for name in layers if name not in names)]
    changed = {}
    for position, name in enumerate(wanted, 1):
        changed[name] = msgspec.structs.replace(layers[name], order=position * _STEP)
        if changed[name] != layers[name]:
            write_layer(sysroot, name, changed[name])
    return changed
