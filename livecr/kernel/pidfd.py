"""A duplicate of another process's descriptor, by pidfd_getfd(2): needs no stop, only the right to trace.

It shares the open file description, so what is asked of it is asked of the process's own. Called by kinds.
"""

from __future__ import annotations

import os

from livecr._native import lib
from livecr.errors import Failed

__all__ = ["Duplicate"]

_NR_PIDFD_GETFD = 438


class Duplicate:
    """``with Duplicate(pid, fd) as ours``: descriptor ``fd`` of ``pid`` under a number of livecr's own.

    Raises Failed; FileNotFoundError if the process or the descriptor is gone.
    """

    def __init__(self, pid: int, fd: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise FileNotFoundError(pid) from None
        try:
            self._fd = int(lib.lcr_syscall(_NR_PIDFD_GETFD, pidfd, fd, 0, 0, 0, 0))
        finally:
            os.close(pidfd)
        if self._fd in (-3, -9):  # ESRCH, EBADF
            raise FileNotFoundError(fd)
        if self._fd < 0:
            raise Failed(f"pidfd_getfd: {os.strerror(-self._fd)}", where=f"process {pid}, descriptor {fd}")

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)
