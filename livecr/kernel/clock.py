"""The kernel's clocks, and what a time namespace adds to two of them.

Relies on clock_gettime(2) and time_namespaces(7): a namespace shifts CLOCK_MONOTONIC and CLOCK_BOOTTIME (the
program's clock = the host's clock + offset); all other clocks are the same everywhere. Restart blocks and
timers inside the kernel are on the host's clock. Used by livecr.waits and by whoever makes a time namespace
again.
"""

from __future__ import annotations

import os
import time

from livecr._native import lib
from livecr.kernel import leader

__all__ = [
    *("BOOTTIME", "MONOTONIC", "REALTIME", "TAI"),
    *("CLOCKS", "COUNTED", "SHIFTED", "clock_name", "host_now_ns", "is_cpu", "now_ns", "offsets_ns"),
]

REALTIME = 0
MONOTONIC = 1
PROCESS_CPUTIME = 2
THREAD_CPUTIME = 3
BOOTTIME = 7
REALTIME_ALARM = 8
BOOTTIME_ALARM = 9
TAI = 11

#: clock id -> name, <linux/time.h>. Negative ids are CPU clocks of other tasks or descriptors
#: (clock_getcpuclockid(3)).
CLOCKS = {
    REALTIME: "CLOCK_REALTIME",
    MONOTONIC: "CLOCK_MONOTONIC",
    PROCESS_CPUTIME: "CLOCK_PROCESS_CPUTIME_ID",
    THREAD_CPUTIME: "CLOCK_THREAD_CPUTIME_ID",
    BOOTTIME: "CLOCK_BOOTTIME",
    REALTIME_ALARM: "CLOCK_REALTIME_ALARM",
    BOOTTIME_ALARM: "CLOCK_BOOTTIME_ALARM",
    TAI: "CLOCK_TAI",
}

#: What a time namespace shifts; the alarm variant of a clock goes with the clock.
SHIFTED = {MONOTONIC: MONOTONIC, BOOTTIME: BOOTTIME, BOOTTIME_ALARM: BOOTTIME}

#: The clock whose time an alarm clock counts (kernel/time/alarmtimer.c, alarm_bases).
COUNTED = {REALTIME_ALARM: REALTIME, BOOTTIME_ALARM: BOOTTIME}

_NAMES = {"monotonic": MONOTONIC, "boottime": BOOTTIME, "1": MONOTONIC, "7": BOOTTIME}
_NR_SETNS = 308
_CLOCKFD = 3  # in the two lowest bits of an id below 0: the clock of a device
_CLONE_NEWTIME = 0x80
_UNSHIFTED = {MONOTONIC: 0, BOOTTIME: 0}

_own: dict[int, int] | None = None


def clock_name(clock: int) -> str:
    """CLOCK_..., also for ids that name another task's CPU clock."""
    if clock in CLOCKS or clock >= 0:
        return CLOCKS.get(clock, f"clock {clock}")
    from livecr.kernel import cpu_clock

    counted = cpu_clock.decode(clock, 0)
    if counted is None:
        return "the clock of a device"
    return counted.name


def is_cpu(clock: int) -> bool:
    """Whether it counts CPU time (kernel/cpu_clock tells whose)."""
    return clock in (PROCESS_CPUTIME, THREAD_CPUTIME) or (clock < 0 and clock & 3 != _CLOCKFD)


def now_ns(clock: int) -> int:
    """``clock`` as livecr itself sees it, in its own time namespace."""
    return time.clock_gettime_ns(clock)


def host_now_ns(clock: int) -> int:
    """``clock`` as the kernel's own timers count it."""
    global _own
    if _own is None:
        _own = offsets_ns(os.getpid())
    return time.clock_gettime_ns(clock) - _own.get(SHIFTED.get(clock, -1), 0)


def offsets_ns(pid: int) -> dict[int, int]:
    """What the time namespace of ``pid`` adds, by clock id (MONOTONIC and BOOTTIME), in ns.

    Raises FileNotFoundError or ProcessLookupError when there is no such process.
    """
    try:
        lives_in = os.readlink(leader.path(pid, "ns/time"))
    except FileNotFoundError:
        os.stat(f"/proc/{pid}")
        return dict(_UNSHIFTED)  # a kernel without time namespaces
    # timens_offsets tells about the namespace that children will be born in; mostly that is the same one.
    if os.readlink(leader.path(pid, "ns/time_for_children")) == lives_in:
        with open(leader.path(pid, "timens_offsets"), encoding="ascii") as lines:
            return _parse(lines.read())
    return _from_inside(pid)


def _parse(lines: str) -> dict[int, int]:
    offsets = dict(_UNSHIFTED)
    for line in lines.splitlines():
        name, seconds, nanoseconds = line.split()
        if name in _NAMES:
            offsets[_NAMES[name]] = int(seconds) * 1_000_000_000 + int(nanoseconds)
    return offsets


def _from_inside(pid: int) -> dict[int, int]:
    """A child of ours enters the namespace, which makes it the one for its children too, and reads there."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            namespace = os.open(leader.path(pid, "ns/time"), os.O_RDONLY | os.O_CLOEXEC)
            if lib.lcr_syscall(_NR_SETNS, namespace, _CLONE_NEWTIME, 0, 0, 0, 0) == 0:
                offsets = os.open("/proc/self/timens_offsets", os.O_RDONLY)
                os.write(writer, os.read(offsets, 4096))
        finally:
            os._exit(0)
    os.close(writer)
    try:
        told = os.read(reader, 4096).decode("ascii")
    finally:
        os.close(reader)
        os.waitpid(child, 0)
    if not told:
        raise PermissionError(f"the time namespace of process {pid} cannot be entered")
    return _parse(told)
