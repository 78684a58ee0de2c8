"""What the tests of push share: a real server that can be killed, and pushes to it."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from hacktree.client.push.connection import connect_for_push
from hacktree.client.push.pushing import PushTotals, push
from hacktree.client.remote import Remote
from hacktree.client.source import Traffic
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.refs import read_ref
from hacktree.common.repository.repository import Repository
from hacktree.server.push.journal import StagedObject, read_journal
from support.pulling import FakeTime, patience
from support.push_server import CI_SECRET
from support.servers import (
    LoggedRequest,
    RunningServer,
    hacktree_program,
    read_announcement,
    stop_server,
)

PROGRAM = Path(__file__).with_name("push_server.py")


class PushHost:
    """A listening socket, and at most one server at a time behind it."""

    def __init__(self, repository: Repository, directory: Path, listening: socket.socket) -> None:
        self.repository = repository
        self.log = directory / "stderr"
        self._listening = listening
        self._process: subprocess.Popen[bytes] | None = None
        host, port = listening.getsockname()[:2]
        self.url = f"http://{host}:{port}"

    def start(self, prefix: Sequence[str] = ()) -> None:
        """Start a server, below `prefix` (strace and its options) if given; it answers."""
        with self.log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, str(PROGRAM), str(self.repository.path),
                 str(self._listening.fileno())],
                pass_fds=[self._listening.fileno()],
                env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[1])},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )  # fmt: skip
        if not prefix:
            read_announcement(self._process, self.log)

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self.wait()

    def wait(self) -> int:
        """Until the server has ended by itself."""
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.stdout.close()
        status = self._process.wait(60)
        self._process = None
        return status

    def stop(self) -> None:
        """SIGTERM, unless it has ended."""
        if self._process is not None:
            process, self._process = self._process, None
            stop_server(process)

    def requests(self) -> list[LoggedRequest]:
        """What was asked of the API so far."""
        running = RunningServer(self.url, self.log, self.log, self.pid)
        return [entry for entry in running.requests() if entry.path.startswith("/api/")]

    def acknowledged(self) -> list[StagedObject]:
        """What the journals of unfinished pushes hold."""
        return [
            staged
            for journal in self.repository.staging.glob("push-*/journal")
            for staged in read_journal(journal)
        ]


@contextlib.contextmanager
def push_host(repository: Repository) -> Iterator[PushHost]:
    """A host whose server is yet to be started."""
    with (
        tempfile.TemporaryDirectory(prefix="hacktree-push-") as name,
        socket.create_server(("127.0.0.1", 0), backlog=128) as listening,
    ):
        host = PushHost(repository, Path(name), listening)
        try:
            yield host
        finally:
            host.stop()


@contextlib.contextmanager
def running_host(repository: Repository) -> Iterator[PushHost]:
    """A host whose server answers."""
    with push_host(repository) as host:
        host.start()
        yield host


async def push_to(
    url: str,
    repository: Repository,
    branch: str = "fastqa",
    commit: ObjectId | None = None,
    *,
    secret: str = CI_SECRET,
) -> tuple[PushTotals, Traffic]:
    """Push as the command does, without waiting between attempts."""
    remote = Remote("server", url, "unsigned")
    head = commit or read_ref(repository, branch)
    assert head is not None
    async with connect_for_push(remote, secret, patience(FakeTime())) as server:
        totals = await push(repository, BranchName(branch), head, server, lambda _d, _t: None)
        return totals, server.traffic


def push_command(url: str, repository: Repository, *arguments: str) -> list[str]:
    """The command line of `hacktree push` from `repository`."""
    options = ["--repo", str(repository.path), "--json"]
    return [hacktree_program(), *options, "push", *arguments, "--server", url]
