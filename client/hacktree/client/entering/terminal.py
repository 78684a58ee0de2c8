"""Job control between the shell that started hacktree and the command that hacktree runs.

The command has a process group of its own, in the foreground while hacktree's would be. When it
stops, hacktree stops with it, so that the shell notices; when the shell continues hacktree, the
command gets the terminal back.
"""

import os
import signal


class Terminal:
    """The controlling terminal of this process, if it has one."""

    def __init__(self) -> None:
        try:
            self._descriptor = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            self._descriptor = -1
        self._own = os.getpgrp()
        self._lent = self._foreground() == self._own

    def _foreground(self) -> int:
        """The group in the foreground; -1 without a terminal, or once it hung up."""
        try:
            return os.tcgetpgrp(self._descriptor)
        except OSError:
            return -1

    def _set_foreground(self, group: int) -> None:
        # Whoever is in the background may only do so with SIGTTOU blocked.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            os.tcsetpgrp(self._descriptor, group)
        except OSError:
            # It hung up, or the group has ended: there is nothing to hand over.
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def give_to(self, group: int) -> None:
        """Put `group` into the foreground in place of this process's own."""
        if self._foreground() == self._own:
            self._lent = True
            self._set_foreground(group)

    def take_back(self) -> None:
        """Put this process's own group into the foreground, if it lent it."""
        if self._lent:
            self._lent = False
            self._set_foreground(self._own)

    def stop_with(self, command: int, number: int) -> None:
        """The command was stopped by signal `number`; returns when both go on."""
        wants_terminal = number in (signal.SIGTTIN, signal.SIGTTOU)
        if not (wants_terminal and self._foreground() == self._own):
            self.take_back()
            os.killpg(self._own, signal.SIGSTOP if number == signal.SIGSTOP else signal.SIGTSTP)
        self.give_to(command)
        os.killpg(command, signal.SIGCONT)
