"""CPU clocks: whose CPU time the clock with a certain id counts, and what it says.

An id below 0 is made of the complement of a TID or PID (0: the caller's own), of what is counted, and of a
bit for one thread's share; CLOCK_PROCESS_CPUTIME_ID and CLOCK_THREAD_CPUTIME_ID stand for two of these
(include/linux/posix-timers.h, kernel/time/posix-cpu-timers.c). The clock of any process can be read from
outside by clock_gettime(2); that of a thread is in /proc/PID/task/TID/schedstat. Called by waits and timers.
"""

from __future__ import annotations

import time

__all__ = ["CpuClock", "born", "decode", "tick_ns"]

_WHICH_MASK, _PER_THREAD, _NUMBER_SHIFT = 3, 4, 3
# What is counted: user and system time, user time, time on a CPU in ns; the fourth is no CPU clock (CLOCKFD).
CPUCLOCK_PROF, CPUCLOCK_VIRT, CPUCLOCK_SCHED = range(3)
_NAMES = ("user and system time", "user time", "CPU clock")
_ALIASES = {
    2: ~0 << _NUMBER_SHIFT | CPUCLOCK_SCHED,  # CLOCK_PROCESS_CPUTIME_ID
    3: ~0 << _NUMBER_SHIFT | _PER_THREAD | CPUCLOCK_SCHED,  # CLOCK_THREAD_CPUTIME_ID
}
_CLOCK_MONOTONIC_COARSE = 6
_STARTTIME = 22  # number of the field in /proc/PID/stat


class CpuClock:
    """A CPU clock that a process uses: ``pid`` is the process that it belongs to.

    ``tid``: the thread whose share it counts, 0 for the whole process. ``which``: CPUCLOCK_*.
    """

    __slots__ = ("pid", "tid", "which")

    def __init__(self, pid: int, tid: int, which: int) -> None:
        self.pid = pid
        self.tid = tid
        self.which = which

    @property
    def name(self) -> str:
        """Whose it is, in words."""
        owner = f"thread {self.tid}" if self.tid > 0 else f"process {self.pid}" if self.pid else ""
        if not owner:
            owner = "one thread" if self.tid else "its own process"
        return f"the {_NAMES[self.which]} of {owner}"

    def exists(self) -> bool:
        """Whether its process or thread is still there."""
        try:
            with open(self._proc("status"), encoding="utf-8", errors="replace") as file:
                return f"\nTgid:\t{self.pid}\n" in file.read()
        except OSError:
            return False

    def trouble(self) -> str:
        """Why nothing on this clock can be brought back, "" if it can."""
        if self.tid < 0:
            return "nothing tells which thread's it is"
        if self.tid and self.which != CPUCLOCK_SCHED:
            return "of one thread that clock cannot be read from outside"
        return "" if self.exists() else "it has ended"

    def now_ns(self) -> int:
        """What it says: exact while its tasks are off the CPUs, else up to a tick late. Raises OSError."""
        if not self.tid:
            return time.clock_gettime_ns(~self.pid << _NUMBER_SHIFT | self.which)
        with open(self._proc("schedstat"), encoding="ascii") as file:
            return int(file.read().split()[0])

    def _proc(self, name: str) -> str:
        return f"/proc/{self.pid}/task/{self.tid or self.pid}/{name}"


def decode(clock_id: int, pid: int) -> CpuClock | None:
    """The CPU clock that ``clock_id`` is for process ``pid``; None if it is another kind of clock.

    A thread's clock without a TID (CLOCK_THREAD_CPUTIME_ID) cannot be told from outside: its ``tid`` is -1.
    """
    clock_id = _ALIASES.get(clock_id, clock_id)
    if clock_id >= 0 or clock_id & _WHICH_MASK > CPUCLOCK_SCHED:
        return None
    number, which = ~(clock_id >> _NUMBER_SHIFT), clock_id & _WHICH_MASK
    if clock_id & _PER_THREAD:
        return CpuClock(pid, number or -1, which)
    return CpuClock(number or pid, 0, which)


def tick_ns() -> int:
    """How often the kernel brings the clocks of running tasks up to date, and looks at their timers."""
    return round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1e9)


def born(pid: int) -> str:
    """What tells process ``pid`` from all others that have ever had its number. Raises OSError."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return f"{boot}/{file.read().rpartition(')')[2].split()[_STARTTIME - 3]}"
