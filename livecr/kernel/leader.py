"""Processes whose leader, the first thread, has exited while others run: where /proc tells what they have.

Such a leader is a zombie without memory, descriptors or namespaces (kernel/exit.c, do_exit), and /proc/PID
shows just that. /proc/TID of any other thread shows the process; it is not listed, but can be opened. kcmp(2)
and pidfd_getfd(2) have to be given that TID too. Called by procfs, and by all who open files of /proc/PID.
"""

from __future__ import annotations

import os

from livecr.errors import Obstacle

__all__ = ["has_exited", "look", "number", "obstacles", "open_pidfd", "path"]

_PIDFD_THREAD = os.O_EXCL  # of pidfd_open(2) (6.9)
_GONE = (FileNotFoundError, ProcessLookupError)
#: By PID, a thread that lives; of the processes whose leader is known to have exited.
_alive: dict[int, int] = {}


def look(pid: int) -> None:
    """Find out whether the leader of a process has exited: to be called anew whenever it may have."""
    _alive.pop(pid, None)
    try:
        if _state(pid, pid) in "ZX":
            others = (int(name) for name in os.listdir(f"/proc/{pid}/task") if int(name) != pid)
            tid = next((tid for tid in sorted(others) if _state(pid, tid) not in "ZX"), 0)
            if tid:
                _alive[pid] = tid
    except _GONE:
        return  # it has just ended


def _state(pid: int, tid: int) -> str:
    try:
        with open(f"/proc/{pid}/task/{tid}/stat", "rb") as file:
            return chr(file.read().rpartition(b") ")[2][0])
    except _GONE:
        return "X"


def has_exited(pid: int) -> bool:
    """Whether it had when it was looked at."""
    return pid in _alive


def number(pid: int) -> int:
    """Of the process, for who looks at what its tasks have in common: its PID, or the TID of a thread."""
    return _alive.get(pid, pid)


def path(pid: int, name: str) -> str:
    """/proc/``pid``/``name``, of a thread that lives."""
    return f"/proc/{_alive.get(pid, pid)}/{name}"


def open_pidfd(pid: int) -> int:
    """A pidfd by which its descriptors can be had. Raises ProcessLookupError."""
    return os.pidfd_open(number(pid), _PIDFD_THREAD if has_exited(pid) else 0)


def obstacles(pid: int) -> list[Obstacle]:
    """Whether the kernel lacks what it takes to save such a process."""
    if not has_exited(pid):
        return []
    try:
        os.close(open_pidfd(pid))
    except ProcessLookupError:
        return []
    except OSError:
        what = "its first thread has exited (pthread_exit) while others run"
        return [Obstacle(f"process {pid}", what, "that takes pidfds of threads, which Linux 6.9 has")]
    return []
