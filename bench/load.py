"""Many at once: pushes and pulls for a minute over loopback, with a restart of the server.

Fifty machines push builds of their own branch, two hundred testers pull whichever branch, and half
way through the server is stopped and started. At the end every acknowledged build must be there,
every client must have ended well, and the farm must be whole.
"""

import argparse
import asyncio
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness import HACKTREE

from hacktree.client.connect import open_source
from hacktree.client.heads import UnsignedHeads
from hacktree.client.pull import PullReport, PullRequest, decoders, pull
from hacktree.client.push.connection import connect_for_push
from hacktree.client.push.pushing import push
from hacktree.client.remote import Remote
from hacktree.client.retry import Patience, RetryPolicy
from hacktree.client.target import Wanted
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.committing import CommitRequest, commit_source
from hacktree.common.repository.directory import ingest_directory
from hacktree.common.repository.fsck import fsck
from hacktree.common.repository.ingest import IngestOptions
from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.refs import read_ref
from hacktree.common.repository.repository import Repository, open_repository

FILES, SIZE = 12, 4000
NO_RESERVE = 'min-free-space = "0"\n'
MANY = f"{NO_RESERVE}\n[push]\nmax-open = 1000\n"


@dataclass
class Farm:
    """A server on a listening socket of ours: no connection is refused while it restarts."""

    work: Path
    listening: socket.socket
    process: subprocess.Popen[bytes] | None = None
    acknowledged: dict[str, list[ObjectId]] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    peak: int = 0

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self.listening.getsockname()[:2]
        return f"http://{host}:{port}"

    def start(self) -> None:
        """Begin to serve the socket, as systemd would pass it."""
        os.dup2(self.listening.fileno(), 3)
        script = f"LISTEN_FDS=1 LISTEN_PID=$$ exec {HACKTREE} --repo {self.work}/farm serve --api"
        with (self.work / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", script], pass_fds=[3], stdout=subprocess.PIPE, stderr=log
            )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def stop(self) -> None:
        """SIGTERM, and what memory it took."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        self.peak = max(self.peak, int(line.split()[1]) << 10)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def new_repository(path: Path, mode: Mode, config: str) -> Repository:
    """An empty repository."""
    init_repository(path, mode)
    (path / "config.toml").write_text(config)
    return open_repository(path)


def patience() -> Patience:
    """That of the commands."""
    return Patience(RetryPolicy(), time.monotonic, asyncio.sleep, random.random)


def commit(repository: Repository, branch: str, tree: Path, number: int) -> ObjectId:
    """The next build: every file changes."""
    tree.mkdir(exist_ok=True)
    for name in range(FILES):
        (tree / f"f{name}").write_bytes(random.randbytes(SIZE))
    request = CommitRequest(parse_branch_name(branch), number)
    ingest = lambda transaction, base: ingest_directory(  # noqa: E731
        transaction, tree, IngestOptions(base=base)
    )
    return commit_source(repository, ingest, request).id


async def pusher(farm: Farm, number: int, secret: str, until: float) -> None:
    """Push builds of one branch, one after the other."""
    branch = f"b{number}"
    place = farm.work / f"ci-{number}"
    repository = new_repository(place, Mode.ARCHIVE, NO_RESERVE)
    remote = Remote("server", farm.url, "unsigned")
    count = 0
    while time.monotonic() < until:
        count += 1
        head = await asyncio.to_thread(commit, repository, branch, place / "tree", count)
        async with connect_for_push(remote, secret, patience()) as server:
            name = parse_branch_name(branch)
            await push(repository, name, head, server, lambda _done, _total: None)
        farm.acknowledged.setdefault(branch, []).append(head)
        farm.done["pushes"] += 1


async def puller(farm: Farm, number: int, until: float) -> None:
    """Pull whichever branch; it must be at least where it was when the pull began."""
    place = farm.work / f"tester-{number}"
    repository = new_repository(place, Mode.BARE_USER, NO_RESERVE)
    remote = Remote("farm", farm.url, "unsigned")
    with decoders(repository) as pool:
        while time.monotonic() < until:
            if not farm.acknowledged:
                await asyncio.sleep(0.2)
                continue
            branch = random.choice(list(farm.acknowledged))
            known = len(farm.acknowledged[branch])
            async with open_source(remote, patience(), 4) as source:
                request = PullRequest("farm", Wanted.parse(branch), 4)
                result = await pull(
                    repository, request, UnsignedHeads(source), [source], PullReport(), pool
                )
            if result.target.commit.sequence < known:
                farm.failures.append(f"{branch}: build {result.target.commit.sequence} < {known}")
            farm.done["pulls"] += 1


async def load(farm: Farm, secret: str, pushers: int, pullers: int, seconds: float) -> None:
    """All of them, and a restart half way."""
    until = time.monotonic() + seconds
    clients = [pusher(farm, number, secret, until) for number in range(pushers)]
    clients += [puller(farm, number, until) for number in range(pullers)]
    tasks = [asyncio.create_task(client) for client in clients]
    await asyncio.sleep(seconds / 2)
    await asyncio.to_thread(farm.stop)
    farm.start()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, BaseException):
            farm.failures.append(repr(ended))


def main() -> int:
    """Run it and say how it ended; exit status 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pushers", type=int, default=50)
    parser.add_argument("--pullers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with (
        tempfile.TemporaryDirectory(prefix="hacktree-load-") as name,
        socket.create_server(("127.0.0.1", 0), backlog=1024) as listening,
    ):
        farm = Farm(Path(name), listening)
        repository = new_repository(Path(name) / "farm", Mode.ARCHIVE, MANY)
        create = ("token", "create", "--can", "push:**", "--expires", "1d")
        secret = subprocess.run(
            [HACKTREE, "--repo", str(repository.path), *create],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        farm.start()
        asyncio.run(load(farm, secret, args.pushers, args.pullers, args.seconds))
        farm.stop()
        for branch, heads in farm.acknowledged.items():
            if read_ref(repository, branch) != heads[-1]:
                farm.failures.append(f"{branch} is not where it was acknowledged")
        report = fsck(repository)
        print(
            f"{args.pushers} push, {args.pullers} pull for {args.seconds:.0f} s, one restart: "
            f"{farm.done['pushes']} pushes, {farm.done['pulls']} pulls, "
            f"{len(farm.failures)} failures, server {farm.peak / 1e6:.0f} MB, "
            f"fsck {'clean' if report.intact else 'DAMAGED'}"
        )
        for failure in farm.failures[:10]:
            print(f"  {failure}")
        return 1 if farm.failures or not report.intact else 0


if __name__ == "__main__":
    sys.exit(main())
