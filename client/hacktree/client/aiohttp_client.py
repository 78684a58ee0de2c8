"""aiohttp, whose import reads no certificates: that would take a third of its time.

At its import aiohttp makes two TLS contexts with every certificate that this machine trusts. Most
pulls need none of them. Here the one gets its certificates when its first connection begins, and
the other, which verifies nothing, never.
"""

import os
import ssl
import sys
from typing import Any


class _LazyContext(ssl.SSLContext):
    """As `ssl.create_default_context` makes it; trusts nobody until the first connection begins."""

    _has_read = False

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """Begin a connection."""
        if not self._has_read:
            self.load_default_certs()
            self._has_read = True
        return super().wrap_bio(*args, **options)


def _create_lazily(*_: object, **__: object) -> ssl.SSLContext:
    context = _LazyContext(ssl.PROTOCOL_TLS_CLIENT)
    if sys.version_info >= (3, 13):
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    if log := os.environ.get("SSLKEYLOGFILE"):
        context.keylog_filename = log
    return context


def _read_nothing(_: ssl.SSLContext) -> None:
    """In place of reading the certificates that are trusted."""


_create = ssl.create_default_context
ssl.create_default_context = _create_lazily
ssl.SSLContext.set_default_verify_paths = _read_nothing  # type: ignore[assignment, method-assign]
try:
    import aiohttp
finally:
    ssl.create_default_context = _create
    del ssl.SSLContext.set_default_verify_paths

__all__ = ["aiohttp"]
