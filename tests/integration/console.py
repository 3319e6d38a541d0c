"""A terminal in which a test types and looks, as a user does: it holds the master, a program the slave."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["Console"]

_SECONDS = 60.0


class Console:
    """``command`` runs in it as the leader of a session; ended, with all of that session, by ``close``."""

    def __init__(self, *command: str | Path, cwd: Path, rows: int = 24, columns: int = 80) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            try:
                _set_size(0, rows, columns)
                os.chdir(cwd)
                os.closerange(3, 1024)
                environment = os.environ | {"TERM": "xterm", "PS1": "$ ", "INPUTRC": "/dev/null"}
                os.execvpe(str(command[0]), [str(word) for word in command], environment)
            finally:
                os._exit(127)
        self.seen = ""
        self._looked_at = 0
        self._status: int | None = None

    def type(self, text: str) -> None:
        """As on a keyboard."""
        os.write(self.master, text.encode())

    def until_seen(self, pattern: str, seconds: float = _SECONDS) -> str:
        """Wait until what has been shown since the last time matches ``pattern``; all that it matched."""
        end = time.monotonic() + seconds
        while not (match := re.search(pattern, self.seen[self._looked_at :])):
            left = end - time.monotonic()
            assert left > 0, f"{pattern!r} is not shown: {self.seen[self._looked_at :]!r}"
            assert self._read(min(left, 0.2)) or not self.has_ended(), f"it has ended: {self.seen!r}"
        self._looked_at += match.end()
        return match.group()

    def shows(self, pattern: str) -> bool:
        """Whether that is there already to be seen."""
        while self._read(0):
            pass
        return bool(re.search(pattern, self.seen[self._looked_at :]))

    def _read(self, seconds: float) -> bool:
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:  # EIO: nobody has the slave open
            time.sleep(min(seconds, 0.01))
            return False
        self.seen += data.decode(errors="replace")
        return True

    def resize(self, rows: int, columns: int) -> None:
        """As when a user pulls at the window."""
        _set_size(self.master, rows, columns)

    def settings(self) -> list[object]:
        """termios of the terminal, as tcgetattr(3) tells it."""
        return list(termios.tcgetattr(self.master))

    def has_ended(self) -> bool:
        """Whether what runs in it is over."""
        if self._status is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if ended else None
        return self._status is not None

    def wait(self, seconds: float = _SECONDS) -> int:
        """How it ended, as subprocess tells it."""
        end = time.monotonic() + seconds
        while not self.has_ended():
            assert time.monotonic() < end, f"it does not end: {self.seen!r}"
            self._read(0.05)
        while self._read(0.0):
            pass
        assert self._status is not None
        return os.waitstatus_to_exitcode(self._status)

    def close(self) -> None:
        """Hang up, and end what is left of its session."""
        for name in os.listdir("/proc"):
            with suppress(OSError, ValueError):
                if os.getsid(int(name)) == self.pid and int(name) != self.pid:
                    os.kill(int(name), signal.SIGKILL)
        if not self.has_ended():
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        os.close(self.master)


def _set_size(fd: int, rows: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
