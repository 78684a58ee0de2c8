"""What every server of the published layout promises: run over `hacktree serve` and over nginx."""

import email.utils
import json
import socket

import pytest

from hacktree.server.published import POLICY, find_published
from support.layouts import MTIME, SECRET, TRAPS, Published
from support.rawhttp import Answer, receive, send
from support.servers import RunningServer

IMMUTABLE = "public, max-age=31536000, immutable"
LAST_MODIFIED = "Tue, 14 Nov 2023 22:13:20 GMT"
MEDIA_TYPES = {
    Published.dashboard: "text/html; charset=utf-8",
    Published.dashboard_data: "application/json",
    Published.verdicts: "application/json",
}
EARLIER = "Tue, 14 Nov 2023 22:13:19 GMT"
LATER = "Tue, 14 Nov 2023 22:13:21 GMT"


def assert_refused(answer: Answer, status: int, code: str) -> None:
    """A small JSON document that no cache keeps."""
    assert answer.status == status
    assert "no-store" in answer.directives()
    assert answer.headers["Content-Type"].startswith("application/json")
    error = json.loads(answer.body)["error"]
    assert error.keys() == {"code", "message"}
    assert error["code"] == code


# What is published


def test_immutable_files_may_be_kept_for_ever(server: RunningServer, published: Published) -> None:
    for path in published.immutable:
        answer = send(server.address, path)
        assert (answer.status, answer.body) == (200, published.content(path)), path
        assert answer.headers.get_all("Cache-Control") == [IMMUTABLE], path


def test_mutable_files_are_revalidated(server: RunningServer, published: Published) -> None:
    for path in published.mutable:
        answer = send(server.address, path)
        assert (answer.status, answer.body) == (200, published.content(path)), path
        assert answer.headers.get_all("Cache-Control") == ["no-cache"], path


def test_every_file_has_validators_and_a_length(
    server: RunningServer, published: Published
) -> None:
    for path in published.immutable + published.mutable:
        headers = send(server.address, path).headers
        assert headers["ETag"].startswith('"'), "strong"
        assert headers["Last-Modified"] == LAST_MODIFIED
        assert headers["Content-Length"] == str(len(published.content(path)))
        assert headers["Content-Type"] == MEDIA_TYPES.get(path, "application/octet-stream")
        assert headers["Accept-Ranges"] == "bytes"
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_only_the_dashboard_is_for_browsers_and_may_load_nothing(
    server: RunningServer, published: Published
) -> None:
    for path in MEDIA_TYPES:
        for status, headers in ((200, {}), (304, {"If-None-Match": "*"})):
            answer = send(server.address, path, headers)
            assert answer.status == status
            assert answer.headers.get_all("Content-Security-Policy") == [POLICY]
    for path in set(published.immutable + published.mutable) - MEDIA_TYPES.keys():
        assert "Content-Security-Policy" not in send(server.address, path).headers


def test_objects_are_opaque_bytes(server: RunningServer, published: Published) -> None:
    """Never a Content-Encoding, though `.gz` and `.br` siblings lie beside the objects."""
    for path in (published.file, published.meta):
        for coding in ("gzip", "br", "zstd", "deflate", "gzip, br, zstd;q=1.0, *;q=0.5"):
            answer = send(server.address, path, {"Accept-Encoding": coding})
            assert "Content-Encoding" not in answer.headers
            assert "Vary" not in answer.headers
            assert answer.body == published.content(path)


def test_head_is_get_without_the_body(server: RunningServer, published: Published) -> None:
    for path in published.immutable + published.mutable:
        got = send(server.address, path)
        head = send(server.address, path, method="HEAD")
        assert (head.status, head.body) == (200, b"")
        assert without_date(head) == without_date(got)


def without_date(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name != "Date"}


def test_a_connection_is_kept_for_the_next_request(
    server: RunningServer, published: Published
) -> None:
    with socket.create_connection(server.address, timeout=30) as connection:
        for method, path, status in (
            ("HEAD", published.file, 200),
            ("GET", published.large, 200),
            ("GET", "/nothing", 404),
            ("GET", published.ref, 200),
        ):
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = receive(connection, method)
            assert answer.status == status
            if (method, status) == ("GET", 200):
                assert answer.body == published.content(path)


def test_a_query_does_not_matter(server: RunningServer, published: Published) -> None:
    answer = send(server.address, f"{published.ref}?x=/../state")
    assert (answer.status, answer.body) == (200, published.content(published.ref))


def test_the_absolute_form_names_the_same(server: RunningServer, published: Published) -> None:
    """RFC 9112 3.2.2: a server must accept what a client sends to a proxy."""
    answer = send(server.address, f"http://test.example{published.ref}")
    assert (answer.status, answer.body) == (200, published.content(published.ref))


def test_servers_do_not_name_their_version(server: RunningServer, published: Published) -> None:
    assert send(server.address, published.ref).headers["Server"] in ("nginx", "hacktree")
    assert send(server.address, "/nothing").headers["Server"] in ("nginx", "hacktree")


# Revalidation


def test_what_the_client_has_is_not_sent_again(server: RunningServer, published: Published) -> None:
    for path in published.immutable + published.mutable:
        first = send(server.address, path)
        etag = first.headers["ETag"]
        for held in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            answer = send(server.address, path, {"If-None-Match": held})
            assert (answer.status, answer.body) == (304, b""), held
            assert answer.headers["ETag"] == etag
            assert answer.headers.get_all("Cache-Control") == first.headers.get_all("Cache-Control")


def test_another_entity_tag_gets_the_file(server: RunningServer, published: Published) -> None:
    answer = send(server.address, published.ref, {"If-None-Match": '"other", W/"another"'})
    assert (answer.status, answer.body) == (200, published.content(published.ref))


@pytest.mark.parametrize(
    ("since", "status"),
    [(EARLIER, 200), (LAST_MODIFIED, 304), (LATER, 304), ("no date", 200)],
)
def test_if_modified_since(
    server: RunningServer, published: Published, since: str, status: int
) -> None:
    assert send(server.address, published.ref, {"If-Modified-Since": since}).status == status


def test_the_entity_tag_overrules_the_date(server: RunningServer, published: Published) -> None:
    conditions = {"If-None-Match": '"other"', "If-Modified-Since": LATER}
    assert send(server.address, published.ref, conditions).status == 200


@pytest.mark.parametrize(
    "condition", [{"If-Match": '"other"'}, {"If-Unmodified-Since": EARLIER}], ids=str
)
def test_a_failed_precondition_is_said(
    server: RunningServer, published: Published, condition: dict[str, str]
) -> None:
    answer = send(server.address, published.file, condition)
    assert_refused(answer, 412, "precondition-failed")


def test_a_kept_precondition_changes_nothing(server: RunningServer, published: Published) -> None:
    etag = send(server.address, published.file).headers["ETag"]
    for condition in ({"If-Match": etag}, {"If-Unmodified-Since": LAST_MODIFIED}):
        assert send(server.address, published.file, condition).status == 200


def test_a_replaced_ref_is_seen_at_once(server: RunningServer, published: Published) -> None:
    """Same size, one second newer: entity tag and date both notice."""
    path = f"/refs/replaced-{server.address[1]}"
    published.write(path, b"1" * 64 + b"\n", mtime=MTIME)
    before = send(server.address, path)
    published.write(path, b"2" * 64 + b"\n", mtime=MTIME + 1)
    for condition in (
        {"If-None-Match": before.headers["ETag"]},
        {"If-Modified-Since": before.headers["Last-Modified"]},
        {"Range": "bytes=8-", "If-Range": before.headers["ETag"]},
    ):
        answer = send(server.address, path, condition)
        assert (answer.status, answer.body) == (200, b"2" * 64 + b"\n")
        assert answer.headers["ETag"] != before.headers["ETag"]


def test_both_servers_give_the_same_validators(
    hacktree_server: RunningServer, nginx: RunningServer, published: Published
) -> None:
    """A download that began at one continues at the other."""
    for path in published.immutable + published.mutable:
        ours, theirs = (send(server.address, path).headers for server in (hacktree_server, nginx))
        for name in ("ETag", "Last-Modified", "Cache-Control", "Content-Length", "Content-Type"):
            assert ours.get_all(name) == theirs.get_all(name), (path, name)


# Ranges


@pytest.mark.parametrize("which", ["file", "large", "pack"])
@pytest.mark.parametrize(
    ("first", "last", "spelling"),
    [
        (0, 0, "bytes=0-0"),
        (0, 99, "bytes=0-99"),
        (5, None, "bytes=5-"),
        (0, None, "bytes=0-"),
        (-7, None, "bytes=-7"),
        (-(10**12), None, "bytes=-1000000000000"),
        (10, None, "bytes=10-999999999999"),
        (3, 3, "bytes= 3-3 "),
    ],
)
def test_a_range_is_sent_alone(
    server: RunningServer,
    published: Published,
    which: str,
    first: int,
    last: int | None,
    spelling: str,
) -> None:
    path = getattr(published, which)
    content = published.content(path)
    whole = send(server.address, path)
    answer = send(server.address, path, {"Range": spelling})
    start = max(0, len(content) + first) if first < 0 else first
    stop = len(content) if last is None else last + 1
    assert (answer.status, answer.body) == (206, content[start:stop])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(content)}"
    for name in ("ETag", "Last-Modified", "Cache-Control", "Content-Type"):
        assert answer.headers.get_all(name) == whole.headers.get_all(name)


def test_the_last_byte_is_a_range(server: RunningServer, published: Published) -> None:
    size = len(published.content(published.large))
    answer = send(server.address, published.large, {"Range": f"bytes={size - 1}-"})
    assert (answer.status, answer.body) == (206, b"\n")


def test_a_range_beyond_the_end_is_refused(server: RunningServer, published: Published) -> None:
    """With the length, so that a client whose part is longer than the file starts again."""
    for path in (published.file, published.ref, published.large):
        size = len(published.content(path))
        for spelling in (f"bytes={size}-", f"bytes={size + 5}-{size + 9}", "bytes=-0"):
            answer = send(server.address, path, {"Range": spelling})
            assert_refused(answer, 416, "requested-range-not-satisfiable")
            assert answer.headers["Content-Range"] == f"bytes */{size}"


def test_several_ranges_get_the_whole(server: RunningServer, published: Published) -> None:
    answer = send(server.address, published.file, {"Range": "bytes=0-1,5-6"})
    assert (answer.status, answer.body) == (200, published.content(published.file))


def test_an_unknown_unit_gets_the_whole(server: RunningServer, published: Published) -> None:
    answer = send(server.address, published.file, {"Range": "lines=0-1"})
    assert (answer.status, answer.body) == (200, published.content(published.file))


@pytest.mark.parametrize("which", ["file", "large", "pack"])
def test_if_range_that_matches_gets_the_part(
    server: RunningServer, published: Published, which: str
) -> None:
    path = getattr(published, which)
    etag = send(server.address, path).headers["ETag"]
    for validator in (etag, LAST_MODIFIED):
        answer = send(server.address, path, {"Range": "bytes=100-", "If-Range": validator})
        assert (answer.status, answer.body) == (206, published.content(path)[100:])


@pytest.mark.parametrize("which", ["file", "large", "pack"])
def test_if_range_of_another_version_gets_the_whole(
    server: RunningServer, published: Published, which: str
) -> None:
    """Or a client would put two versions together. A weak tag proves nothing (RFC 9110 13.1.5)."""
    path = getattr(published, which)
    etag = send(server.address, path).headers["ETag"]
    for validator in ('"other"', f"W/{etag}", EARLIER, LATER, etag.strip('"')):
        answer = send(server.address, path, {"Range": "bytes=100-", "If-Range": validator})
        assert (answer.status, answer.body) == (200, published.content(path)), validator
        assert "Content-Range" not in answer.headers


# What is not published

UNREACHABLE: tuple[bytes, ...] = (
    b"/",
    b"//",
    b"/format",
    b"/lock",
    b"/state/sessions",
    b"/tmp/staged",
    b"/roots/os",
    b"/.hidden",
    b"/refs/.hidden",
    b"/refs",
    b"/refs/",
    b"/objects/",
    b"/objects/17/",
    b"/branches/gnomeos/x86_64/builds/history/",
    b"/packs/",
    b"/graph/",
    b"/graph/tail/",
    b"/dashboard",
    b"/dashboard/",
    b"/dashboard/Index.html",
    b"/dashboard/../state/sessions",
    b"/packs/../state/sessions",
    b"/graph/%74ail",
    b"/refs/gnomeos/x86_64/builds/",
    b"//refs/gnomeos/x86_64/builds",
    b"/refs//gnomeos/x86_64/builds",
    b"/refs/./gnomeos/x86_64/builds",
    b"/objects/../state/sessions",
    b"/objects/../refs/gnomeos/x86_64/builds",
    b"/objects/../../outside",
    b"/../outside",
    b"/refs/../../outside",
    b"/refs/..",
    b"/objects/%2e%2e/format",
    b"/objects/%2E%2E/state/sessions",
    b"/objects/..%2fstate/sessions",
    b"/objects/%2e%2e%2fformat",
    b"/objects/%252e%252e/format",
    b"/%2e%2e/outside",
    b"/%66ormat",
    b"/refs%2fgnomeos/x86_64/builds",
    b"/refs/gnomeos/x86_64/build%73",
    b"/refs/gnomeos/x86_64/builds%00",
    b"/refs/gnomeos/x86_64/builds%00.txt",
    b"/refs/gnomeos/x86_64/builds%0a",
    b"/refs/gnomeos/x86_64/builds%20",
    b"/refs\\gnomeos\\x86_64\\builds",
    b"/refs/..\\format",
    b"/objects/..\\state\\sessions",
    b"/refs/%5c..%5cformat",
    b"/state;/sessions",
    b"/refs/gnomeos/x86_64/builds;x",
    b"/refs/Gnomeos/x86_64/builds",
    b"/refs/\xff\xfe",
    b"/refs/gnomeos/x86_64/builds\xe2\x80\xae",
    f"/objects/2e/{'0B' * 31}.file.zst".encode(),
    f"/objects/2e/{'0b' * 31}.file".encode(),
    f"/objects/2e/{'0b' * 31}.file.zst.gz".encode(),
    f"/objects/2e/{'0b' * 31}.file.zst.br".encode(),
    f"/objects/2e/{'0b' * 31}".encode(),
    f"/objects/2e{'0b' * 31}.file.zst".encode(),
    f"/objects/17/{'00' * 31}.meta".encode(),
)


@pytest.mark.parametrize("target", UNREACHABLE, ids=str)
def test_nothing_else_can_be_reached(
    server: RunningServer, published: Published, target: bytes
) -> None:
    """Targets as bytes on the wire: 404, or 400 where the server finds that it is no URL at all.

    A 400 is not ours (aiohttp and nginx answer before we are asked) and no cache keeps it anyway
    unless it says so (RFC 9110 15.1).
    """
    for method in ("GET", "HEAD"):
        answer = send(server.address, target, method=method)
        assert answer.status in (400, 404)
        assert answer.directives() == {"no-store"} or answer.status == 400
        assert "public" not in answer.directives()
        assert SECRET not in answer.body
        assert "ETag" not in answer.headers
        assert "Location" not in answer.headers


@pytest.mark.parametrize("target", TRAPS)
def test_only_regular_files_are_served(server: RunningServer, target: str) -> None:
    """Not links (inside or outside), directories, FIFOs or sockets, whatever their names."""
    for headers in ({}, {"Range": "bytes=0-"}, {"If-None-Match": "*"}):
        answer = send(server.address, target, headers)
        assert_refused(answer, 404, "not-found")


HEX62 = "0f" * 31
HEX64 = "0f" * 32
# Names that only just are, and are not, those of published files. A file lies at each.
PUBLISHED: tuple[str, ...] = (
    f"/objects/ab/{HEX62}.meta",
    f"/objects/ab/{HEX62}.file.zst",
    "/refs/plain",
    "/refs/with.dot_and-dash",
    "/refs/two..dots",
    "/refs/7",
    "/refs/a/b/c/d",
    "/refs/historical",
    "/refs/x-history",
    "/refs/locked.lock.d",
    "/refs/" + "n" * 200,
    "/refs/" + "/".join("mm" * 10 for _ in range(9)) + "/" + "m" * 11,
    "/branches/plain/history/tail",
    f"/branches/plain/history/{HEX64}",
    "/branches/a/b/history/tail",
    f"/branches/{'n' * 200}/history/{HEX64}",
    f"/packs/{HEX64}",
    f"/graph/{HEX64}",
)
NOT_PUBLISHED: tuple[str, ...] = (
    f"/objects/ab/{HEX62}.file",
    f"/objects/ab/{HEX62}0.meta",
    f"/objects/ab/{HEX62[1:]}.meta",
    f"/objects/abc/{HEX62}.meta",
    f"/objects/aB/{HEX62}.meta",
    f"/objects/ab/{HEX62.upper()}.meta",
    f"/objects/ab/{HEX62}xmeta",
    f"/objects/ab/{HEX62}.filexzst",
    f"/objects/ab/x/{HEX62}.meta",
    "/refs/Upper",
    "/refs/-dash",
    "/refs/_underscore",
    "/refs/.dot",
    "/refs/a/.dot",
    "/refs/history",
    "/refs/q/history",
    "/refs/q/tail/r",
    "/refs/current",
    "/refs/head",
    "/refs/remotes/origin/builds",
    "/refs/builds.lock",
    "/refs/builds.tmp",
    "/refs/r.lock/s",
    "/refs/plus+",
    "/refs/tilde~",
    "/refs/" + "n" * 201,
    "/refs/" + "/".join("kk" * 10 for _ in range(9)) + "/" + "k" * 12,
    f"/branches/plain/history/{HEX64[1:]}",
    f"/branches/plain/history/{HEX64.upper()}",
    "/branches/plain/history/head",
    "/branches/plain/tail",
    "/branches/history/history/tail",
    f"/branches/a/tail/history/{HEX64}",
    f"/branches/a/b.tmp/history/{HEX64}",
    f"/branches/{'n' * 201}/history/{HEX64}",
    "/branches/Upper/history/tail",
    "/config.toml",
    "/packs/x",
    f"/packs/{HEX64[1:]}",
    f"/packs/{HEX64}0",
    f"/packs/{HEX64.upper()}",
    f"/packs/{HEX62[:2]}/{HEX62}",
    "/packs/tail",
    f"/packs/.{HEX64}.0f0f0f0f.tmp",
    "/graph/head",
    "/graph/taill",
    f"/graph/{HEX64[1:]}",
    f"/graph/{HEX64.upper()}",
    f"/graph/x/{HEX64}",
    "/graph/.tail.0f0f0f0f.tmp",
    "/dashboard/index.htm",
    "/dashboard/index.html.tmp",
    "/dashboard/other.json",
    "/dashboard/x/index.html",
    "/index.html",
    "/dashboard.json",
)


@pytest.mark.parametrize("path", PUBLISHED)
def test_what_has_a_published_name_is_served(
    server: RunningServer, published: Published, path: str
) -> None:
    published.write(path, b"content")
    assert find_published(path) is not None
    assert send(server.address, path).body == b"content"


@pytest.mark.parametrize("path", NOT_PUBLISHED)
def test_what_has_not_is_not(server: RunningServer, published: Published, path: str) -> None:
    published.write(path, SECRET)
    assert find_published(path) is None
    assert_refused(send(server.address, path), 404, "not-found")


# Refusals


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "MKCOL"]
)
def test_only_get_and_head(server: RunningServer, published: Published, method: str) -> None:
    for path in (published.file, published.ref, "/refs/none", "/state/sessions"):
        answer = send(server.address, path, method=method)
        assert_refused(answer, 405, "method-not-allowed")
        assert answer.headers["Allow"] == "GET, HEAD"


def test_a_body_is_refused_with_its_method(server: RunningServer, published: Published) -> None:
    before = published.content(published.ref)
    answer = send(server.address, published.ref, method="PUT", body=b"0" * 65)
    assert_refused(answer, 405, "method-not-allowed")
    assert published.content(published.ref) == before


def test_not_found_is_never_cached(server: RunningServer) -> None:
    """A client may ask for a ref before its first build; the next answer must be fresh."""
    answer = send(server.address, "/refs/not-yet")
    assert_refused(answer, 404, "not-found")
    assert answer.headers.get_all("Cache-Control") == ["no-store"]
    assert "Last-Modified" not in answer.headers


def test_a_request_that_is_no_http_is_refused(server: RunningServer, published: Published) -> None:
    with socket.create_connection(server.address, timeout=30) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00 hello\r\n\r\n")
        assert receive(connection).status == 400
    assert send(server.address, published.ref).status == 200


def test_the_access_log_counts_requests(server: RunningServer, published: Published) -> None:
    """What `RunningServer.requests` is for: the client's tests count with it."""
    agent = "contract-test/1"
    send(server.address, published.large, {"User-Agent": agent})
    send(server.address, published.ref, {"User-Agent": agent}, method="HEAD")
    send(server.address, "/refs/none", {"User-Agent": agent})
    logged = [entry for entry in server.requests() if entry.agent == agent]
    size = len(published.content(published.large))
    assert [(entry.method, entry.path, entry.status) for entry in logged] == [
        ("GET", published.large, 200),
        ("HEAD", published.ref, 200),
        ("GET", "/refs/none", 404),
    ]
    assert [entry.length for entry in logged[:2]] == [size, 0]


def test_a_client_can_not_forge_a_log_line(server: RunningServer, published: Published) -> None:
    """Quotes, backslashes and bytes beyond ASCII arrive as `\\xNN` in its one field."""
    forged = 'forger\\ " 200 7 "-" "\xe9'
    send(server.address, published.ref, {"User-Agent": forged})
    agents = [entry.agent for entry in server.requests() if entry.agent.startswith("forger")]
    assert agents == [r"forger\x5C \x22 200 7 \x22-\x22 \x22\xE9"]


def test_the_layout_s_date_is_what_the_tests_say() -> None:
    assert email.utils.formatdate(MTIME, usegmt=True) == LAST_MODIFIED
