"""A bisection for a colleague: the session and where its builds come from, as one file.

The file may come from anybody. It is bounded and decoded like a session; of its URL nothing is
fetched: it only chooses among the remotes that this machine has. Its builds are `verifying`'s.
"""

from collections.abc import Sequence
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from hacktree.client.bisect.core.encoding import check_events, decode_struct, encode_struct
from hacktree.client.bisect.core.model import Session
from hacktree.client.remote import Remote
from hacktree.common.errors import UserError
from hacktree.common.objects.errors import FormatError

_PORTS: Final = {"http": 80, "https": 443}


class OtherRemoteError(UserError):
    """The session is about builds of a remote that is not one of this machine's."""


class Exported(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file holds; `url` is the remote's, without a password."""

    session: Session
    url: Annotated[str, Meta(max_length=4096)]
    format: Literal["hacktree bisection 1"] = "hacktree bisection 1"


def export_session(session: Session, remote: Remote) -> bytes:
    """The file, as JSON. What this machine combines builds with is left out."""
    options = msgspec.structs.replace(session.options, constant={})
    session = msgspec.structs.replace(session, options=options)
    return encode_struct(Exported(session, remote.shown_url))


def import_session(data: bytes) -> Exported:
    """What a file holds; raises `FormatError` for anything that could not be a session."""
    try:
        exported = decode_struct(data, Exported)
        check_events(exported.session)
    except FormatError as error:
        hint = "`hacktree bisect export` writes one, `hacktree bisect replay` reads a log."
        raise FormatError(error.message, hint=hint) from error
    return exported


def find_remote(exported: Exported, remotes: Sequence[Remote]) -> Remote:
    """The remote of this machine that the builds come from; raises `OtherRemoteError`.

    Of several with that URL the one that has the session's name, or else the first.
    """
    same = [one for one in remotes if _place(one.shown_url) == _place(exported.url)]
    if not same:
        raise OtherRemoteError(
            f"the session is about builds of {exported.url}, which is no remote here",
            hint="`hacktree remote add` adds it; --remote NAME says which of yours has the builds.",
        )
    named = [one for one in same if one.name == exported.session.remote]
    return (named or same)[0]


def _place(url: str) -> tuple[str, str, int | None, str]:
    """What is equal for URLs of the same place."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return ("", url, None, "")
    return parts.scheme, parts.hostname or "", port, parts.path.rstrip("/")
