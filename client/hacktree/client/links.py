"""Following symbolic links within a root as a program that is chrooted there would.

One walk for all that roots are seen through: trees of commits, directories on disk.
"""

from typing import Final, Protocol

MAX_LINKS: Final = 40
"""Links followed for one path, as in path_resolution(7)."""


class LinkAt(Protocol):
    """What is asked for links; it may raise to end the way."""

    def __call__(self, path: bytes, *, goes_on: bool) -> bytes | None:
        """The target of the link at a path, None if no link is there; more follows if `goes_on`."""


class TooManyLinksError(Exception):
    """A path leads through more links than the kernel follows, perhaps in a circle."""


def follow_links(path: bytes, link_at: LinkAt, *, last: bool) -> bytes:
    """Where `path` leads, relative to the root; a link in the last place is followed if `last`.

    An absolute target begins at the root, and `..` never leaves it. What does not exist stays as it
    is. Raises `TooManyLinksError`, and what `link_at` raises.
    """
    pending = _backwards(path)
    done: list[bytes] = []
    links = 0
    while pending:
        name = pending.pop()
        if name == b"..":
            del done[-1:]
            continue
        if pending or last:
            target = link_at(b"/".join([*done, name]), goes_on=bool(pending))
            if target is not None:
                links += 1
                if links > MAX_LINKS:
                    raise TooManyLinksError(path)
                if target.startswith(b"/"):
                    done = []
                pending += _backwards(target)
                continue
        done.append(name)
    return b"/".join(done)


def _backwards(path: bytes) -> list[bytes]:
    """The names of a path, the last first."""
    return [name for name in reversed(path.split(b"/")) if name not in (b"", b".")]
