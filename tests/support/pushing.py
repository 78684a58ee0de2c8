"""What the tests of push share: a real server that can be killed, and pushes to it."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

from hacktree.client.push.batches import objects_to_push
from hacktree.client.push.connection import connect_for_push
from hacktree.client.push.pushing import PushTotals, push
from hacktree.client.remote import Remote
from hacktree.client.source import Traffic
from hacktree.common.objects.commit import MAX_COMMIT_SIZE, decode_commit
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.push.framing import BATCH_END, ObjectKey, encode_header
from hacktree.common.push.messages import (
    API_PREFIX,
    FINISH_REQUEST,
    OPEN_ANSWER,
    OPEN_REQUEST,
    FinishRequest,
    OpenRequest,
)
from hacktree.common.push.refusals import Refusal, decode_refusal
from hacktree.common.repository.locks import LockKind, hold_lock
from hacktree.common.repository.objectnames import published_name
from hacktree.common.repository.refs import read_ref
from hacktree.common.repository.repository import Repository
from hacktree.server.push.journal import StagedObject, read_journal
from support.pulling import FakeTime, patience
from support.push_server import CI_SECRET
from support.servers import (
    START_SECONDS,
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
                start_new_session=True,
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
        self.send_kill()
        self.wait()

    def send_kill(self) -> None:
        """SIGKILL, for somebody else who waits: to strace and to what it traces."""
        os.killpg(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Until the server has ended by itself."""
        assert self._process is not None
        assert self._process.stdout is not None
        status = self._process.wait(120)
        self._process.stdout.close()
        self._process = None
        return status

    def stop(self) -> None:
        """SIGTERM, unless it has ended."""
        if self._process is not None:
            process, self._process = self._process, None
            # Below strace, too, which would leave it running.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            stop_server(process)

    def requests(self) -> list[LoggedRequest]:
        """What was asked of the API so far."""
        running = RunningServer(self.url, self.log, self.log, self.pid)
        return [entry for entry in running.requests() if entry.path.startswith("/api/")]

    def acknowledged(self) -> list[StagedObject]:
        """What the journals of unfinished pushes hold, once the server is done with what came."""
        found: list[StagedObject] = []
        for session in self.repository.staging.glob("push-*"):
            # A request that its client left is still synced and noted; a finished push is deleted.
            with (
                contextlib.suppress(FileNotFoundError),
                hold_lock(session, LockKind.SHARED, timeout=START_SECONDS),
            ):
                found += read_journal(session / "journal")
        return found


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


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """What the API answered; `code` is a refusal's."""

    status: int
    body: bytes
    headers: Message

    @property
    def refusal(self) -> Refusal:
        """Why it was refused."""
        return decode_refusal(self.body)


def ask(
    host: PushHost,
    path: str,
    body: bytes,
    *,
    method: str = "POST",
    secret: str | None = CI_SECRET,
) -> ApiAnswer:
    """One request to the API, made by hand."""
    parts = urlsplit(host.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    with contextlib.closing(connection):
        connection.request(method, API_PREFIX + path, body, headers)
        answer = connection.getresponse()
        return ApiAnswer(answer.status, answer.read(), answer.headers)


def open_by_hand(
    host: PushHost, source: Repository, commit_id: ObjectId, *, secret: str = CI_SECRET
) -> str:
    """Open the push of a commit; returns the push's id."""
    answer = ask(host, "/pushes", opening_of(source, commit_id), secret=secret)
    assert answer.status == 200, answer.body
    return OPEN_ANSWER.decode(answer.body).push


def opening_of(source: Repository, commit_id: ObjectId) -> bytes:
    """The request that opens the push of a commit."""
    encoded = source.read_meta(commit_id, MAX_COMMIT_SIZE)
    commit = decode_commit(encoded)
    parent = commit.parents[0] if commit.parents else b""
    return OPEN_REQUEST.encode(OpenRequest(1, commit.branch, parent, encoded))


def batch_of(*objects: tuple[ObjectKey, bytes]) -> bytes:
    """The body of a batch."""
    frames = [encode_header(key, len(data)) + data for key, data in objects]
    return b"".join(frames) + BATCH_END


def stored_objects(source: Repository, commit_id: ObjectId) -> list[tuple[ObjectKey, bytes]]:
    """What a commit reaches beyond its parent, as it is sent; without the commit."""
    keys = objects_to_push(source, commit_id, source.load_commit(commit_id))
    return [(key, (source.objects / published_name(key)).read_bytes()) for key in keys]


def finish_by_hand(host: PushHost, push_id: str, *, secret: str = CI_SECRET) -> ApiAnswer:
    """Ask for publication."""
    body = FINISH_REQUEST.encode(FinishRequest(1, b""))
    return ask(host, f"/pushes/{push_id}/finish", body, secret=secret)
