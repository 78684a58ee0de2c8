"""Errors of the pure object model."""

from hacktree.common.errors import HacktreeError, UserError


class FormatError(HacktreeError):
    """Bytes that are not the canonical encoding of a valid object. Exit status 5.

    Whoever decodes decides whose fault that is: a pull turns it into a `PeerError`, a repository
    that reads its own object into a `CorruptError`.
    """

    exit_code = 5


class NameInvalidError(UserError):
    """A branch name, object id or path that a person gave is malformed."""
