"""The peer: Debian's ostree, its archive of the three builds, and what its deltas would cost."""

import base64
import re
import subprocess
from pathlib import Path

from bench.harness import measure
from bench.network import Traffic

OVERHEAD = 4
"""Requests of a pull with a delta besides its parts: configuration, summary and its signature,
superblock.
"""


class Ostree:
    """An archive repository whose branch `builds` holds builds 0, 1 and 2."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def commit(self, trees: Path) -> None:
        """Make it unless it is there."""
        if self.path.exists():
            return
        self._measure("init", "--mode=archive")
        for number in (0, 1, 2):
            tree = f"--tree=dir={trees / str(number)}"
            self._measure("commit", "-b", "builds", tree, "-s", str(number))

    def revision(self, number: int) -> str:
        """The commit of build 0, 1 or 2."""
        return self.output("rev-parse", "builds" + "^" * (2 - number)).strip()

    def generate(self, old: int, new: int) -> tuple[str, ...]:
        """The command that makes a delta."""
        return self._command("static-delta", "generate", f"--from={self.revision(old)}",
                             f"--to={self.revision(new)}")  # fmt: skip

    def summarize(self) -> None:
        """Write the summary, which lists the deltas."""
        self._measure("summary", "--update")

    def clean(self, old: int, new: int) -> Traffic:
        """What a pull with the delta has to fetch: its parts, the objects that it leaves out, the
        superblock.
        """
        names = self.revision(old), self.revision(new)
        shown = self.output("static-delta", "show", "-".join(names))
        parts = [int(size) for size in re.findall(r"^PartMeta\d+: .*\bsize=(\d+)", shown, re.M)]
        whole = _number(r"^Number of fallback entries: (\d+)", shown)
        whole_size = _number(r"^Total Fallback Size: (\d+)", shown)
        first, second = (
            base64.b64encode(bytes.fromhex(n), b"+_").decode().rstrip("=") for n in names
        )
        superblock = self.path / "deltas" / first[:2] / f"{first[2:]}-{second}" / "superblock"
        size = sum(parts) + whole_size + superblock.stat().st_size
        return Traffic(len(parts) + whole + OVERHEAD, size)

    def new_client(self, path: Path, url: str, number: int) -> None:
        """A bare repository that has a build."""
        measure("ostree", f"--repo={path}", "init", "--mode=bare")
        measure("ostree", f"--repo={path}", "remote", "add", "--no-gpg-verify", "o", url)
        measure(*self.pull(path, number, "--disable-static-deltas"))

    def pull(self, client: Path, number: int, *options: str) -> tuple[str, ...]:
        """The command that pulls a build."""
        build = f"builds@{self.revision(number)}"
        return ("ostree", f"--repo={client}", "pull", *options, "o", build)

    def output(self, *words: str) -> str:
        """What a command on the archive prints."""
        done = subprocess.run(self._command(*words), stdout=subprocess.PIPE, check=True)
        return done.stdout.decode("utf-8", "surrogateescape")

    def _command(self, *words: str) -> tuple[str, ...]:
        return ("ostree", f"--repo={self.path}", *words)

    def _measure(self, *words: str) -> None:
        measure(*self._command(*words))


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text, re.M)
    return int(found[1]) if found else 0
