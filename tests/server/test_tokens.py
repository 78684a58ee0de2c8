"""Promises: a token allows what was granted and nothing else; a refusal tells a peer nothing."""

import hashlib
import hmac
import logging
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hacktree.common.objects.names import BranchName, parse_branch_name
from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.repository import open_repository
from hacktree.server.database import Database, DatabaseDamagedError, open_database
from hacktree.server.failurelimiter import FailureLimiter, FailureLimits, PeerBlockedError
from hacktree.server.grants import (
    Action,
    Grant,
    GrantInvalidError,
    parse_grant,
    pattern_matches,
)
from hacktree.server.tokens import (
    USE_RESOLUTION,
    Standing,
    Token,
    TokenInvalidError,
    TokenMissingError,
    TokenRefusedError,
    admit,
    authenticate,
    create_token,
    list_tokens,
    revoke_token,
)

NOW = 1_800_000_000
PUSH = parse_grant("push:builds")
BUILDS = parse_branch_name("builds")

COMPONENTS = st.from_regex(r"[a-c][a-c.-]{0,3}", fullmatch=True)
BRANCHES = st.lists(COMPONENTS, min_size=1, max_size=5).map(
    lambda parts: parse_branch_name("/".join(parts))
)
PATTERNS = (
    st.lists(
        st.one_of(
            st.just("**"), st.from_regex(r"([a-c]|\*(?!\*))([a-c.-]|\*(?!\*)){0,4}", fullmatch=True)
        ),
        min_size=1,
        max_size=5,
    )
    .filter(lambda parts: all(pair != ("**", "**") for pair in pairwise(parts)))
    .filter(lambda parts: all(part == "**" or "**" not in part for part in parts))
    .map("/".join)
)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    init_repository(tmp_path / "farm", Mode.ARCHIVE)
    return open_database(open_repository(tmp_path / "farm"))


def reference_match(pattern: list[str], branch: list[str]) -> bool:
    """What the definition says, by trying everything."""
    if not pattern:
        return not branch
    if pattern[0] == "**":
        return any(reference_match(pattern[1:], branch[count:]) for count in range(len(branch) + 1))
    expression = re.escape(pattern[0]).replace(r"\*", ".*")
    return (
        bool(branch)
        and re.fullmatch(expression, branch[0]) is not None
        and reference_match(pattern[1:], branch[1:])
    )


# Grants


@given(PATTERNS, BRANCHES)
def test_patterns_match_what_their_definition_says(pattern: str, branch: BranchName) -> None:
    assert pattern_matches(pattern, branch) == reference_match(
        pattern.split("/"), branch.split("/")
    )


@given(st.sampled_from(Action), PATTERNS, st.sampled_from(Action), BRANCHES)
def test_a_grant_is_for_its_own_action(
    action: Action, pattern: str, wanted: Action, branch: BranchName
) -> None:
    grant = Grant(action, pattern)
    assert parse_grant(str(grant)) == grant
    assert grant.allows(wanted, branch) == (action is wanted and pattern_matches(pattern, branch))


@given(BRANCHES, BRANCHES)
def test_a_branch_name_is_the_pattern_of_itself_alone(one: BranchName, other: BranchName) -> None:
    assert pattern_matches(one, other) == (one == other)


@given(BRANCHES)
def test_two_stars_match_every_branch(branch: BranchName) -> None:
    assert pattern_matches("**", branch)
    assert pattern_matches("*", branch) == ("/" not in branch)


@given(st.text(max_size=12))
def test_anything_else_is_refused(text: str) -> None:
    """What is accepted is written one way, and could be the name of a branch but for its stars."""
    try:
        grant = parse_grant(text)
    except GrantInvalidError:
        return
    assert str(grant) == text
    parse_branch_name(grant.pattern.replace("**", "a").replace("*", "a"))


@pytest.mark.parametrize(
    "text",
    [
        "", "push", "push:", ":builds", "Push:builds", "pull:builds", "*:builds", "push: builds",
        "push:builds ", "push:/builds", "push:builds/", "push:a//b", "push:a/***", "push:**/**",
        "push:a**", "push:**a/b", "push:.a", "push:../a", "push:a/./b", "push:Builds", "push:a b",
        "push:a\nb", "push:a:b", "push:head", "push:a/history", "push:a.lock", "push:[ab]",
        "push:a?", "push:" + "a" * 201, "push:büilds", "push:-a*",
    ],
)  # fmt: skip
def test_malformed_grants(text: str) -> None:
    with pytest.raises(GrantInvalidError):
        parse_grant(text)


def test_a_hostile_pattern_ends() -> None:
    """A regular expression of this pattern would not end in a lifetime."""
    branch = parse_branch_name("a" * 190)
    assert not pattern_matches("*a" * 60 + "*b", branch)
    assert pattern_matches("*a" * 60 + "*", branch)


# Making and showing


def test_a_secret_is_shown_once_and_only_its_hash_is_kept(database: Database) -> None:
    token, secret = create_token(database, [PUSH], "CI", 3600, NOW)
    match = re.fullmatch(r"ht_([0-9a-f]{8})_([A-Za-z0-9_-]{43})", secret)
    assert match is not None
    assert match[1] == token.id
    with database.reading() as connection:
        (digest,) = connection.execute("SELECT digest FROM tokens").fetchone()
    assert digest == hashlib.sha256(match[2].encode()).digest()
    kept = b"".join(path.read_bytes() for path in database.path.parent.glob("server.sqlite*"))
    assert match[2].encode() not in kept
    assert authenticate(database, secret, NOW).grants == (PUSH,)
    assert match[2] not in repr(token)


def test_tokens_allow_what_their_grants_say(database: Database) -> None:
    texts = ["push:builds", "promote:gnomeos/*/fastqa", "admin:**", "push:builds"]
    token, _ = create_token(database, [parse_grant(text) for text in texts], "", None, NOW)
    assert list(map(str, token.grants)) == sorted(set(texts))
    assert token.allows(Action.PUSH, BUILDS)
    assert token.allows(Action.PROMOTE, parse_branch_name("gnomeos/x86_64/fastqa"))
    assert not token.allows(Action.PROMOTE, BUILDS), "admin implies nothing else"
    assert not token.allows(Action.VERDICT, BUILDS)
    assert not token.allows(Action.PUSH, parse_branch_name("builds/x"))
    assert list_tokens(database) == [token]


def test_what_no_token_can_be(database: Database) -> None:
    many = [parse_grant(f"push:b{number}") for number in range(65)]
    for grants, label, expires in (
        ([], "", None),
        (many, "", None),
        ([PUSH], "two\nlines", None),
        ([PUSH], "\x1b[31m", None),
        ([PUSH], "x" * 201, None),
        ([PUSH], "", 0),
        ([PUSH], "", 10**10),
    ):
        with pytest.raises(TokenInvalidError):
            create_token(database, grants, label, expires, NOW)
    with pytest.raises(TokenInvalidError):
        Token("0123ABCD", "", (PUSH,), NOW)
    with pytest.raises(TokenInvalidError):
        Token("0123abcd", "", (PUSH, PUSH), NOW)
    assert list_tokens(database) == []


def test_tokens_are_listed_by_age_and_revoked_once(database: Database) -> None:
    tokens = [create_token(database, [PUSH], "", None, NOW - age)[0] for age in (5, 9, 7)]
    assert [token.created for token in list_tokens(database)] == [NOW - 9, NOW - 7, NOW - 5]
    assert revoke_token(database, tokens[0].id, NOW).revoked == NOW
    assert revoke_token(database, tokens[0].id, NOW + 9).revoked == NOW
    assert [token.standing(NOW) for token in list_tokens(database)] == [
        Standing.ACTIVE, Standing.ACTIVE, Standing.REVOKED,
    ]  # fmt: skip
    with pytest.raises(TokenMissingError):
        revoke_token(database, "00000000", NOW)


def test_a_row_that_no_token_can_be_is_damage(database: Database) -> None:
    create_token(database, [PUSH], "", None, NOW)
    with database.writing() as connection:
        connection.execute("UPDATE token_grants SET action = 'everything'")
    with pytest.raises(DatabaseDamagedError):
        list_tokens(database)


# Authenticating


def refusals(database: Database) -> dict[str, str]:
    """A secret for each reason to refuse one at NOW, by what the log says."""
    _, expired = create_token(database, [PUSH], "", 10, NOW - 10)
    token, revoked = create_token(database, [PUSH], "", None, NOW)
    revoke_token(database, token.id, NOW)
    _, good = create_token(database, [PUSH], "", None, NOW)
    head, random = good[:12], good[12:]
    return {
        "expired": expired,
        "revoked": revoked,
        "wrong secret": head + random[::-1],
        "unknown id": f"ht_ffffffff_{random}",
        "malformed": good + "A",
    }


def test_the_peer_is_not_told_why_but_the_log_is(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    told = set()
    for why, secret in refusals(database).items():
        caplog.clear()
        with pytest.raises(TokenRefusedError) as refused:
            authenticate(database, secret, NOW, peer="192.0.2.7")
        told.add((refused.value.message, refused.value.hint, str(refused.value.__cause__)))
        (record,) = caplog.records
        line = record.getMessage()
        assert why in line
        assert "192.0.2.7" in line
        assert secret[12:] not in line
        assert why == "malformed" or secret[3:11] in line
    assert len(told) == 1


@pytest.mark.parametrize("secret", ["", "x", "ht_", "ht_0123abcd_", "ht_0123abcd_\0" + "A" * 42,
                                    "ht_0123ABCD_" + "A" * 43, "ht_0123abcd_" + "é" * 43,
                                    "ht_0123abcd_" + "A" * 43 + "\n", "A" * 100_000])  # fmt: skip
def test_malformed_secrets_are_refused_and_not_logged(
    database: Database, caplog: pytest.LogCaptureFixture, secret: str
) -> None:
    with pytest.raises(TokenRefusedError):
        authenticate(database, secret, NOW)
    assert len(caplog.text) < 200


def test_unknown_and_wrong_take_the_same_steps(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By construction: the same statements, and one comparison of 32 bytes in constant time."""
    _, good = create_token(database, [PUSH], "", None, NOW)
    steps: list[list[object]] = []
    compare = hmac.compare_digest

    def recording(one: bytes, other: bytes) -> bool:
        steps[-1].append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", recording)
    for secret in (good[:12] + "A" * 43, "ht_ffffffff_" + "A" * 43):
        steps.append([])
        with pytest.raises(TokenRefusedError):
            authenticate(database, secret, NOW)
    assert steps == [[(32, 32)], [(32, 32)]]


def test_it_expires_at_its_second(database: Database) -> None:
    _, secret = create_token(database, [PUSH], "", 10, NOW)
    assert authenticate(database, secret, NOW + 9).standing(NOW + 9) is Standing.ACTIVE
    with pytest.raises(TokenRefusedError):
        authenticate(database, secret, NOW + 10)


def test_the_last_use_is_written_once_a_minute(database: Database) -> None:
    _, secret = create_token(database, [PUSH], "", None, NOW)

    def used_at(now: int) -> int | None:
        assert authenticate(database, secret, now).last_used == list_tokens(database)[0].last_used
        return list_tokens(database)[0].last_used

    assert used_at(NOW) == NOW
    assert used_at(NOW + USE_RESOLUTION - 1) == NOW
    assert used_at(NOW + USE_RESOLUTION) == NOW + USE_RESOLUTION
    assert used_at(NOW - 9999) == NOW - 9999, "the clock was set back"


def test_a_busy_database_refuses_no_valid_token(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, secret = create_token(database, [PUSH], "", None, NOW)
    monkeypatch.setattr("hacktree.server.database.BUSY_SECONDS", 0.0)
    with database.writing():
        assert authenticate(database, secret, NOW).last_used is None
    assert "not recorded" in caplog.text


# Limiting failures

LIMITS = FailureLimits(failures=3, window=10, first_delay=20, longest_delay=100, addresses=50)
PEER = "192.0.2.7"


def fail(limiter: FailureLimiter, address: str, now: float, times: int = 3) -> None:
    for _ in range(times):
        limiter.record_failure(address, now)


def test_the_delay_grows_up_to_a_limit_and_is_forgotten() -> None:
    limiter = FailureLimiter(LIMITS)
    now = 1000.0
    for delay in (20, 40, 80, 100, 100):
        fail(limiter, PEER, now, 2)
        assert limiter.seconds_to_wait(PEER, now) == 0
        fail(limiter, PEER, now, 1)
        assert limiter.seconds_to_wait(PEER, now) == delay
        assert limiter.seconds_to_wait(PEER, now + delay - 0.5) == 1, "rounded up"
        now += delay
        assert limiter.seconds_to_wait(PEER, now) == 0
    fail(limiter, PEER, now + 101)
    assert limiter.seconds_to_wait(PEER, now + 101) == 20


def test_failures_outside_the_window_and_of_others_do_not_count() -> None:
    limiter = FailureLimiter(LIMITS)
    for number in range(20):
        limiter.record_failure(PEER, number * 5.0)
        limiter.record_failure(f"192.0.2.{100 + number}", 0.0)
    assert limiter.seconds_to_wait(PEER, 95.0) == 0
    fail(limiter, PEER, 96.0, 1)
    assert limiter.seconds_to_wait(PEER, 96.0) == 20


@pytest.mark.parametrize(
    ("one", "other", "wait"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", 20),
        ("2001:db8::1", "2001:db8:0:1::1", 0),
        ("192.0.2.7", "::ffff:192.0.2.7", 20),
        ("192.0.2.7", "192.0.2.8", 0),
        ("unix", "unix", 20),
        ("x" * 64, "x" * 10_000, 20),
    ],
)
def test_addresses_of_one_owner_count_together(one: str, other: str, wait: int) -> None:
    limiter = FailureLimiter(LIMITS)
    fail(limiter, one, 0.0)
    assert limiter.seconds_to_wait(other, 0.0) == wait


@given(st.lists(st.tuples(st.integers(0, 200), st.floats(-1e6, 1e6)), max_size=300))
def test_memory_and_waits_are_bounded_whoever_fails_whenever(
    events: list[tuple[int, float]],
) -> None:
    limiter = FailureLimiter(LIMITS)
    for number, now in events:
        address = f"10.0.0.{number}"
        limiter.record_failure(address, now)
        assert len(limiter) <= LIMITS.addresses
        assert 0 <= limiter.seconds_to_wait(address, now) <= LIMITS.longest_delay
        assert 0 <= limiter.seconds_to_wait(address, now - 1e9) <= LIMITS.longest_delay
    kept = sum(len(record.recent) for record in limiter._records.values())
    assert kept <= LIMITS.addresses * LIMITS.failures


def test_a_flood_forgets_the_oldest_and_blocks_no_stranger() -> None:
    limiter = FailureLimiter(LIMITS)
    fail(limiter, PEER, 0.0)
    for number in range(1000):
        limiter.record_failure(f"10.0.{number // 250}.{number % 250}", 1.0)
    assert len(limiter) == LIMITS.addresses
    assert limiter.seconds_to_wait("198.51.100.1", 1.0) == 0


def test_limits_that_make_no_sense() -> None:
    for limits in ({"failures": 0}, {"addresses": 0}, {"window": 0.0}, {"first_delay": 9999.0}):
        with pytest.raises(ValueError, match=r"at least|positive"):
            FailureLimits(**limits)


def test_a_peer_that_keeps_failing_waits_but_its_neighbours_do_not(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = FailureLimiter(LIMITS)
    _, secret = create_token(database, [PUSH], "", None, NOW)
    for _ in range(LIMITS.failures):
        with pytest.raises(TokenRefusedError):
            admit(database, limiter, "wrong", NOW, peer=PEER)
    assert len(caplog.records) == LIMITS.failures
    revoked, useless = create_token(database, [PUSH], "", None, NOW)
    revoke_token(database, revoked.id, NOW)
    for bad in ("wrong", secret[:-1] + ("A" if secret[-1] != "A" else "B"), useless):
        for _ in range(LIMITS.failures):
            with pytest.raises(PeerBlockedError) as blocked:
                admit(database, limiter, bad, NOW, peer=PEER)
            assert blocked.value.retry_after == 20, "it is no longer for being tried"
    assert len(caplog.records) == LIMITS.failures, "nor does it fill the log"
    # Behind one address are also those who have a token.
    assert admit(database, limiter, secret, NOW, peer=PEER).allows(Action.PUSH, BUILDS)
    assert admit(database, limiter, secret, NOW, peer="192.0.2.8").allows(Action.PUSH, BUILDS)
    with pytest.raises(PeerBlockedError):
        admit(database, limiter, "wrong", NOW, peer=PEER)
    with pytest.raises(TokenRefusedError):
        admit(database, limiter, "wrong", NOW + 20, peer=PEER)
    assert logging.getLogger("hacktree.server.tokens").getEffectiveLevel() <= logging.WARNING
