"""Which roots may go."""

from hacktree.client.roots import Roots


def roots_beyond(roots: Roots, keep: int) -> list[str]:
    """The roots that are neither protected nor among the `keep` that were deployed last."""
    protected = roots.protected
    # A root that never went live is a leftover: it takes nobody's place.
    kept = set(list(reversed(roots.order))[:keep])
    return [name for name in roots.newest_first() if name not in protected and name not in kept]
