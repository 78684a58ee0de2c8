"""A session as bytes: JSON with a size limit, read back only if its events fit its line. Pure."""

from typing import Final, TypeVar

import msgspec

from hacktree.client.bisect.core.model import Session
from hacktree.client.bisect.core.state import current_state
from hacktree.common.errors import UserError
from hacktree.common.objects.errors import FormatError

T = TypeVar("T", bound=msgspec.Struct)

MAX_SESSION_SIZE: Final = 16 << 20
"""Bytes; a thousand builds take about 200 kB."""


def encode_struct(value: msgspec.Struct) -> bytes:
    """Any struct of the bisection as JSON that people can read.

    Raises `FormatError` for what `decode_struct` would refuse.
    """
    data = msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
    decode_struct(data, type(value))
    return data


def decode_struct(data: bytes, kind: type[T]) -> T:
    """The struct that `data` holds; raises `FormatError`."""
    if len(data) > MAX_SESSION_SIZE:
        raise FormatError(f"a bisection's file of {len(data)} bytes exceeds {MAX_SESSION_SIZE}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UserError, RecursionError, UnicodeError) as error:
        raise FormatError(f"not a bisection's file: {error}") from error


def check_events(session: Session) -> None:
    """Raise `FormatError` unless every event makes sense where it stands."""
    try:
        current_state(session)
    except UserError as error:
        raise FormatError(f"a bisection that can't be: {error.message}") from error
