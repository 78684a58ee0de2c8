"""Reading a .deb with the host's dpkg-deb: deb(5), deb-control(5)."""

import hashlib
import re
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import IO, Final

from hacktree.client.extensions.package import (
    MAX_FILES,
    BadPackageError,
    PackageFile,
    PackedFile,
    packed_path,
)
from hacktree.client.extensions.programs import ENVIRONMENT, ask, require_program
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.packages import Package

_MAX_CONTROL: Final = 1 << 20
_CHUNK: Final = 1 << 20
_TYPES: Final = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.LNKTYPE: stat.S_IFREG,
}
_FIELD: Final = re.compile(r"^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)", re.MULTILINE)
_DEPENDENCY: Final = re.compile(r"[a-z0-9][a-z0-9+.-]*")


def read_deb(path: Path) -> PackageFile:
    """What the .deb is and brings; raises `BadPackageError`, `ProgramMissingError`."""
    status, control = ask(["dpkg-deb", "--field", path.absolute()])
    if status or len(control) > _MAX_CONTROL:
        raise BadPackageError(f"{path}: not a deb file that can be used: {control[:500].strip()}")
    fields = {name.lower(): value.strip() for name, value in _FIELD.findall(control)}
    try:
        package = Package(
            fields.get("package", ""), fields.get("version", ""), fields.get("architecture", "")
        )
    except FormatError as error:
        raise BadPackageError(f"{path}: {error}") from error
    needed = f"{fields.get('depends', '')},{fields.get('pre-depends', '')}"
    requires = (_DEPENDENCY.match(word.strip()) for word in re.split(r"[,|]", needed))
    names = tuple(dict.fromkeys(found[0] for found in requires if found))
    return PackageFile(path, "deb", package, _files(path), names, control.strip())


def _files(path: Path) -> tuple[PackedFile, ...]:
    require_program("dpkg-deb")
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", path.absolute()],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            files = _read_tar(process.stdout, path)
            # What follows the archive's end; dpkg-deb must not die of a closed pipe.
            while process.stdout.read(_CHUNK):
                pass
        except tarfile.TarError as error:
            raise BadPackageError(f"{path}: its contents can't be read: {error}") from error
        finally:
            process.stdout.close()
        if process.wait():
            raise BadPackageError(f"{path}: its contents are damaged")
    return files


def _read_tar(stream: IO[bytes], path: Path) -> tuple[PackedFile, ...]:
    files: list[PackedFile] = []
    with tarfile.open(fileobj=stream, mode="r|", errors="surrogateescape") as archive:
        for member in archive:
            place = packed_path(member.name.encode("utf-8", "surrogateescape"), path)
            kind = _TYPES.get(member.type)
            if kind is None:
                raise BadPackageError(f"{path}: {member.name!r} is neither file, link nor folder")
            if len(files) >= MAX_FILES:
                raise BadPackageError(f"{path}: more than {MAX_FILES} paths")
            digest = hashlib.sha256()
            content = archive.extractfile(member) if member.type == tarfile.REGTYPE else None
            while content is not None and (chunk := content.read(_CHUNK)):
                digest.update(chunk)
            files.append(
                PackedFile(
                    place,
                    kind | stat.S_IMODE(member.mode),
                    digest.digest() if content is not None else b"",
                    member.linkname.encode("utf-8", "surrogateescape"),
                    _account(member.uname, member.uid),
                    _account(member.gname, member.gid),
                )
            )
    return tuple(file for file in files if file.path)


def _account(name: str, number: int) -> str:
    return name or ("root" if number == 0 else str(number))
