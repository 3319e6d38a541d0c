"""A duplicate of another process's descriptor, by pidfd_getfd(2): needs no stop, only the right to trace.

It shares the open file description, so what is asked of it is asked of the process's own. Called by kinds.
"""

from __future__ import annotations

import os

from livecr._native import lib
from livecr.errors import Failed
from livecr.kernel import leader

__all__ = ["Duplicate", "duplicate"]

_NR_PIDFD_GETFD = 438
_GONE = (-3, -9)  # ESRCH, EBADF


def duplicate(pidfd: int, fd: int) -> int:
    """A number of livecr's own for descriptor ``fd`` of the process of ``pidfd``.

    Raises FileNotFoundError if the process or the descriptor is gone, Failed otherwise.
    """
    result: int = lib.lcr_syscall(_NR_PIDFD_GETFD, pidfd, fd, 0, 0, 0, 0)
    if result in _GONE:
        raise FileNotFoundError(fd)
    if result < 0:
        raise Failed(f"pidfd_getfd: {os.strerror(-result)}", where=f"descriptor {fd}")
    return result


class Duplicate:
    """``with Duplicate(pid, fd) as ours``: descriptor ``fd`` of ``pid`` under a number of livecr's own.

    Raises Failed; FileNotFoundError if the process or the descriptor is gone.
    """

    def __init__(self, pid: int, fd: int) -> None:
        try:
            pidfd = leader.open_pidfd(pid)
        except ProcessLookupError:
            raise FileNotFoundError(pid) from None
        try:
            self._fd = duplicate(pidfd, fd)
        finally:
            os.close(pidfd)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)
