"""Why a request was refused: a code for programs and a sentence. docs/format.md, "API"."""

import enum

import msgspec

from hacktree.common.objects.errors import FormatError

MAX_REFUSAL_SIZE = 64 << 10
"""Bytes of a refusal that a client reads."""


class RefusalCode(enum.StrEnum):
    """The stable part of a refusal."""

    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    TOO_OFTEN = "too-often"
    MALFORMED = "malformed"
    TOO_LARGE = "too-large"
    NO_SUCH_PUSH = "no-such-push"
    NO_SUCH_JOB = "no-such-job"
    NO_SUCH_SUITE = "no-such-suite"
    NO_SUCH_BRANCH = "no-such-branch"
    NO_SUCH_BUILD = "no-such-build"
    NO_SUCH_LEASE = "no-such-lease"
    NOT_HELD = "not-held"
    NOT_RETESTABLE = "not-retestable"
    NOT_PROMOTABLE = "not-promotable"
    LEASE_LOST = "lease-lost"
    WRONG_COMMIT = "wrong-commit"
    WRONG_SIGNATURE = "wrong-signature"
    WRONG_OBJECT = "wrong-object"
    HEAD_MOVED = "head-moved"
    OBJECTS_MISSING = "objects-missing"
    QUOTA_EXCEEDED = "quota-exceeded"
    BUSY = "busy"
    NO_SPACE = "no-space"
    INTERNAL = "internal-server-error"


class Refusal(msgspec.Struct, frozen=True, rename="kebab"):
    """`request_id` stands in the server's log too. Unknown fields are for later versions."""

    code: str
    message: str
    request_id: str = ""
    hint: str = ""


class _Body(msgspec.Struct, frozen=True):
    error: Refusal


def encode_refusal(refusal: Refusal) -> bytes:
    """The JSON of `{"error": {"code", "message", "request-id", "hint"}}`."""
    return msgspec.json.encode(_Body(refusal))


def decode_refusal(data: bytes) -> Refusal:
    """The refusal in a body of at most `MAX_REFUSAL_SIZE`; raises `FormatError`."""
    try:
        return msgspec.json.decode(data[:MAX_REFUSAL_SIZE], type=_Body).error
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise FormatError(f"not a refusal: {error}") from error
