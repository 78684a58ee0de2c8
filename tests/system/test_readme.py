"""Promise: every command that README shows works as shown, and so does the demo."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support.servers import nginx_serving

PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PLACES = {
    "/srv/tree": "farm",
    "/var/tmp/build-root": "build",
    "/tmp/tree": "checkout",
    "/tmp/upgrade.bundle": "upgrade.bundle",
    "/tmp/locale.sh": "locale.sh",
    "/tmp/mesa-install": "mesa-install",
}


def readme_commands() -> list[str]:
    """The lines of README's code blocks that begin with a command of ours."""
    blocks = re.findall(r"^```\n(.*?)^```", (PROJECT / "README.md").read_text(), re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("hacktree")]


class Transcript:
    """Runs lines of the README in a temporary place, as a person would on two machines."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.url = ""
        self.done: set[str] = set()

    def run(self, line: str) -> str:
        words = line
        for place, name in PLACES.items():
            words = words.replace(place, str(self.work / name))
        words = words.replace("http://127.0.0.1:8080", self.url)
        program, *arguments = shlex.split(words)
        done = subprocess.run(
            [str(BIN / program), *arguments],
            env={**os.environ, "HACKTREE_SYSROOT": str(self.work / "machine")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        if line in readme_commands():
            self.done.add(line)
        return done.stdout

    def matching(self, start: str) -> list[str]:
        return [line for line in readme_commands() if line.startswith(start)]


def test_the_commands_of_the_readme_work_in_order(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path)
    (tmp_path / "machine").mkdir()
    binaries = tmp_path / "build/usr/bin"
    binaries.mkdir(parents=True)
    (binaries / "first").write_text("1")
    (tmp_path / "locale.sh").write_text("#!/bin/sh\nlocale-gen\n")
    (tmp_path / "locale.sh").chmod(0o755)
    (tmp_path / "mesa-install/usr/lib").mkdir(parents=True)
    (tmp_path / "mesa-install/usr/lib/libGL.so.1").write_text("not yet ELF")
    (init,) = transcript.matching("hacktree --repo /srv/tree init")
    (commit,) = transcript.matching("hacktree --repo /srv/tree commit")
    (serve,) = transcript.matching("hacktree --repo /srv/tree serve")
    (remote,) = transcript.matching("hacktree remote add")
    (pull,) = transcript.matching("hacktree-pull")
    (generate,) = transcript.matching("hacktree --repo /srv/tree delta generate")
    transcript.run(init)
    transcript.run(commit)
    with nginx_serving(tmp_path / "farm") as server:
        transcript.url = server.url
        transcript.run(remote)
        transcript.run(pull)
        (binaries / "second").write_text("2")
        transcript.run(commit)
        transcript.run(generate)
        transcript.run(pull)
        assert (tmp_path / "machine/gnomeos/usr/bin/second").read_text() == "2"
        # What `serve` does is tested with the server; here only that the line is one it takes.
        assert "--listen" in serve
        transcript.done.add(serve)
        (search,) = transcript.matching("hacktree bisect start")
        (end,) = transcript.matching("hacktree bisect reset")
        for line in readme_commands():
            if line == search:
                # After the rollback; four builds of the five that follow lack a program.
                assert not (tmp_path / "machine/gnomeos/usr/bin/second").exists()
                for number in range(5):
                    (binaries / "third").write_text(f"{number}")
                    (binaries / "second").unlink(missing_ok=number != 1)
                    if number == 0:
                        (binaries / "second").write_text("2")
                    transcript.run(commit)
            if line not in transcript.done:
                said = transcript.run(line)
            if "bisect report" in line:
                assert re.search(r"bad.* builds 4 ", said)
            if line == end:
                # What was pulled last is what the packs that come next start from.
                transcript.run(pull)
                (binaries / "third").write_text("last")
                transcript.run(commit)
                transcript.run(generate)
            if line.startswith("hacktree delta apply"):
                transcript.run(f"{pull} --pull-only")
    assert transcript.done == set(readme_commands())


def test_the_demo_ends_well(tmp_path: Path) -> None:
    tree = tmp_path / "tree/usr/bin"
    tree.mkdir(parents=True)
    for number in range(6):
        (tree / f"program-{number}").write_bytes(os.urandom(1000))
    done = subprocess.run(
        [str(PROJECT / "demo/run.sh"), str(tmp_path / "tree")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rolled-back-from" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command(shell: str) -> None:
    done = subprocess.run(
        [str(BIN / "hacktree"), "completion", shell], capture_output=True, text=True, check=True
    )
    for command in ("commit", "rollback", "serve"):
        assert command in done.stdout


def test_every_command_has_help_with_examples_and_exit_statuses() -> None:
    listing = subprocess.run(
        [str(BIN / "hacktree"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    commands = re.findall(r"^  ([a-z-]+)  ", listing, re.M)
    assert len(commands) >= 20
    for command in commands:
        text = subprocess.run(
            [str(BIN / "hacktree"), command, "--help"], capture_output=True, text=True, check=True
        ).stdout
        assert "example" in text.lower(), command
        assert "exit status" in text.lower(), command
