"""pidfds (pidfd_open(2)): of processes of the tree, also those that have ended, and of those that are gone.

One of a process that has been waited for tells only that, and how it ended: at restore another process ends
in the same way. Relies on the Pid line of fdinfo and PIDFD_GET_INFO (Linux 6.15). Called by descriptors.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from struct import Struct

from livecr._native import lib
from livecr.errors import Failed
from livecr.image.record import Record
from livecr.kernel import procfs
from livecr.kernel.pidfd import Duplicate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kinds.files import Keeper

__all__ = ["Gone", "PidFd", "load", "obstacle", "save"]

_NR_PIDFD_OPEN = 434
PIDFD_THREAD = os.O_EXCL
_FLAGS = os.O_NONBLOCK | PIDFD_THREAD
#: struct pidfd_info of <linux/pidfd.h>: mask; …; exit_code at 60; and its request for 64 bytes.
_PIDFD_GET_INFO, _INFO, _EXIT_CODE, _PIDFD_INFO_EXIT = 0xC040FF0B, Struct("=Q56x"), 60, 1 << 3


class PidFd(Record, tag="pidfd"):
    """``pid``: 0 if it has been waited for; then ``status`` is as wait(2) gives it, and ``inode`` is the same
    for all that are of one process. ``flags``: O_NONBLOCK, PIDFD_THREAD."""

    pid: int
    status: int
    inode: int
    flags: int


def _pid(d: procfs.Descriptor) -> int:
    """-1: it has been waited for."""
    return next((int(line.split()[1]) for line in d.lines if line.startswith("Pid:")), -1)


def obstacle(d: procfs.Descriptor, stat: os.stat_result, insiders: frozenset[int]) -> tuple[str, str] | None:
    """Of a process outside, its number may be another's at restore."""
    pid = _pid(d)
    if pid == -1:
        return None
    try:
        told = procfs.status(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None  # it has just been waited for
    if int(told["Tgid"]) != pid:
        return f"it is the pidfd of a single thread, {pid}", "this version of livecr saves those of processes"
    at = pid
    while at not in insiders and at > 1:
        with suppress(FileNotFoundError, ProcessLookupError):
            at = procfs.stat(at)["ppid"]
            continue
        at = 0
    if at in insiders:
        return None
    what = f"it is a pidfd of process {pid} ({told['Name']}), which is no part of the program"
    return what, "checkpoint a process above both, or let it close the pidfd"


def save(pid: int, d: procfs.Descriptor, stat: os.stat_result, keeper: Keeper) -> PidFd:
    """Nothing is changed by asking."""
    of = _pid(d)
    return PidFd(
        pid=max(of, 0),
        status=_exit_status(d) if of == -1 else 0,
        inode=stat.st_ino,
        flags=d.flags & _FLAGS,
    )


def _exit_status(d: procfs.Descriptor) -> int:
    """0 if the kernel does not tell: then nobody else can know either."""
    with suppress(OSError), Duplicate(d.pid, d.fd) as fd:
        told = fcntl.ioctl(fd, _PIDFD_GET_INFO, _INFO.pack(_PIDFD_INFO_EXIT))
        if int.from_bytes(told[:8], "little") & _PIDFD_INFO_EXIT:
            return int.from_bytes(told[_EXIT_CODE : _EXIT_CODE + 4], "little") & 0xFFFF
    return 0


# -- loading -----------------------------------------------------------------------------------------------


def load(record: PidFd, gone: Gone, pids: set[int]) -> int:
    """A pidfd of a process that is there by now. ``pids``: those of the tree, also those that have ended."""
    if record.pid == 0:
        return gone.open(record)
    if record.pid not in pids:
        raise Failed("its pidfd is of no process of its own", where=f"process {record.pid}")
    return _open(record.pid, record.flags)


def _open(pid: int, flags: int) -> int:
    fd: int = lib.lcr_syscall(_NR_PIDFD_OPEN, pid, flags, 0, 0, 0, 0)
    if fd < 0:
        raise Failed(f"pidfd_open: {os.strerror(-fd)}", where=f"process {pid}")
    return fd


class Gone:
    """Processes that end as others have, until all pidfds of each are open."""

    def __init__(self) -> None:
        self._pids: dict[int, int] = {}

    def open(self, record: PidFd) -> int:
        """A pidfd of one of them."""
        if record.inode not in self._pids:
            self._pids[record.inode] = _end_as(record.status)
        return _open(self._pids[record.inode], record.flags)

    def close(self) -> None:
        """Wait for them: from then on they are gone."""
        for pid in self._pids.values():
            os.waitpid(pid, 0)
        self._pids.clear()


def _end_as(status: int) -> int:
    """A child that ends, or has ended, with this status, but for a core dump."""
    pid = os.fork()
    if pid:
        return pid
    by = status & 0x7F
    if by:
        import resource
        import signal

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if by not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(by, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.kill(os.getpid(), by)
    os._exit(status >> 8 & 0xFF)
