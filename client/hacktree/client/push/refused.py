"""What a server's refusal means to whoever pushes."""

from typing import Final

from hacktree.client.source import SourceError
from hacktree.common.errors import BusyError, HacktreeError, UserError
from hacktree.common.push.refusals import Refusal, RefusalCode


class PushRefusedError(SourceError):
    """The server refuses for a reason of its own, or doesn't understand."""


class TokenRefusedError(UserError):
    """The token is unknown, or does not allow it."""


class CommitRefusedError(UserError):
    """This commit can't be published to this branch."""


class BranchMovedError(BusyError):
    """The branch has another head than the one that the commit follows."""


class PushGoneError(PushRefusedError):
    """The push expired: it has to be opened again."""


class ObjectsWantedError(PushRefusedError):
    """The server lacks objects that it had, or that nobody asked it about."""


_UNAUTHORISED_HINT: Final = "Give one that may: --token-file FILE, or $HACKTREE_TOKEN."
_HINTS: Final = {
    RefusalCode.WRONG_OBJECT.value: "Run `hacktree fsck` on the repository that is pushed from.",
    RefusalCode.NO_SPACE.value: "Tell whoever runs the server; then push again: it continues.",
    RefusalCode.INTERNAL.value: "Tell whoever runs the server; its log has this request's id.",
}


def error_of(refusal: Refusal, location: str) -> HacktreeError:
    """The error that a refusal stands for."""
    what = f"{location}: {refusal.message}"
    hint = refusal.hint or _HINTS.get(refusal.code, "")
    match refusal.code:
        case RefusalCode.UNAUTHENTICATED | RefusalCode.FORBIDDEN:
            return TokenRefusedError(what, hint=_UNAUTHORISED_HINT)
        case RefusalCode.WRONG_COMMIT:
            return CommitRefusedError(what, hint=hint)
        case RefusalCode.HEAD_MOVED:
            return BranchMovedError(what, hint=hint)
        case RefusalCode.NO_SUCH_PUSH:
            return PushGoneError(location, refusal.message, hint=hint)
        case RefusalCode.OBJECTS_MISSING:
            return ObjectsWantedError(location, refusal.message, hint=hint)
    name = f" [request {refusal.request_id}]" if refusal.request_id else ""
    return PushRefusedError(location, f"{refusal.message}{name}", hint=hint)
