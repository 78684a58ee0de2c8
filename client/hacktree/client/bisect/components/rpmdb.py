"""Reading headers out of rpm's database, and making one of headers; mostly by the host's rpmdb.

That works in a scratch directory. No package's script runs: headers are only stored. What it reads
may be hostile, so it gets a time, and its output a limit.
"""

import os
import subprocess
from pathlib import Path
from shutil import which
from threading import Timer
from typing import Final

from hacktree.client.bisect.components.rpm import split_export
from hacktree.client.extensions.programs import ENVIRONMENT, SEARCHED, ProgramMissingError
from hacktree.client.scratch import scratch_directory
from hacktree.common.errors import SystemFault
from hacktree.common.objects.names import display_path
from hacktree.common.objects.rpmndb import encode_ndb, ndb_headers
from hacktree.common.repository.packages import MAX_RPM_DATABASE_SIZE, rpm_headers

SQLITE: Final = "sqlite"
NDB: Final = "ndb"
KINDS: Final = {
    SQLITE: b"rpmdb.sqlite",
    NDB: b"Packages.db",
    "bdb": b"Packages",
}
"""The file with the headers of each kind of database, by rpm's name for it."""

_SECONDS: Final = 600.0
_MAX_SAID: Final = 64 << 10


def require_rpmdb(kind: str, name: str) -> None:
    """Raises `ProgramMissingError` unless the host has it; `name`: the build that needs it, `kind`:
    of its database."""
    if kind != NDB and which("rpmdb", path=SEARCHED) is None:
        raise ProgramMissingError(
            f"{name} has an rpm database, and this machine has no rpmdb, which mixes them",
            hint="Install the package rpm.",
        )


def can_write(kind: str) -> bool:
    """Whether a database of this kind can be made here."""
    if kind == NDB:
        return True
    with scratch_directory() as scratch:
        try:
            _run(kind, scratch, "--initdb")
        except SystemFault:
            return False
        # An unknown kind is a warning to rpm, which then writes nothing.
        return (scratch / os.fsdecode(KINDS[kind])).exists()


def read_headers(kind: str, database: bytes) -> list[bytes]:
    """The headers in a database; only Berkeley DB is left to rpm.

    Raises `FormatError` for a damaged database, `SystemFault` if rpm reads nothing from it.
    """
    if kind == SQLITE:
        return list(rpm_headers(database))
    if kind == NDB:
        return list(ndb_headers(database))
    with scratch_directory() as scratch:
        (scratch / os.fsdecode(KINDS[kind])).write_bytes(database)
        stream = _run(kind, scratch, "--exportdb")
    if not stream:
        # To read a kind that it doesn't know is a success to rpm.
        raise SystemFault("rpmdb --exportdb found nothing in it")
    return split_export(stream)


def write_database(kind: str, stream: bytes) -> bytes:
    """A database of the headers in `stream`, which is as `rpmdb --exportdb` has them.

    What rpm wrote is read again: raises `SystemFault` unless it has taken every header as it was.
    """
    headers = split_export(stream)
    if kind == NDB:
        return encode_ndb(headers)
    with scratch_directory() as scratch:
        (scratch / "export").write_bytes(stream)
        _run(kind, scratch, "--importdb", scratch / "export")
        path = scratch / os.fsdecode(KINDS[kind])
        database = path.read_bytes() if path.exists() else b""
    if not database or sorted(read_headers(kind, database)) != sorted(headers):
        raise SystemFault(
            "rpm on this machine did not take the headers of both builds as they are",
            hint="A newer rpm may: look at `rpm --version` here and in the builds.",
        )
    return database


def _run(kind: str, database: Path, action: str, stdin: Path | None = None) -> bytes:
    """What it prints; raises `SystemFault` with what it says."""
    defined = {
        "_dbpath": database,
        "_db_backend": kind,
        "_rpmlock_path": database / ".rpm.lock",
    }
    words = [word for name, value in defined.items() for word in ("--define", f"{name} {value}")]
    said = database / "said"
    with (
        open(stdin or os.devnull, "rb") as source,
        open(said, "wb") as complaints,
        subprocess.Popen(
            ["rpmdb", *words, action],
            env=ENVIRONMENT,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=complaints,
        ) as process,
    ):
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        watchdog = Timer(_SECONDS, process.kill)
        watchdog.start()
        try:
            data = process.stdout.read(MAX_RPM_DATABASE_SIZE + 1)
            if len(data) > MAX_RPM_DATABASE_SIZE:
                process.kill()
            status = process.wait()
        finally:
            watchdog.cancel()
    problems = _errors(said)
    # It ends with 0 though it could not read on.
    if status or problems:
        raise SystemFault(f"rpmdb {action} failed ({status}): {problems or 'it does not say why'}")
    return data


def _errors(said: Path) -> str:
    """Its errors, without its warnings; escaped, since they may quote the build."""
    with open(said, "rb") as stream:
        lines = stream.read(_MAX_SAID).splitlines()
    errors = [line.removeprefix(b"error: ") for line in lines if line.startswith(b"error:")]
    return display_path(b"; ".join(errors)[:500])
