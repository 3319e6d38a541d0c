"""All processes that a restore has made, so that nothing is left of them when it fails.

Meanwhile livecr takes in their orphans (PR_SET_CHILD_SUBREAPER), to be able to wait for each of them. A tree
is let go one process after the other; for that moment a guard sees to it that all end if livecr does.
"""

from __future__ import annotations

import os
import time

from livecr._native import ffi, lib
from livecr.errors import Failed
from livecr.kernel import procfs
from livecr.target.guard import Guard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.process import Process
    from livecr.target.tracee import Tracee

__all__ = ["Kin"]

_NR_KILL, _NR_PRCTL, _NR_PIDFD_SEND_SIGNAL = 62, 157, 424
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
_WNOHANG, _ESRCH, _SIGKILL = 1, 3, 9
_END_TIMEOUT_S, _PAUSE_S = 10.0, 0.001
_GONE = (FileNotFoundError, ProcessLookupError)


class Kin:
    """The living ones in ``processes``, the first of them a child of livecr."""

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self._ended: list[Process] = []
        self._guard: Guard | None = None
        before = ffi.new("int *")
        _prctl(PR_GET_CHILD_SUBREAPER, int(ffi.cast("uintptr_t", before)))
        self._before = int(before[0])
        _prctl(PR_SET_CHILD_SUBREAPER, 1)

    def add(self, process: Process) -> None:
        """One more has been made, before anything else can fail. Gives it its pidfd. Raises Failed."""
        self.processes.append(process)
        try:
            process.pidfd = os.pidfd_open(process.pid)
        except OSError as error:
            raise Failed(f"pidfd_open: {error.strerror}", where=f"process {process.pid}") from error

    def has_ended(self, process: Process) -> None:
        """One has ended by itself; its parent may still have to wait for it."""
        self.processes.remove(process)
        self._ended.append(process)

    # -- letting go --------------------------------------------------------------------------------------

    def watch(self) -> None:
        """From now on all end if livecr does, also those that are not traced any more. Raises Failed."""
        if len(self.processes) < 2:
            return  # of one process no part can be left: a traced thread takes all with it
        self._guard = Guard([process.pidfd for process in self.processes])

    def release(self) -> None:
        """They are complete: from now on their orphans are init's."""
        _prctl(PR_SET_CHILD_SUBREAPER, self._before)

    def was_killed(self, task: Tracee) -> bool:
        """Whether it has ended before it could be let go. Its parent is told once its tracer has been."""
        if not _is_dead(task.pid, task.tid):
            return False
        if task.tid != task.pid or task.pid not in procfs.children(os.getpid()):
            while lib.lcr_wait(task.tid, ffi.new("int *"), 0) > 0:
                pass
        return True

    def are_free(self) -> None:
        """All have been let go, and live on without livecr; or all are gone."""
        if self._guard:
            self._guard.dismiss()
            self._guard = None
        for process in [*self.processes, *self._ended]:
            if process.pidfd >= 0:
                os.close(process.pidfd)
        self.processes.clear()
        self._ended.clear()

    # -- when it has failed ------------------------------------------------------------------------------

    def discard(self) -> None:
        """Kill all and wait until nothing is left."""
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        for process in self.processes:
            _kill(process.pid, process.pidfd)
        remaining = [*self.processes, *self._ended]
        own = {os.getpid(), *(process.pid for process in remaining)}
        give_up = time.monotonic() + _END_TIMEOUT_S
        while remaining and time.monotonic() < give_up:
            remaining = [process for process in remaining if not _is_gone(process, own)]
            _end_strays()
            if remaining:
                time.sleep(_PAUSE_S)
        self.are_free()
        self.release()


def _kill(pid: int, pidfd: int) -> None:
    """By its number where there is no pidfd yet: nobody else can have waited for it."""
    if pidfd >= 0:
        lib.lcr_syscall(_NR_PIDFD_SEND_SIGNAL, pidfd, _SIGKILL, 0, 0, 0, 0)
    else:
        lib.lcr_syscall(_NR_KILL, pid, _SIGKILL, 0, 0, 0, 0)


def _is_gone(process: Process, own: set[int]) -> bool:
    """Whether it has ended and been waited for, or has another parent than those of ``own`` to do so.

    Takes what livecr can wait for: a tracer is told of the end of each task, and a process ends only after
    all its threads.
    """
    for tid in reversed(_tids(process.pid)):
        _take_end(tid)
    if process.pidfd >= 0:
        sent = int(lib.lcr_syscall(_NR_PIDFD_SEND_SIGNAL, process.pidfd, 0, 0, 0, 0, 0))
        if sent == -_ESRCH:
            return True
    try:
        return procfs.state(process.pid) in "ZX" and procfs.stat(process.pid)["ppid"] not in own
    except _GONE:
        return True


def _is_dead(pid: int, tid: int) -> bool:
    try:
        return procfs.read(pid, f"task/{tid}/stat").rpartition(b")")[2].split()[0] in b"ZX"
    except _GONE:
        return True


def _tids(pid: int) -> list[int]:
    try:
        return procfs.threads(pid)
    except _GONE:
        return [pid]


def _take_end(tid: int) -> None:
    """A stop may be reported before it; what belongs to others cannot be waited for."""
    status = ffi.new("int *")
    while lib.lcr_wait(tid, status, _WNOHANG) > 0:
        pass


def _end_strays() -> None:
    """What was born while its parent was killed is known to nobody, but traced by livecr; now an orphan."""
    for child in procfs.children(os.getpid()):
        try:
            is_traced = int(procfs.status(child)["TracerPid"]) == os.getpid()
        except _GONE:
            continue
        if is_traced:
            _kill(child, -1)
            _take_end(child)


def _prctl(option: int, argument: int) -> None:
    lib.lcr_syscall(_NR_PRCTL, option, argument, 0, 0, 0, 0)
