"""Calling what is tested as a user without privileges, in a directory of theirs."""

import ctypes
import importlib
import os
import pwd
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hacktree.common.cli.main import load_catalog

_PR_SET_DUMPABLE = 4

AsNobody = Callable[[Callable[[Path], None]], None]
"""Calls a function as the user nobody, with a directory of its own; it must return."""


@contextmanager
def nobody() -> Iterator[AsNobody]:
    """The directory is deleted at the end.

    The interpreter may live where only root may look: what commands import is imported before.
    """
    for command in load_catalog().values():
        importlib.import_module(command.module)
    user = pwd.getpwnam("nobody")
    place = Path(tempfile.mkdtemp(dir="/var/tmp"))
    os.chown(place, user.pw_uid, user.pw_gid)

    def call(function: Callable[[Path], None]) -> None:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setgroups([])
                os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
                os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
                # As after execve(2): else /proc/self stays root's.
                ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
                function(place)
                status = 0
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    yield call
    subprocess.run(["rm", "-rf", place], check=True)
