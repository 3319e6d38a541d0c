"""The seat of a program that was at a terminal of others: livecr's own terminal, and who has it when.

Relies on tcsetpgrp(3) and on the settings of a terminal being its own, not a process's (termios(3)). Made
by ttys_made, used by whoever called restore with at_terminal (cli/job).
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from livecr.kernel import pty
from livecr.kinds.tty_queues import plain

__all__ = ["Seat"]

_TCSETSW2 = 0x402C542C
#: Offsets in struct termios2 (asm-generic/termbits.h): the line's own settings are c_cflag and the speeds.
_C_CFLAG, _C_LFLAG, _SPEEDS = 8, 12, 36


class Seat:
    """Where a program sits that was at a terminal of others: ``own`` is livecr's terminal.

    ``relay``: the master of the pair that it sits at instead, or -1; ``foreground``: the process group to be
    in the foreground, or 0. Both descriptors are the caller's to close.
    """

    def __init__(self, own: int, relay: int, foreground: int, termios: bytes) -> None:
        self.own = own
        self.relay = relay
        self.foreground = foreground
        self._termios = termios
        self._before = pty.ask(own, pty.TCGETS2, pty.TERMIOS2_BYTES)
        self._is_entered = False

    def enter(self) -> None:
        """Set livecr's terminal as the program wants it, and let it be in the foreground, if livecr is."""
        if not self._in_foreground():
            return
        self._before = pty.ask(self.own, pty.TCGETS2, pty.TERMIOS2_BYTES)
        self._is_entered = True
        wanted = plain(self._before, canonical=False) if self.relay >= 0 else self._termios
        speed = slice(_C_CFLAG, _C_LFLAG)  # of the line, as the two words behind the characters
        wanted = wanted[:_C_CFLAG] + self._before[speed] + wanted[_C_LFLAG:_SPEEDS] + self._before[_SPEEDS:]
        pty.tell(self.own, pty.TCSETS2, wanted)
        if self.relay < 0 and self.foreground:
            _set_foreground(self.own, self.foreground)

    def leave(self) -> None:
        """As it was before the program entered, and livecr in the foreground again."""
        if not self._is_entered:
            return
        self._is_entered = False
        if self.relay < 0:
            with suppress(OSError):  # EIO, ENOTTY: it is gone
                self._termios = pty.ask(self.own, pty.TCGETS2, pty.TERMIOS2_BYTES)
                self.foreground = os.tcgetpgrp(self.own) if self.foreground else 0
                _set_foreground(self.own, os.getpgrp())
        with suppress(OSError):
            pty.tell(self.own, _TCSETSW2, self._before)

    def _in_foreground(self) -> bool:
        """A terminal that does not control livecr is there for all."""
        try:
            return os.tcgetpgrp(self.own) == os.getpgrp()
        except OSError:
            return True


def _set_foreground(fd: int, group: int) -> None:
    """tcsetpgrp(3), also from the background."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        os.tcsetpgrp(fd, group)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
