"""When a sleeping task fell asleep: se.exec_start of /proc/PID/task/TID/sched (kernel/sched/debug.c).

The scheduler stamps exec_start whenever it accounts a task's run time, last when the task goes to sleep. The
stamp is rq_clock_task of the CPU, which stands still during interrupts and steal time, so it is calibrated
against CLOCK_MONOTONIC on that very CPU. Used by livecr.waits.deadlines where BPF is not to be had.
"""

from __future__ import annotations

import os

from livecr.kernel.clock import MONOTONIC, host_now_ns

__all__ = ["Calibration", "exec_start_ns", "fell_asleep_ns", "last_cpu"]

_TRIES = 8
#: What a call takes from entry to sleep, a preemption included; and how much rq_clock_task may lag meanwhile.
_ENTRY_NS = 5_000_000
_LAG_PER_NS = 50


class Calibration:
    """CLOCK_MONOTONIC (host) minus the scheduler's clock on one CPU, in ns, and how sure that is."""

    __slots__ = ("offset_ns", "uncertainty_ns")

    def __init__(self, offset_ns: int, uncertainty_ns: int) -> None:
        self.offset_ns = offset_ns
        self.uncertainty_ns = uncertainty_ns

    @classmethod
    def of_cpu(cls, cpu: int) -> Calibration | None:
        """Measured by running on that CPU for a moment; None when that is impossible."""
        allowed = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {cpu})
        except OSError:
            return None  # outside our cpuset, or gone offline
        try:
            best = None
            for _ in range(_TRIES):
                # The scheduler accounts a task that yields, which stamps our own exec_start now.
                before_ns = host_now_ns(MONOTONIC)
                os.sched_yield()
                stamp_ns = exec_start_ns(os.getpid(), os.getpid())
                # Only now: we may have been preempted, and stamped anew, up to the reading.
                window_ns = host_now_ns(MONOTONIC) - before_ns
                if stamp_ns is None:
                    return None
                if best is None or window_ns < best.uncertainty_ns:
                    best = cls(before_ns + window_ns // 2 - stamp_ns, window_ns)
            return best
        finally:
            os.sched_setaffinity(0, allowed)


def exec_start_ns(pid: int, tid: int) -> int | None:
    """se.exec_start of one task on the scheduler's clock; None when the kernel does not tell."""
    try:
        with open(f"/proc/{pid}/task/{tid}/sched", encoding="ascii", errors="replace") as lines:
            for line in lines:
                if line.startswith("se.exec_start"):
                    milliseconds, _, fraction = line.split(":")[1].strip().partition(".")
                    return int(milliseconds) * 1_000_000 + int(fraction)
    except (OSError, ValueError):
        pass
    return None


def last_cpu(pid: int, tid: int) -> int | None:
    """The CPU that the task last ran on (proc_pid_stat(5), processor); None when the task is gone."""
    try:
        with open(f"/proc/{pid}/task/{tid}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[36])
    except (OSError, ValueError, IndexError):
        return None


def fell_asleep_ns(pid: int, tids: list[int]) -> dict[int, tuple[int, int]]:
    """When each of the sleeping tasks fell asleep, CLOCK_MONOTONIC of the host, with its uncertainty, in
    ns."""
    found: dict[int, tuple[int, int]] = {}
    calibrations: dict[int, Calibration | None] = {}
    for tid in tids:
        cpu, stamp_ns = last_cpu(pid, tid), exec_start_ns(pid, tid)
        if cpu is None or stamp_ns is None:
            continue
        if cpu not in calibrations:
            calibrations[cpu] = Calibration.of_cpu(cpu)
        calibration = calibrations[cpu]
        if calibration is not None:
            asleep_ns = stamp_ns + calibration.offset_ns
            slept_ns = max(0, host_now_ns(MONOTONIC) - asleep_ns)
            found[tid] = (asleep_ns, calibration.uncertainty_ns + _ENTRY_NS + slept_ns // _LAG_PER_NS)
    return found
