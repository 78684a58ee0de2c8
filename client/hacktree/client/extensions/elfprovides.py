"""What a shared library provides in the terms of rpm: its soname and its symbol versions.

`libfoo.so.1()(64bit)` and `libfoo.so.1(FOO_1.2)(64bit)`, for 32 bits `libfoo.so.1` and
`libfoo.so.1(FOO_1.2)`, as rpm's own `elfdeps` has them.
"""

import re
from pathlib import Path
from typing import Final

from hacktree.client.layers.dynamic import read_dynamic

_WIDE: Final = 2
_NAME: Final = re.compile(rb"[!-'*-~]{1,255}")
"""What a package could name: printable, no spaces or parentheses."""


def read_provides(path: Path) -> tuple[str, ...]:
    """What the file provides, the soname first; empty for anything but a library with a soname.

    A file that lies about itself provides nothing.
    """
    with open(path, "rb", buffering=0) as stream:
        dynamic = read_dynamic(stream.fileno())
    if dynamic is None or not _NAME.fullmatch(dynamic.soname):
        return ()
    soname = dynamic.soname.decode("ascii")
    mark, empty = ("(64bit)", "()") if dynamic.kind[0] == _WIDE else ("", "")
    # The definition that has the soname's name stands for the library itself.
    versions = sorted(
        version.decode("ascii")
        for version in dynamic.provides
        if _NAME.fullmatch(version) and version != dynamic.soname
    )
    return (f"{soname}{empty}{mark}", *(f"{soname}({version}){mark}" for version in versions))
