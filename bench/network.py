"""nginx with two sites for the benchmarks, and a link of a given speed to fetch from it through."""

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HOST, CLIENT = "10.213.71.1", "10.213.71.2"
LINK, PEER, NAMESPACE = "hacktree-b0", "hacktree-b1", "hacktree-bench"

NGINX = """
daemon off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/nginx.err; user root;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {work}/nginx-body; proxy_temp_path {work}/nginx-proxy;
  fastcgi_temp_path {work}/nginx-f; uwsgi_temp_path {work}/nginx-u; scgi_temp_path {work}/nginx-s;
  sendfile on; tcp_nopush on; keepalive_requests 100000;
  log_format bytes "$status $bytes_sent $request_uri";
{servers}
}}
"""
SERVER = "  server {{ listen {host}:{port}; root {root}; access_log {work}/{name}.log bytes; }}"


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one site sent: responses, and bytes with their headers."""

    requests: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.requests}, {self.bytes / 1e6:.2f} MB"


class Sites:
    """Directories by name, each served at a port of its own from `port` on."""

    def __init__(self, work: Path, host: str, port: int, roots: Mapping[str, Path]) -> None:
        self._work = work
        self._host = host
        self._roots = roots
        self._ports = dict(zip(roots, range(port, port + len(roots)), strict=True))

    def url(self, name: str) -> str:
        """Where a site is."""
        return f"http://{self._host}:{self._ports[name]}"

    def sent(self, name: str) -> list[str]:
        """The site's log so far, a response a line."""
        log = self._work / f"{name}.log"
        return log.read_text().splitlines() if log.exists() else []

    def traffic(self, name: str, before: Sequence[str]) -> Traffic:
        """What it sent since then. nginx logs a response after its last byte: give it the time."""
        time.sleep(0.1)
        lines = self.sent(name)[len(before) :]
        return Traffic(len(lines), sum(int(line.split()[1]) for line in lines))

    @contextmanager
    def served(self) -> Iterator[None]:
        """While nginx runs."""
        servers = [
            SERVER.format(host=self._host, port=port, root=self._roots[name], work=self._work,
                          name=name)
            for name, port in self._ports.items()
        ]  # fmt: skip
        path, pid = self._work / "nginx.conf", self._work / "nginx.pid"
        path.write_text(NGINX.format(work=self._work, servers="\n".join(servers)))
        pid.unlink(missing_ok=True)
        process = subprocess.Popen(["nginx", "-p", str(self._work), "-c", str(path)])
        try:
            deadline = time.monotonic() + 10
            while not pid.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait()


@contextmanager
def linked() -> Iterator[None]:
    """While a network namespace is linked to this one: this end has the address HOST."""
    _unlink()
    _ip("netns", "add", NAMESPACE)
    try:
        _ip("link", "add", LINK, "type", "veth", "peer", "name", PEER, "netns", NAMESPACE)
        _ip("address", "add", f"{HOST}/30", "dev", LINK)
        _ip("link", "set", LINK, "up")
        _ip("-n", NAMESPACE, "address", "add", f"{CLIENT}/30", "dev", PEER)
        _ip("-n", NAMESPACE, "link", "set", PEER, "up")
        _ip("-n", NAMESPACE, "link", "set", "lo", "up")
        yield
    finally:
        _unlink()


def behind(megabits: int) -> tuple[str, ...]:
    """Words before a command: it then fetches through the link, at that many Mbit/s for all of its
    connections together. No latency is added. 0: not through the link, as fast as loopback goes.
    """
    if not megabits:
        return ()
    burst = max(64 << 10, megabits * 1_000_000 // 8 // 100)
    subprocess.run(
        ["tc", "qdisc", "replace", "dev", LINK, "root", "tbf", "rate", f"{megabits}mbit",
         "burst", str(burst), "latency", "50ms"],
        check=True,
    )  # fmt: skip
    return ("ip", "netns", "exec", NAMESPACE)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _unlink() -> None:
    """Remove what an earlier run may have left, too. The link goes with the namespace."""
    subprocess.run(["ip", "netns", "delete", NAMESPACE], check=False, stderr=subprocess.DEVNULL)
    subprocess.run(["ip", "link", "delete", LINK], check=False, stderr=subprocess.DEVNULL)
