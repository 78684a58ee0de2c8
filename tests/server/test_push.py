"""Pushing to a real server: what it takes and what it refuses; half a build is never shown."""

from pathlib import Path

from hacktree.common.repository.refs import read_ref
from support.pulling import assert_whole, make_repository
from support.pushing import push_to, running_host
from support.trees import File, Spec, make_commit

TREE: dict[str | bytes, Spec] = {
    "etc/passwd": b"root:x:0:0::/root:/bin/sh\n",
    "bin/su": File(b"suid", 0o4755),
    "empty": b"",
    "usr/large": b"large" * 2_000_000,
}


async def test_a_new_branch_and_its_next_build(tmp_path: Path) -> None:
    """Only what the server lacks is sent, in few requests, and it serves what was pushed."""
    source, server = make_repository(tmp_path / "source"), make_repository(tmp_path / "server")
    first = make_commit(source, TREE)
    with running_host(server) as host:
        totals, traffic = await push_to(host.url, source)
        assert read_ref(server, "fastqa") == first
        assert totals.objects == 8
        assert traffic.requests == len(host.requests()) == 4
        second = make_commit(source, {**TREE, "usr/new": b"new"})
        totals, traffic = await push_to(host.url, source)
        assert totals.objects == 3  # usr/new, and two directories
    assert_whole(server, second)
