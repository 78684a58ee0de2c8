"""The main job on this machine's own userland: push, test, promote, pull, swap, roll back, bisect.

Runs the real commands in a temporary directory, as whoever runs it. `demo.py DIR` uses DIR as the
tree instead.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

BIN = Path(sys.executable).parent
PROJECT = Path(__file__).resolve().parent.parent
MAX_BYTES = 400 << 20
"""The part of the userland that is used: enough to be real, small enough for a minute."""


class Demo:
    """Runs commands, showing each with what it said and how long it took."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.times: list[tuple[str, float]] = []

    def heading(self, text: str) -> None:
        print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)

    def run(self, label: str, *words: str, secret: bool = False) -> str:
        shown = " ".join(words).replace(str(self.work), "$DEMO")
        print(f"$ {shown}", flush=True)
        started = time.monotonic()
        program = str(BIN / words[0])
        done = subprocess.run([program, *words[1:]], capture_output=True, text=True, check=False)
        seconds = time.monotonic() - started
        said = done.stderr if secret else done.stdout + done.stderr
        for line in said.replace(str(self.work), "$DEMO").splitlines():
            print(f"    {line}")
        if done.returncode != 0:
            sys.exit(f"demo: {words[0]} exited with {done.returncode}")
        self.times.append((label, seconds))
        return done.stdout


def copy_userland(destination: Path) -> None:
    """A tree of this machine's programs, libraries and configuration, about `MAX_BYTES` large."""
    budget = MAX_BYTES
    for top in ("usr/bin", "usr/sbin", "usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib", "etc"):
        source = Path("/") / top
        if source.is_symlink() or not source.is_dir():
            continue
        for directory, _, names in os.walk(source):
            target = destination / Path(directory).relative_to("/")
            for name in sorted(names):
                path = Path(directory) / name
                if (target / name).is_symlink() or (target / name).exists():
                    continue
                size = path.lstat().st_size
                readable = path.is_symlink() or (path.is_file() and os.access(path, os.R_OK))
                if not readable or size > budget // 4:
                    continue
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target / name, follow_symlinks=False)
                budget -= size
                if budget <= 0:
                    return


def make_second_build(tree: Path) -> None:
    """A new build: programs rebuilt, two fewer, one renamed, new configuration, a chmod."""
    files = [p for p in tree.rglob("*") if p.is_file() and not p.is_symlink()]
    for rebuilt in sorted(files, key=lambda path: path.stat().st_size)[-8:]:
        rebuilt.chmod(0o755)
        with rebuilt.open("r+b") as stream:
            stream.seek(rebuilt.stat().st_size // 2)
            stream.write(b"another build")
    programs = [p for p in sorted((tree / "usr/bin").iterdir()) if not p.is_symlink()]
    for program in programs[:2]:
        program.unlink()
    programs[2].chmod(0o700)
    programs[3].rename(programs[3].with_name(programs[3].name + "-47"))
    (tree / "etc").mkdir(exist_ok=True)
    (tree / "etc/os-release").unlink(missing_ok=True)
    (tree / "etc/os-release").write_text('NAME="Demo OS"\nVERSION=2\n')
    (tree / "etc/wallpaper").write_text("mountains\n")


@contextlib.contextmanager
def serving(repository: Path) -> Iterator[tuple[str, str]]:
    """nginx where it is installed, else `hacktree serve`; gives (what serves, URL)."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    with nginx(program, repository) if program else hacktree_serve(repository) as url:
        yield ("nginx" if program else "hacktree serve"), url


@contextlib.contextmanager
def nginx(program: str, repository: Path) -> Iterator[str]:
    """nginx with the configuration that we ship, on a port of the loopback interface."""
    with (
        tempfile.TemporaryDirectory(prefix="hacktree-demo-nginx-") as name,
        socket.create_server(("127.0.0.1", 0), backlog=511) as listening,
    ):
        host, port = listening.getsockname()
        site = (PROJECT / "deploy/nginx/hacktree.conf").read_text()
        for directive, value in (
            ("root", str(repository)),
            ("listen", f"{host}:{port}"),
            ("access_log", f"{name}/access.log"),
        ):
            site = re.sub(rf"(?m)^(    {directive}\s+)\S+;", rf"\g<1>{value};", site)
        temporary = "".join(
            f"{kind}_temp_path {name}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;\n" if os.geteuid() == 0 else ""
        main = Path(name) / "nginx.conf"
        main.write_text(
            f"{user}daemon off;\npid {name}/nginx.pid;\nerror_log {name}/error.log;\n"
            f"events {{}}\nhttp {{\n{temporary}{site}}}\n"
        )
        process = subprocess.Popen(
            [program, "-p", name, "-e", f"{name}/error.log", "-c", str(main)],
            # nginx takes over the listening socket named here: no port to be guessed.
            env={**os.environ, "NGINX": f"{listening.fileno()};"},
            pass_fds=[listening.fileno()],
        )
        try:
            yield f"http://{host}:{port}"
        finally:
            process.terminate()
            process.wait(timeout=30)


@contextlib.contextmanager
def hacktree_serve(repository: Path, *options: str) -> Iterator[str]:
    """The built-in server."""
    serve = ("serve", "--listen", "127.0.0.1:0", *options)
    server = subprocess.Popen(
        [str(BIN / "hacktree"), "--repo", str(repository), *serve],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = server.stdout.readline() if server.stdout is not None else ""
        match = re.search(r"http://\S+", line)
        if match is None:
            sys.exit(f"demo: the server said {line!r}")
        yield match[0].rstrip("/.")
    finally:
        server.terminate()
        server.wait(timeout=30)


def main() -> int:
    """The whole story."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", nargs="?", help="use this tree instead of the userland")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hacktree-demo-") as name:
        demo = Demo(Path(name))
        story(demo, Path(arguments.tree) if arguments.tree else None)
    return 0


SUITE = """\
[suites.fastqa]
source = "builds"
command = ["/bin/sh", "-c", "test -e $HACKTREE_ROOT/usr/bin && test ! -e $HACKTREE_ROOT/etc/broken"]
limit = "2m"
"""


def found(demo: Demo, farm: Path, keys: Path) -> str:
    """A signed farm with two branches, a suite between them, and a token for CI; the token."""
    repo = ("hacktree", "--repo", str(farm))
    demo.run("create the repository", *repo, "init")
    founders = ("--root-key", str(keys / "root"), "--targets-key", str(keys / "targets"))
    demo.run("sign it", *repo, "trust", "init", *founders, "--no-passphrase")
    for branch in ("builds", "fastqa"):
        key = str(keys / branch)
        demo.run("a key", "hacktree", "trust", "new-key", key, "--no-passphrase")
        with_targets = ("--sign-with", str(keys / "targets"))
        demo.run("delegate", *repo, "trust", "delegate", branch, "--key", key, *with_targets)
    (farm / "server.toml").write_text(SUITE)
    create = ("token", "create", "--can", "push:builds", "--expires", "1d")
    return demo.run("a token for CI", *repo, *create, secret=True).strip()


def push_build(demo: Demo, url: str, farm: Path, tree: Path, keys: Path, version: str) -> None:
    """CI pushes a build to the server at the URL."""
    # What it signs on top of is verified, from the root that it is told.
    root = hashlib.sha256((farm / "trust/1.root.json").read_bytes()).hexdigest()
    key = ("--sign-with", str(keys / "builds"), "--root-fingerprint", root)
    push = ("push", "builds", str(tree), "--version", version, "--server", url, *key)
    demo.run(f"push build {version}", "hacktree", *push)


def build_and_judge(demo: Demo, farm: Path, tree: Path, keys: Path, version: str) -> None:
    """CI pushes a build, a runner judges it, and the signer promotes it if it passed."""
    with hacktree_serve(farm, "--api") as url:
        push_build(demo, url, farm, tree, keys, version)
    repo = ("hacktree", "--repo", str(farm))
    demo.run(f"test build {version}", *repo, "qa", "run", "fastqa")
    demo.run("promote what passed", *repo, "qa", "sign", "fastqa", "--key", str(keys / "fastqa"))


def story(demo: Demo, given: Path | None) -> None:
    """Three builds, pushed and judged; two promoted, pulled, swapped; one rolled back; the search
    for what a later build broke.
    """
    work = demo.work
    tree, farm, machine, keys = work / "build", work / "farm", work / "machine", work / "keys"
    machine.mkdir()
    keys.mkdir()
    demo.heading("1. A build farm: signed branches, a suite, a token for CI")
    os.environ["HACKTREE_TOKEN"] = found(demo, farm, keys)
    os.environ["XDG_CACHE_HOME"] = str(work / "cache")
    demo.heading("2. CI pushes a build, QA passes it, the signer promotes it")
    if given is None:
        copy_userland(tree)
    else:
        shutil.copytree(given, tree, symlinks=True)
    build_and_judge(demo, farm, tree, keys, "47.1")
    repo = ("hacktree", "--repo", str(farm))
    shown = json.loads(demo.run("who signs what", *repo, "trust", "status", "--json", secret=True))
    with serving(farm) as (server, url):
        demo.heading(f"3. A tester's machine: the first pull, over HTTP from {server}")
        root = ("--sysroot", str(machine))
        anchor = ("--root-fingerprint", shown["root-fingerprint"])
        demo.run("add the remote", "hacktree", *root, "remote", "add", "origin", url, *anchor)
        demo.run("first pull and deploy", "hacktree-pull", *root, "fastqa")
        demo.heading("4. The farm: the next build, and a pack of deltas")
        make_second_build(tree)
        build_and_judge(demo, farm, tree, keys, "47.2")
        demo.run("make packs", *repo, "jobs", "run")
        demo.heading("5. The tester: upgrade")
        demo.run("upgrade", "hacktree-pull", *root, "fastqa")
        demo.run("what changed", "hacktree", *root, "diff", "fastqa~1", "fastqa", "--stat")
        after = (machine / "gnomeos").readlink()
        demo.heading("6. A broken build gets no further than QA")
        (tree / "etc/broken").write_text("oops")
        build_and_judge(demo, farm, tree, keys, "47.3")
        demo.run("why it does not move", *repo, "branch", "status", "fastqa")
        demo.run("nothing to do", "hacktree-pull", *root, "fastqa", "--pull-only")
        demo.heading("7. The tester does not like build 2 either: roll back")
        demo.run("roll back", "hacktree", *root, "rollback")
        before = (machine / "gnomeos").readlink()
        demo.run("status", "hacktree", *root, "status")
        demo.heading("8. CI goes on; since when is there no wallpaper?")
        (tree / "etc/broken").unlink()
        with hacktree_serve(farm, "--api") as api:
            for number in range(4, 9):
                (tree / "etc/build").write_text(f"{number}\n")
                if number == 6:
                    (tree / "etc/wallpaper").unlink()
                push_build(demo, api, farm, tree, keys, f"47.{number}")
        demo.run("make packs", *repo, "jobs", "run")
        demo.run(
            "begin to bisect", "hacktree", *root, "bisect", "start", "builds", "--good", "47.2"
        )
        test = ("--host", "--", "sh", "-c", "test -e $HACKTREE_ROOT/etc/wallpaper")
        demo.run("bisect", "hacktree", *root, "bisect", "run", *test)
        report = demo.run("what broke it", "hacktree", *root, "bisect", "report")
        demo.run("back to where it began", "hacktree", *root, "bisect", "reset")
        demo.run("verify everything", "hacktree", *root, "fsck")
    if not re.search(r"first bad: +builds 6 ", report):
        sys.exit("demo: the bisection did not find build 6")
    if before == after:
        sys.exit("demo: the rollback did not move the link")
    demo.heading("How long it took")
    for label, seconds in demo.times:
        print(f"  {label:<24}{seconds:7.2f} s")
    print(json.dumps({"rolled-back-from": str(after), "to": str(before)}))


if __name__ == "__main__":
    sys.exit(main())
