"""What a push must not bring in: wrong bytes, bombs, strangers' objects, more than is allowed."""

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from hacktree.common.objects.commit import Commit, encode_commit
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import DirectoryEntry, FileEntry, Tree, encode_tree
from hacktree.common.objects.zstandard import compress
from hacktree.common.push.framing import BATCH_END, ObjectKey, ObjectKind, encode_header
from hacktree.common.push.messages import (
    API_PREFIX,
    MISSING_ANSWER,
    MISSING_REQUEST,
    OPEN_REQUEST,
    OpenRequest,
    ask_about,
    select_missing,
)
from hacktree.common.repository.locks import LockKind, hold_lock
from hacktree.common.repository.objectnames import published_name
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository
from hacktree.server.push.sessions import expire_pushes
from support.pulling import assert_whole, make_repository
from support.push_server import BLOCKED_SECRET, CI_SECRET, OTHER_SECRET
from support.pushing import (
    ApiAnswer,
    PushHost,
    ask,
    batch_of,
    finish_by_hand,
    open_by_hand,
    opening_of,
    push_to,
    running_host,
    stored_objects,
)
from support.trees import Spec, make_commit

TREE: dict[str | bytes, Spec] = {"a": b"content of a", "d/b": b"b" * 100_000}
CONFIGURATION = 'min-free-space = "0"\n[push]\n'


@pytest.fixture
def source(tmp_path: Path) -> Repository:
    """Where builds are committed."""
    return make_repository(tmp_path / "source")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[PushHost]:
    """A server with an empty repository."""
    with running_host(make_repository(tmp_path / "server")) as running:
        yield running


def put(host: PushHost, push_id: str, body: bytes, *, secret: str = CI_SECRET) -> ApiAnswer:
    return ask(host, f"/pushes/{push_id}/batch", body, method="PUT", secret=secret)


def file_key(content: bytes) -> ObjectKey:
    return ObjectKey(ObjectKind.FILE, hash_bytes(content))


def lacking(host: PushHost, push_id: str, keys: list[ObjectKey]) -> set[ObjectKey]:
    """What the server says it lacks."""
    request, asked = ask_about(keys)
    answer = ask(host, f"/pushes/{push_id}/missing", MISSING_REQUEST.encode(request))
    assert answer.status == 200
    return set(select_missing(asked, MISSING_ANSWER.decode(answer.body)))


def test_an_upload_without_a_token_is_refused_before_its_body(host: PushHost) -> None:
    """Not one byte of it is asked for, so that nobody can keep the server busy with it."""
    address = host.url.removeprefix("http://").split(":")
    for field in ("", "Authorization: Bearer wrong\r\n", "Authorization: Basic eDp5\r\n"):
        with socket.create_connection((address[0], int(address[1])), timeout=30) as connection:
            head = (
                f"PUT {API_PREFIX}/pushes/{'0' * 32}/batch HTTP/1.1\r\nHost: x\r\n{field}"
                "Content-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n"
            )
            connection.sendall(head.encode())
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 401 "), answer
        assert b"100 Continue" not in answer
        assert b'"code":"unauthenticated"' in answer


def test_whoever_may_push_is_asked_for_the_body(host: PushHost, source: Repository) -> None:
    commit = make_commit(source, TREE)
    push_id = open_by_hand(host, source, commit)
    address = host.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=30) as connection:
        head = (
            f"PUT {API_PREFIX}/pushes/{push_id}/batch HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {CI_SECRET}\r\nContent-Length: 1\r\nConnection: close\r\n"
            "Expect: 100-continue\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BATCH_END)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_every_refusal_has_a_code_and_an_id_that_the_log_has_too(host: PushHost) -> None:
    answer = ask(host, "/pushes", b"nonsense")
    assert (answer.status, answer.refusal.code) == (400, "malformed")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Request-Id"] == answer.refusal.request_id
    assert answer.refusal.request_id in host.log.read_text()
    assert ask(host, "/nothing", b"").status == 404
    assert ask(host, "/pushes", b"", method="GET").status == 405


def test_who_fails_too_often_is_told_when_to_come_back(host: PushHost) -> None:
    answer = ask(host, "/pushes", b"", secret=BLOCKED_SECRET)
    assert (answer.status, answer.refusal.code) == (429, "too-often")
    assert answer.headers["Retry-After"] == "7"
    assert answer.refusal.message == "too many failures from 127.0.0.1"


def test_another_tokens_push_does_not_exist(host: PushHost, source: Repository) -> None:
    push_id = open_by_hand(host, source, make_commit(source, TREE))
    answer = put(host, push_id, BATCH_END, secret=OTHER_SECRET)
    assert (answer.status, answer.refusal.code) == (404, "no-such-push")


@pytest.mark.parametrize(
    ("kind", "data", "why"),
    [
        (ObjectKind.FILE, compress(b"other content", 3), "sha256 differs"),
        (ObjectKind.FILE, b"no frame at all", "not a zstd frame"),
        (ObjectKind.FILE, compress(b"content of a", 3)[:-1], "truncated"),
        (ObjectKind.FILE, compress(b"content of a", 3) + b"x", "followed by other bytes"),
        (ObjectKind.FILE, compress(b"content of a", 3) + compress(b"", 3), "followed by other"),
        (ObjectKind.FILE, compress(bytes(1 << 28), 3), "more than the commit's totals"),
        (ObjectKind.META, b"content of a", "not a commit"),
        (ObjectKind.META, encode_tree(Tree(1, ())), "sha256 differs"),
        (ObjectKind.META, encode_tree(Tree(1, ())) + b"\0", "sha256 differs"),
    ],
)
def test_bytes_that_are_not_the_object_are_refused(
    kind: ObjectKind, data: bytes, why: str, host: PushHost, source: Repository
) -> None:
    """A zstd bomb stops at what the commit says it holds. What came before it is kept."""
    commit = make_commit(source, TREE)
    push_id = open_by_hand(host, source, commit)
    good = stored_objects(source, commit)
    bad = (ObjectKey(kind, hash_bytes(b"content of a")), data)
    first = next(item for item in good if item[0] != bad[0])
    answer = put(host, push_id, batch_of(first, bad))
    assert (answer.status, answer.refusal.code) == (422, "wrong-object")
    assert why in answer.refusal.message
    assert bad[0].id.hex() in answer.refusal.message
    assert first[0] not in lacking(host, push_id, [first[0]])
    directory = host.repository.staging / f"push-{push_id}"
    assert [name for name in os.listdir(directory) if name.startswith(".")] == []


def test_a_tree_that_is_not_canonical_is_refused(host: PushHost, source: Repository) -> None:
    push_id = open_by_hand(host, source, make_commit(source, TREE))
    data = msgspec.msgpack.encode(["tree", 1, [[3, b"..", 0, 0, b"x"]]])
    answer = put(host, push_id, batch_of((ObjectKey(ObjectKind.META, hash_bytes(data)), data)))
    assert (answer.status, answer.refusal.code) == (422, "wrong-object")


def test_an_object_of_another_build_is_never_published(host: PushHost, source: Repository) -> None:
    """A push brings its commit and what that reaches, whatever else it sends."""
    # Twice the same content: the totals, which count it twice, leave room for the stranger.
    commit = make_commit(source, {**TREE, "again": b"content of a"})
    push_id = open_by_hand(host, source, commit)
    stranger = b"not of this"
    body = batch_of(*stored_objects(source, commit), (file_key(stranger), compress(stranger, 3)))
    assert put(host, push_id, body).status == 200
    assert finish_by_hand(host, push_id).status == 200
    assert not host.repository.has(published_name(file_key(stranger)))
    assert os.listdir(host.repository.staging / f"push-{push_id}") == ["session"]
    assert_whole(host.repository, commit)


@pytest.mark.parametrize("left_out", range(4))
def test_a_build_that_is_not_whole_is_not_published(
    left_out: int, host: PushHost, source: Repository
) -> None:
    commit = make_commit(source, TREE)
    push_id = open_by_hand(host, source, commit)
    objects = stored_objects(source, commit)
    assert len(objects) == 4
    missing = objects.pop(left_out)
    assert put(host, push_id, batch_of(*objects)).status == 200
    answer = finish_by_hand(host, push_id)
    assert (answer.status, answer.refusal.code) == (409, "objects-missing")
    assert missing[0].id.hex() in answer.refusal.message
    assert list_refs(host.repository) == {}
    assert not host.repository.has_meta(commit)
    assert put(host, push_id, batch_of(missing)).status == 200
    assert finish_by_hand(host, push_id).status == 200
    assert_whole(host.repository, commit)


def rewritten(source: Repository, commit_id: ObjectId, **changes: object) -> bytes:
    """A commit with other fields, encoded."""
    return encode_commit(msgspec.structs.replace(source.load_commit(commit_id), **changes))


def push_by_hand(
    host: PushHost, encoded: bytes, objects: list[tuple[ObjectKey, bytes]], branch: str = "fastqa"
) -> ApiAnswer:
    """Open, send and finish; the first refusal, or the last answer."""
    answer = ask(host, "/pushes", OPEN_REQUEST.encode(OpenRequest(1, branch, b"", encoded)))
    if answer.status != 200:
        return answer
    push_id = msgspec.msgpack.decode(answer.body)[2]
    answer = put(host, push_id, batch_of(*objects))
    return finish_by_hand(host, push_id) if answer.status == 200 else answer


def test_totals_that_the_tree_does_not_have_are_refused(host: PushHost, source: Repository) -> None:
    """A client bounds what it unfolds by them."""
    commit = make_commit(source, TREE)
    totals = source.load_commit(commit).totals
    wrong = msgspec.structs.replace(totals, files=totals.files + 1)
    answer = push_by_hand(
        host, rewritten(source, commit, totals=wrong), stored_objects(source, commit)
    )
    assert (answer.status, answer.refusal.code) == (422, "wrong-commit")
    assert "unfolds to" in answer.refusal.message
    assert list_refs(host.repository) == {}


@pytest.mark.parametrize("content_is", ["staged", "published"])
def test_a_size_that_the_content_does_not_have_is_refused(
    content_is: str, host: PushHost, source: Repository
) -> None:
    """Also of a content that the server has from another branch, whose size it has to find out."""
    commit_id = make_commit(source, {"a": b"content of a"})
    if content_is == "published":
        other = make_repository(source.path.parent / "other")
        make_commit(other, {"x": b"content of a"}, branch="other")
        head = list_refs(other)["other"]
        encoded = other.read_meta(head, 1 << 20)
        assert push_by_hand(host, encoded, stored_objects(other, head), "other").status == 200
    commit = source.load_commit(commit_id)
    tree, content = lying_tree(source, commit, size=13)
    encoded = rewritten(
        source,
        commit_id,
        root=msgspec.structs.replace(commit.root, id=hash_bytes(tree), size=len(tree)),
        totals=msgspec.structs.replace(commit.totals, bytes=13),
    )
    objects = [(ObjectKey(ObjectKind.META, hash_bytes(tree)), tree), content]
    answer = push_by_hand(host, encoded, objects)
    assert (answer.status, answer.refusal.code) == (422, "wrong-commit")
    assert "names 13 bytes" in answer.refusal.message
    assert "fastqa" not in list_refs(host.repository)


@pytest.mark.parametrize("parent_has", ["it elsewhere", "it there"])
def test_a_directory_is_as_large_as_every_tree_says(
    parent_has: str, host: PushHost, source: Repository
) -> None:
    """One tree in two places; the second names another size."""
    same: dict[str | bytes, Spec] = {"d/b": b"b", "e/b": b"b"}
    before = make_commit(source, same if parent_has == "it there" else {})
    encoded = source.read_meta(before, 1 << 20)
    assert push_by_hand(host, encoded, stored_objects(source, before)).status == 200
    after = make_commit(source, {**same, "new": b"new"})
    commit = source.load_commit(after)
    entries = list(source.load_tree(commit.root.id).entries)
    place = [entry.name for entry in entries].index(b"e")
    entry = entries[place]
    assert isinstance(entry, DirectoryEntry)
    entries[place] = msgspec.structs.replace(entry, size=entry.size + 1)
    tree = encode_tree(Tree(1, tuple(entries)))
    root = msgspec.structs.replace(commit.root, id=hash_bytes(tree), size=len(tree))
    body = OPEN_REQUEST.encode(
        OpenRequest(1, "fastqa", before, rewritten(source, after, root=root))
    )
    push_id = msgspec.msgpack.decode(ask(host, "/pushes", body).body)[2]
    liar = (ObjectKey(ObjectKind.META, hash_bytes(tree)), tree)
    assert put(host, push_id, batch_of(*stored_objects(source, after), liar)).status == 200
    answer = finish_by_hand(host, push_id)
    assert (answer.status, answer.refusal.code) == (422, "wrong-commit")
    assert f"names {entry.size + 1} bytes" in answer.refusal.message


def lying_tree(
    source: Repository, commit: Commit, size: int
) -> tuple[bytes, tuple[ObjectKey, bytes]]:
    """The commit's root tree with another size for its one file, and that file's object."""
    (entry,) = source.load_tree(commit.root.id).entries
    assert isinstance(entry, FileEntry)
    key = ObjectKey(ObjectKind.FILE, entry.id)
    data = (source.objects / published_name(key)).read_bytes()
    return encode_tree(Tree(1, (msgspec.structs.replace(entry, size=size),))), (key, data)


def test_a_commit_of_another_branch_or_line_is_refused(host: PushHost, source: Repository) -> None:
    commit = make_commit(source, TREE)
    encoded = source.read_meta(commit, 1 << 20)
    answer = push_by_hand(host, encoded, [], "builds")
    assert (answer.status, answer.refusal.code) == (422, "wrong-commit")
    assert "a build of fastqa, not of builds" in answer.refusal.message
    make_commit(source, {})
    head = list_refs(source)["fastqa"]
    answer = push_by_hand(host, source.read_meta(head, 1 << 20), [])
    assert (answer.status, answer.refusal.code) == (422, "wrong-commit")
    push_by_hand(host, encoded, stored_objects(source, commit))
    skipping = rewritten(source, head, sequence=7)
    body = OPEN_REQUEST.encode(OpenRequest(1, "fastqa", commit, skipping))
    answer = ask(host, "/pushes", body)
    assert (answer.status, answer.refusal.code) == (422, "wrong-commit")
    assert "sequence" in answer.refusal.message


@pytest.mark.parametrize("branch", ["../x", "a//b", "history", ".hidden", "x" * 200 + "y"])
def test_a_branch_that_can_not_be_is_refused(
    branch: str, host: PushHost, source: Repository
) -> None:
    encoded = source.read_meta(make_commit(source, TREE), 1 << 20)
    body = msgspec.msgpack.encode(["open", 1, branch, b"", encoded])
    answer = ask(host, "/pushes", body)
    assert (answer.status, answer.refusal.code) == (400, "malformed")


def test_signed_metadata_has_no_place_without_trust(host: PushHost, source: Repository) -> None:
    commit = make_commit(source, TREE)
    push_id = open_by_hand(host, source, commit)
    assert put(host, push_id, batch_of(*stored_objects(source, commit))).status == 200
    body = msgspec.msgpack.encode(["finish", 1, b"role"])
    answer = ask(host, f"/pushes/{push_id}/finish", body)
    assert (answer.status, answer.refusal.code) == (422, "wrong-commit")
    assert list_refs(host.repository) == {}


@pytest.mark.parametrize(
    "limit", ['max-bytes = "100 kB"', "max-objects = 3"], ids=["bytes", "objects"]
)
async def test_a_token_brings_no_more_than_its_quota(
    limit: str, source: Repository, tmp_path: Path
) -> None:
    """Over all its unpublished pushes: what is published counts no more."""
    server = make_repository(tmp_path / "server")
    (server.path / "config.toml").write_text(f"{CONFIGURATION}{limit}\n")
    noise = [os.urandom(60_000), os.urandom(60_000)]
    commit = make_commit(source, {"a": noise[0], "b": noise[1]})
    with running_host(server) as host:
        push_id = open_by_hand(host, source, commit)
        answer = put(host, push_id, batch_of(*stored_objects(source, commit)))
        assert (answer.status, answer.refusal.code) == (413, "quota-exceeded")
        second = make_repository(tmp_path / "second")
        make_commit(second, {"c": noise[0][:50_000]}, branch="builds")
        head = list_refs(second)["builds"]
        push_id = open_by_hand(host, second, head)
        answer = put(host, push_id, batch_of(*stored_objects(second, head)))
        assert (answer.status, answer.refusal.code) == (413, "quota-exceeded")
        await push_to(host.url, second, "builds", secret=OTHER_SECRET)


def test_a_server_without_space_says_so_and_not_where(source: Repository, tmp_path: Path) -> None:
    """What its disk is called is for its log."""
    server = make_repository(tmp_path / "server")
    commit = make_commit(source, TREE)
    with running_host(server) as host:
        (server.path / "config.toml").write_text('min-free-space = "1000000GB"\n')
        host.kill()
        host.start()
        push_id = open_by_hand(host, source, commit)
        answer = put(host, push_id, batch_of(*stored_objects(source, commit)))
        assert (answer.status, answer.refusal.code) == (507, "no-space")
        assert str(tmp_path).encode() not in answer.body
        assert str(tmp_path) in host.log.read_text()


def test_a_request_waits_for_another_on_the_same_push(host: PushHost, source: Repository) -> None:
    """It can be that of a client that was killed; what it brought is there afterwards."""
    commit = make_commit(source, TREE)
    push_id = open_by_hand(host, source, commit)
    directory = host.repository.staging / f"push-{push_id}"
    body = batch_of(*stored_objects(source, commit))
    with ThreadPoolExecutor() as pool:
        with hold_lock(directory, LockKind.EXCLUSIVE):
            waiting = pool.submit(put, host, push_id, body)
            assert ask(host, "/nothing", b"").status == 404
            assert not waiting.done()
        assert waiting.result().status == 200


def test_a_token_has_only_so_many_pushes_open(source: Repository, tmp_path: Path) -> None:
    server = make_repository(tmp_path / "server")
    (server.path / "config.toml").write_text(f"{CONFIGURATION}max-open = 1\n")
    commit = make_commit(source, TREE)
    other = make_commit(source, TREE, branch="builds")
    with running_host(server) as host:
        push_id = open_by_hand(host, source, commit)
        assert open_by_hand(host, source, commit) == push_id
        answer = ask(host, "/pushes", opening_of(source, other))
        assert (answer.status, answer.refusal.code) == (413, "quota-exceeded")
        assert put(host, push_id, batch_of(*stored_objects(source, commit))).status == 200
        assert finish_by_hand(host, push_id).status == 200
        assert open_by_hand(host, source, other) != push_id


def test_a_push_that_nobody_goes_on_with_is_deleted(host: PushHost, source: Repository) -> None:
    """And only such a one. Others are opened and started meanwhile."""
    commit = make_commit(source, TREE)
    push_id = open_by_hand(host, source, commit)
    directory = host.repository.staging / f"push-{push_id}"
    used = (directory / "session").stat().st_mtime
    assert expire_pushes(host.repository, used + 23 * 3600) == 0
    os.utime(directory / "session", (used - 25 * 3600, used - 25 * 3600))
    open_by_hand(host, source, make_commit(source, TREE, branch="builds"))
    assert not directory.exists()
    assert finish_by_hand(host, push_id).status == 404


def test_a_server_that_starts_deletes_what_expired(tmp_path: Path, source: Repository) -> None:
    server = make_repository(tmp_path / "server")
    with running_host(server) as host:
        push_id = open_by_hand(host, source, make_commit(source, TREE))
        directory = server.staging / f"push-{push_id}"
        host.kill()
        os.utime(directory / "session", (0, 0))
        host.start()
        assert not directory.exists()


def test_what_a_prune_took_meanwhile_is_asked_for(host: PushHost, source: Repository) -> None:
    """Objects that a push found on the server are no hole in its build."""
    commit = make_commit(source, TREE)
    key, data = stored_objects(source, commit)[0]
    path = host.repository.objects / published_name(key)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    push_id = open_by_hand(host, source, commit)
    keys = [key for key, _ in stored_objects(source, commit)]
    assert key not in lacking(host, push_id, keys)
    rest = [item for item in stored_objects(source, commit) if item[0] != key]
    assert put(host, push_id, batch_of(*rest)).status == 200
    path.unlink()
    answer = finish_by_hand(host, push_id)
    assert (answer.status, answer.refusal.code) == (409, "objects-missing")
    assert lacking(host, push_id, keys) == {key}


def test_a_length_that_no_object_has_is_refused(host: PushHost, source: Repository) -> None:
    push_id = open_by_hand(host, source, make_commit(source, TREE))
    header = bytearray(encode_header(file_key(b"x"), 1))
    header[-8:] = ((1 << 63) - 1).to_bytes(8, "little")
    answer = put(host, push_id, bytes(header))
    assert (answer.status, answer.refusal.code) == (400, "malformed")


def test_a_body_beyond_its_bound_is_refused(host: PushHost) -> None:
    answer = ask(host, "/pushes", bytes(5 << 20))
    assert (answer.status, answer.refusal.code) == (413, "too-large")
