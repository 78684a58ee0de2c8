"""A root for tests of single steps: a plain directory, without overlay or namespaces."""

import os
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace  # noqa: TID251 - of a dataclass
from fnmatch import fnmatch
from pathlib import Path

from hacktree.client.replay.step import Build, StepFailedError


@dataclass
class PlainRoot:
    """`changed`: paths that an earlier step is said to have touched; `said`: what was told."""

    path: Path
    build: Build
    changed: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def touched(self, patterns: Iterable[str]) -> bool:
        """As `Root.touched`."""
        return any(fnmatch(path, pattern) for path in self.changed for pattern in patterns)

    def written(self) -> Sequence[Collection[str]]:
        """As `Root.written`: of one step."""
        return [self.changed]

    def having_written(self, paths: Collection[str]) -> "PlainRoot":
        """As `Root.having_written`."""
        return replace(self, changed=list(paths))

    def run(
        self,
        command: Sequence[str],
        *,
        inside: bool = True,
        environment: Mapping[str, str] | None = None,
        seconds: float = 300.0,
        network: bool = False,
    ) -> str:
        """As `Root.run`, with no more isolation than a chroot: `network` changes nothing."""
        clean = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "HACKTREE_ROOT": "/" if inside else str(self.path),
            "HACKTREE_BUILD": self.build.id.hex(),
            "HACKTREE_BRANCH": self.build.commit.branch,
        }
        done = subprocess.run(
            ["chroot", str(self.path), *command] if inside else command,
            env={**clean, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
        text = os.fsdecode(done.stdout)
        if done.returncode:
            raise StepFailedError(f"{command[0]}: exit status {done.returncode}", log=text)
        return text

    def say(self, line: str) -> None:
        """Keep it."""
        self.said.append(line)

    def shell(self, command: Sequence[str]) -> int:
        """As `Root.shell`."""
        return subprocess.run(["chroot", str(self.path), *command], check=False).returncode
