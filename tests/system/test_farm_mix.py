"""Promise: whatever a farm goes through, it ends whole, and no branch ever goes back.

A seeded mix of pushes, promotions, pulls, prunes, expiries and kills, with real processes.
`HACKTREE_MIX_SECONDS` runs it for longer, `HACKTREE_MIX_SEED` otherwise.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.fsck import fsck
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import open_repository
from hacktree.common.trust.editing import signed_heads
from hacktree.common.trust.store import TrustStore
from support.servers import hacktree_program, read_announcement

SECONDS = float(os.environ.get("HACKTREE_MIX_SECONDS", "20"))
SEED = int(os.environ.get("HACKTREE_MIX_SEED", "4"))
BRANCHES = ("builds", "fastqa")
Done = subprocess.CompletedProcess[str]


class Mix:
    """A farm, its server, CI's machine and testers, and what was acknowledged."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.farm = work / "farm"
        self.random = random.Random(SEED)
        self.server: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.tree = work / "tree"
        self.tree.mkdir()
        self.acknowledged: dict[str, list[str]] = {branch: [] for branch in BRANCHES}
        self.promoted = ""
        self.counts: dict[str, int] = {}
        self._found()

    def _found(self) -> None:
        keys = self.work / "keys"
        keys.mkdir()
        self.call("--repo", self.farm, "init", "--mode", "archive")
        settings = 'min-free-space = "0"\nkeep-unreachable-hours = 0\n'
        (self.farm / "config.toml").write_text(settings)
        suite = '[suites.fastqa]\nsource = "builds"\ncommand = ["true"]\nlimit = "1m"\n'
        (self.farm / "server.toml").write_text(suite)
        founders = ("--root-key", keys / "root", "--targets-key", keys / "targets")
        self.call("--repo", self.farm, "trust", "init", *founders, "--no-passphrase")
        for branch in BRANCHES:
            self.call("trust", "new-key", keys / branch, "--no-passphrase")
            delegate = ("delegate", branch, "--key", keys / branch, "--sign-with", keys / "targets")
            self.call("--repo", self.farm, "trust", *delegate)
        create = ("token", "create", "--can", "push:**", "--expires", "1d")
        self.secret = self.call("--repo", self.farm, *create).stdout.strip()
        status = self.call("--repo", self.farm, "trust", "status", "--json").stdout
        self.root: str = json.loads(status)["root-fingerprint"]

    def call(
        self, *words: str | Path, allowed: tuple[int, ...] = (0,)
    ) -> "subprocess.CompletedProcess[str]":
        """A command; its exit status is one of `allowed`."""
        done = subprocess.run(
            [hacktree_program(), *map(str, words)],
            env=self.environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode in allowed, f"{words}: {done.returncode} {done.stderr}"
        return done

    def environment(self) -> dict[str, str]:
        """CI's."""
        secret = getattr(self, "secret", "")
        return {**os.environ, "HACKTREE_TOKEN": secret, "XDG_CACHE_HOME": str(self.work / "cache")}

    def start(self) -> None:
        """The server, on the port that it had."""
        listen = self.url.removeprefix("http://") or "127.0.0.1:0"
        log = self.work / "log"
        with log.open("ab") as stderr:
            self.server = subprocess.Popen(
                [hacktree_program(), "--repo", str(self.farm), "serve", "--api",
                 "--listen", listen],
                stdout=subprocess.PIPE, stderr=stderr,
            )  # fmt: skip
        self.url = read_announcement(self.server, log)

    def stop(self, number: int) -> None:
        """End the server by a signal."""
        assert self.server is not None
        assert self.server.stdout is not None
        self.server.send_signal(number)
        self.server.stdout.close()
        assert self.server.wait(60) in (0, -number)

    def change(self) -> None:
        """The next build's tree: some files change, come or go."""
        for _ in range(self.random.randint(1, 4)):
            path = self.tree / f"f{self.random.randrange(30)}"
            if path.exists() and self.random.random() < 0.2:
                path.unlink()
            else:
                path.write_bytes(self.random.randbytes(self.random.randrange(1, 60_000)))

    def push_words(self) -> list[str]:
        """CI's command line."""
        key = str(self.work / "keys/builds")
        words = ["push", "builds", str(self.tree), "--server", self.url, "--sign-with", key]
        return [hacktree_program(), *words, "--root-fingerprint", self.root, "--json"]

    def push(self) -> None:
        """A new build."""
        self.change()
        done = subprocess.run(
            self.push_words(), env=self.environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        self.acknowledged["builds"].append(json.loads(done.stdout)["commit"])

    def kill_in_push(self) -> None:
        """The server or the client dies somewhere in a push; pushing again completes it."""
        self.change()
        client = subprocess.Popen(
            self.push_words(), env=self.environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with contextlib.suppress(subprocess.TimeoutExpired):
            client.wait(self.random.uniform(0.3, 1.2))
        if self.random.random() < 0.5:
            self.stop(signal.SIGKILL)
            self.start()
        else:
            client.kill()
        client.wait(120)
        self.push()

    def promote(self) -> None:
        """The newest build becomes the next of `fastqa`, signed by another key."""
        if not self.acknowledged["builds"] or self.promoted == self.acknowledged["builds"][-1]:
            return
        self.promoted = self.acknowledged["builds"][-1]
        self.call(
            "--repo", self.farm, "promote", "fastqa", self.promoted, "--reason", "the mix",
            "--sign-with", self.work / "keys/fastqa",
        )  # fmt: skip
        head = self.call("--repo", self.farm, "rev-parse", "fastqa").stdout.strip()
        self.acknowledged["fastqa"].append(head)

    def pull(self) -> None:
        """A tester takes what is newest, and has all of it."""
        branch = self.random.choice(BRANCHES)
        if not self.acknowledged[branch]:
            return
        tester = self.work / f"tester-{self.random.randrange(3)}"
        if not tester.exists():
            self.call("--repo", tester, "init", "--mode", "bare-user")
            (tester / "config.toml").write_text('min-free-space = "0"\n')
            anchor = ("--root-file", self.farm / "trust/1.root.json")
            self.call("--repo", tester, "remote", "add", "farm", self.url, *anchor)
        pulled = self.call("--repo", tester, "pull", "--json", branch)
        assert json.loads(pulled.stdout)["commit"] in self.acknowledged[branch]
        self.call("--repo", tester, "fsck", "--quiet")

    def prune(self) -> None:
        """Old builds go; somebody may hold the lock."""
        keep = str(self.random.randint(1, 4))
        self.call("--repo", self.farm, "prune", "--keep-depth", keep, allowed=(0, 6))

    def expire(self) -> None:
        """A day passes for pushes that were killed; the next one finds them gone."""
        for session in self.farm.glob("tmp/push-*/session"):
            os.utime(session, (0, 0))
        self.push()

    def restart(self) -> None:
        """The server is stopped politely or not."""
        self.stop(self.random.choice((signal.SIGTERM, signal.SIGKILL)))
        self.start()

    def renew(self) -> None:
        """The timer."""
        self.call("--repo", self.farm, "trust", "renew")

    def run(self) -> None:
        """Mix until the time is over."""
        weights: dict[Callable[[], None], int] = {
            self.push: 6, self.kill_in_push: 4, self.promote: 4, self.pull: 6, self.prune: 2,
            self.expire: 1, self.restart: 1, self.renew: 1,
        }  # fmt: skip
        self.start()
        until = time.monotonic() + SECONDS
        try:
            while time.monotonic() < until:
                step = self.random.choices(list(weights), list(weights.values()))[0]
                self.counts[step.__name__] = self.counts.get(step.__name__, 0) + 1
                step()
        finally:
            self.stop(signal.SIGTERM)


def test_a_farm_ends_whole_and_no_branch_goes_back(tmp_path: Path) -> None:
    mix = Mix(tmp_path)
    mix.run()
    assert sum(mix.counts.values()) > 2
    assert mix.acknowledged["builds"]
    farm = open_repository(mix.farm)
    report = fsck(farm)
    assert not report.findings, report.findings
    signed = {str(k): v for k, v in signed_heads(TrustStore(farm).load()).items()}
    for branch, heads in mix.acknowledged.items():
        if not heads:
            continue
        head = list_refs(farm)[branch]
        assert head == signed[branch] == ObjectId(bytes.fromhex(heads[-1]))
        # Every acknowledged build is in the history, once, in the order in which it was pushed.
        order = list(dict.fromkeys(heads))
        chain: list[str] = []
        current: ObjectId | None = head
        while current is not None and farm.has_meta(current):
            commit = farm.load_commit(current)
            chain.append(current.hex())
            assert commit.branch == branch
            parent = commit.parents[0] if commit.parents else None
            if parent is not None and farm.has_meta(parent):
                assert farm.load_commit(parent).sequence == commit.sequence - 1
            current = parent
        kept = [name for name in order if name in chain]
        assert kept == [name for name in reversed(chain) if name in order]
    assert "Traceback" not in (tmp_path / "log").read_text()
