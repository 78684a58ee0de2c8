"""Programs in a root reach the desktop outside: real X11, Wayland, D-Bus and PulseAudio servers.

The clients are this machine's, with their libraries, put into a root; the servers run outside.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hacktree.client.sysroot import Sysroot
from support.enterable import enter, require_root, shell_tree
from support.servers import stop_server
from support.sysroots import deploy, make_sysroot
from support.trees import File, Spec, make_commit
from support.vendor import libraries_of, program

CLIENTS = {
    "xdpyinfo": "x11-utils",
    "wayland-info": "wayland-utils",
    "dbus-send": "dbus",
    "pactl": "pulseaudio-utils",
}


@pytest.fixture(scope="module")
def sysroot(tmp_path_factory: pytest.TempPathFactory) -> Sysroot:
    """The live root has the clients."""
    require_root()
    tree: dict[str | bytes, Spec] = shell_tree()
    for name, package in CLIENTS.items():
        path = program(name, package)
        for needed in (path, *libraries_of(path)):
            tree[str(needed).lstrip("/")] = File(needed.read_bytes(), 0o755)
    sysroot = make_sysroot(tmp_path_factory.mktemp("desktop") / "sysroot")
    deploy(sysroot, make_commit(sysroot.repository, tree))
    return sysroot


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An $XDG_RUNTIME_DIR, and what was started in it ends with it."""
    # Below /run, where a session looks for it.
    runtime = Path(tempfile.mkdtemp(prefix="hacktree-desktop-", dir="/run"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("HOME", str(tmp_path))
    yield runtime
    shutil.rmtree(runtime)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Servers, which are told to end."""
    servers: list[subprocess.Popen[bytes]] = []
    yield servers
    for server in servers:
        stop_server(server)


def test_x11_with_its_cookie(
    sysroot: Sysroot, session: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    """Who has the cookie is let in, who has none is not: the server does ask."""
    cookies = session / "cookies"
    cookies.touch(0o600)
    xvfb = program("Xvfb", "xvfb")
    read, write = os.pipe()
    started.append(
        subprocess.Popen(
            [xvfb, "-displayfd", str(write), "-auth", cookies, "-nolisten", "tcp"],
            pass_fds=[write], stderr=subprocess.DEVNULL,
        )
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read) as ready:
        display = f":{ready.readline().strip()}"
    key = os.urandom(16).hex()
    subprocess.run([program("xauth", "xauth"), "-f", cookies, "add", display, ".", key], check=True)
    done = enter(sysroot, "xdpyinfo", DISPLAY=display, XAUTHORITY=str(cookies))
    assert "name of display" in done.stdout, done.stderr
    refused = enter(sysroot, "xdpyinfo", DISPLAY=display, XAUTHORITY="/dev/null")
    assert "unable to open display" in refused.stderr


def test_the_session_bus(
    sysroot: Sysroot, session: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    """The bus of the runtime directory."""
    daemon = program("dbus-daemon", "dbus")
    address = f"unix:path={session}/bus"
    server = subprocess.Popen(
        [daemon, "--session", f"--address={address}", "--nofork", "--print-address"],
        stdout=subprocess.PIPE,
    )
    started.append(server)
    assert server.stdout is not None
    assert server.stdout.readline().startswith(b"unix:")
    name = "org.freedesktop.DBus"
    call = ("--session", "--print-reply", f"--dest={name}", "/", f"{name}.ListNames")
    done = enter(sysroot, "dbus-send", *call, DBUS_SESSION_BUS_ADDRESS=address)
    assert "org.freedesktop.DBus" in done.stdout, done.stderr


def test_wayland(sysroot: Sysroot, session: Path, started: list[subprocess.Popen[bytes]]) -> None:
    """The compositor's socket, named by $WAYLAND_DISPLAY."""
    weston = program("weston", "weston")
    words = ["--backend=headless-backend.so", "--socket=wayland-9", "--idle-time=0"]
    server = subprocess.Popen([weston, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    started.append(server)
    assert server.stdout is not None
    # It listens before it starts the first client of its own.
    assert any(b"launching" in line for line in server.stdout)
    done = enter(sysroot, "wayland-info", WAYLAND_DISPLAY="wayland-9")
    assert "wl_compositor" in done.stdout, done.stderr


def test_pulseaudio(sysroot: Sysroot, session: Path) -> None:
    """The sound server's socket in the runtime directory."""
    pulseaudio = program("pulseaudio", "pulseaudio")
    words = ["-n", "--exit-idle-time=-1", "-L", "module-native-protocol-unix"]
    subprocess.run([pulseaudio, *words, "--daemonize"], check=True, stderr=subprocess.DEVNULL)
    try:
        done = enter(sysroot, "pactl", "info")
    finally:
        subprocess.run([pulseaudio, "--kill"], check=True)
    assert "Server Name: pulseaudio" in done.stdout, done.stderr
