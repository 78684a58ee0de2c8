"""A server that takes pushes, as it is run: behind nginx, and told to stop in the middle of one."""

import http.client
import os
import signal
import socket
from pathlib import Path

from hacktree.common.push.messages import API_PREFIX, BATCH_ANSWER
from support.pulling import assert_whole, make_repository, pull_from
from support.push_server import BLOCKED_SECRET, CI_SECRET
from support.pushing import batch_of, open_by_hand, push_to, running_host, stored_objects
from support.rawhttp import send
from support.servers import nginx_serving
from support.trees import Spec, make_commit

TREE: dict[str | bytes, Spec] = {"a": b"content", "noise": os.urandom(3_000_000)}


async def test_a_build_is_pushed_and_pulled_through_nginx(tmp_path: Path) -> None:
    """The body passes nginx whatever its size; files come from nginx itself."""
    source, server = make_repository(tmp_path / "source"), make_repository(tmp_path / "server")
    head = make_commit(source, TREE)
    with running_host(server) as host, nginx_serving(server.path, api=host.url) as front:
        totals, traffic = await push_to(front.url, source)
        assert (totals.objects, traffic.requests) == (3, 4)
        asked = [entry for entry in front.requests() if entry.path.startswith(API_PREFIX)]
        assert [entry.status for entry in asked] == [200] * 4
        mirror = make_repository(tmp_path / "mirror")
        await pull_from(mirror, front.url)
        assert_whole(mirror, head)
        refused = send(front.address, f"{API_PREFIX}/pushes", method="POST", body=b"x")
        assert refused.status == 401
        assert refused.headers.get_all("Cache-Control") == ["no-store"]
        claim = {"Authorization": f"Bearer {BLOCKED_SECRET}", "X-Forwarded-For": "192.0.2.1"}
        refused = send(front.address, f"{API_PREFIX}/pushes", claim, method="POST", body=b"x")
        assert (refused.status, b"from 127.0.0.1" in refused.body) == (429, True)
        assert send(front.address, "/refs/fastqa", method="POST", body=b"x").status == 405


async def test_nginx_says_that_the_api_is_away(tmp_path: Path) -> None:
    """With a status that makes a client try again, not one that looks like its own fault."""
    server = make_repository(tmp_path / "server")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with nginx_serving(server.path, api=f"http://127.0.0.1:{port}") as front:
        answer = send(front.address, f"{API_PREFIX}/pushes", method="POST", body=b"x")
        assert (answer.status, answer.headers["Content-Type"]) == (503, "application/json")


def test_an_upload_in_flight_is_finished_before_the_server_stops(tmp_path: Path) -> None:
    source, server = make_repository(tmp_path / "source"), make_repository(tmp_path / "server")
    commit = make_commit(source, TREE)
    with running_host(server) as host:
        push_id = open_by_hand(host, source, commit)
        body = batch_of(*stored_objects(source, commit))
        address = host.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1])), timeout=60) as connection:
            head = (
                f"PUT {API_PREFIX}/pushes/{push_id}/batch HTTP/1.1\r\nHost: x\r\n"
                f"Authorization: Bearer {CI_SECRET}\r\nContent-Length: {len(body)}\r\n"
                "Expect: 100-continue\r\n\r\n"
            )
            connection.sendall(head.encode())
            # The handler runs now.
            assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
            os.kill(host.pid, signal.SIGTERM)
            connection.sendall(body[:1_000_000])
            connection.sendall(body[1_000_000:])
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status == 200
            assert BATCH_ANSWER.decode(answer.read()).objects == 4
        assert host.wait() == 0
        assert len(host.acknowledged()) == 4
