"""timerfd_create(2): a timer that is read. Its clock, deadline, interval, and the ticks not yet read.

Relies on fdinfo, on timerfd_gettime on a duplicate, and on TFD_IOC_SET_TICKS (CONFIG_CHECKPOINT_RESTORE). It
is armed from livecr, late, when the program's clocks are known. Called by descriptors.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.errors import Failed
from livecr.image.record import Record
from livecr.kernel import clock
from livecr.kernel.pidfd import Duplicate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from livecr.kernel import procfs
    from livecr.kinds.files import Keeper
    from livecr.waits.clocks import ProgramTime

__all__ = ["TimerFd", "arm", "load", "obstacle", "save"]

NR_IOCTL, NR_TIMERFD_CREATE, NR_TIMERFD_SETTIME, NR_TIMERFD_GETTIME = 16, 283, 286, 287
TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET = 1, 2
TFD_IOC_SET_TICKS = 0x40085400  # _IOW('T', 0, __u64)

_NS = 1_000_000_000
_FDINFO_BYTES = 4096
_TRIES, _SAMPLES = 20, 4
_SOON_NS = 200_000

# The clock whose time an absolute timer counts, by the timer's clock.
_COUNTED = {
    clock.REALTIME: clock.REALTIME,
    clock.REALTIME_ALARM: clock.REALTIME,
    clock.MONOTONIC: clock.MONOTONIC,
    clock.BOOTTIME: clock.BOOTTIME,
    clock.BOOTTIME_ALARM: clock.BOOTTIME,
}


class TimerFd(Record, tag="timerfd"):
    """``settime_flags`` TFD_TIMER_*; ``ticks``: expirations not yet read; ``flags``: O_NONBLOCK or 0.

    ``deadline_ns``: the next expiration on the clock that it counts, as the program sees that clock;
    ``remaining_ns``: until then, when it was saved. Both 0: disarmed. That the clock was set and the program
    has not yet been told (ECANCELED) cannot be seen from outside, and becomes a tick.
    """

    clock: int
    flags: int
    settime_flags: int
    ticks: int
    interval_ns: int
    remaining_ns: int
    deadline_ns: int


def obstacle(d: procfs.Descriptor, stat: os.stat_result) -> tuple[str, str] | None:
    """Nothing stands in the way."""
    return None


def _counted(clock_id: int, settime_flags: int) -> int:
    """A relative timer on CLOCK_REALTIME does not follow when that is set: it counts CLOCK_MONOTONIC.

    (kernel/time/hrtimer.c, __hrtimer_init)
    """
    counted = _COUNTED[clock_id]
    if counted == clock.REALTIME and not settime_flags & TFD_TIMER_ABSTIME:
        return clock.MONOTONIC
    return counted


# -- saving ------------------------------------------------------------------------------------------------


def save(pid: int, d: procfs.Descriptor, stat: os.stat_result, keeper: Keeper) -> TimerFd:
    """Of a frozen process. Nothing is consumed."""
    told = _fields(d.lines)
    clock_id, settime_flags = int(told["clockid"]), int(told["settime flags"], 8)
    counted = _counted(clock_id, settime_flags)
    with Duplicate(pid, d.fd) as fd:
        ticks, interval, remaining, deadline = _look(fd, counted)
    if deadline and counted in clock.SHIFTED:
        deadline += clock.offsets_ns(pid)[counted]
    return TimerFd(
        clock=clock_id,
        flags=d.flags & os.O_NONBLOCK,
        settime_flags=settime_flags,
        ticks=ticks,
        interval_ns=interval,
        remaining_ns=remaining,
        deadline_ns=deadline,
    )


def _fields(lines: list[str]) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _ns(told: str) -> int:
    """``(seconds, nanoseconds)``"""
    seconds, nanoseconds = told.strip("()").split(",")
    return int(seconds) * _NS + int(nanoseconds)


def _look(fd: int, counted: int) -> tuple[int, int, int, int]:
    """Ticks, interval, remaining, and the deadline on the host's ``counted`` clock.

    A periodic timer that has fired stands still until somebody asks: timerfd_gettime then counts the ticks
    that have been missed and starts it again (fs/timerfd.c). The timer still running, it can fire once more
    before it is read, which wakes an edge-triggered epoll_wait once more: epoll(7) permits that.
    """
    first = -1
    for _ in range(_TRIES):
        _gettime(fd)
        before, told, after = _fdinfo(fd, counted)
        ticks, interval, remaining = int(told["ticks"]), _ns(told["it_interval"]), _ns(told["it_value"])
        if not interval:
            if ticks:
                remaining = 0  # a one-shot that has just fired
            break
        if remaining:
            break
        first = ticks if first < 0 else first
    else:
        # Either it was set to 0 with an interval, or it fires faster than one can look.
        if ticks != first:
            return ticks, interval, 1, after
    if not remaining:
        return ticks, interval, 0, 0
    return ticks, interval, remaining, _deadline(fd, counted, before + remaining, after + remaining)


def _fdinfo(fd: int, counted: int) -> tuple[int, dict[str, str], int]:
    """What it says, and the time before and after; ticks and time left are of one moment."""
    file = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        before = clock.host_now_ns(counted)
        text = os.read(file, _FDINFO_BYTES)
        after = clock.host_now_ns(counted)
    finally:
        os.close(file)
    return before, _fields(text.decode("ascii").splitlines()), after


def _deadline(fd: int, counted: int, earliest: int, latest: int) -> int:
    """The kernel tells only the time left. What time that was, a few samples narrow down.

    The latest moment that they allow: the program must not see the timer expire before its time.
    """
    for _ in range(_SAMPLES):
        before = clock.host_now_ns(counted)
        remaining = _gettime(fd)
        after = clock.host_now_ns(counted)
        if before + remaining > latest or after + remaining < earliest:
            break  # it has fired in between: this is another expiration
        earliest, latest = max(earliest, before + remaining), min(latest, after + remaining)
    return latest


def _gettime(fd: int) -> int:
    spec = ffi.new("int64_t[4]")  # struct itimerspec: it_interval, it_value
    result = lib.lcr_syscall(NR_TIMERFD_GETTIME, fd, int(ffi.cast("uintptr_t", spec)), 0, 0, 0, 0)
    if result < 0:
        raise Failed(f"timerfd_gettime: {os.strerror(-result)}")
    return int(spec[2]) * _NS + int(spec[3])


# -- loading -----------------------------------------------------------------------------------------------


def load(record: TimerFd) -> int:
    """A new timerfd on the same clock, not yet armed."""
    flags = (record.flags & os.O_NONBLOCK) | os.O_CLOEXEC
    fd: int = lib.lcr_syscall(NR_TIMERFD_CREATE, record.clock, flags, 0, 0, 0, 0)
    if fd < 0:
        raise Failed(f"timerfd_create on {clock.clock_name(record.clock)}: {os.strerror(-fd)}")
    return fd


def arm(record: TimerFd, fd: int, now: ProgramTime) -> None:
    """Set the timer ``fd`` of livecr. Expirations that ``now`` is past are counted."""
    undone = _since_freeze(record, now)
    deadline, ticks = record.deadline_ns, record.ticks - undone
    cancel = record.settime_flags & TFD_TIMER_CANCEL_ON_SET
    if deadline:
        ahead = -undone * record.interval_ns
        left = _left_ns(record, now) + ahead
        if (ticks or undone) and record.interval_ns and left < _SOON_NS:
            # Setting the ticks would overwrite one that came between the two calls. The program does not run
            # yet, so it cannot see that those due any moment are counted now.
            due = (_SOON_NS - left) // record.interval_ns + 1
            ticks += due
            ahead += due * record.interval_ns
        if _is_absolute(record, now):
            # Also what was set as a relative time: it makes no difference, and loses nothing on the way.
            value = deadline - _offset_ns(record, now) + ahead
            _settime(fd, TFD_TIMER_ABSTIME | cancel, record.interval_ns, value)
        else:
            _settime(fd, 0, record.interval_ns, max(1, _left_ns(record, now) + ahead))
    elif cancel or record.interval_ns:
        # It has fired, or was set to 0. One that has fired can still be cancelled: let it fire again.
        _settime(fd, record.settime_flags, record.interval_ns, 1 if ticks else 0)
    if ticks:
        _call("TFD_IOC_SET_TICKS", NR_IOCTL, fd, TFD_IOC_SET_TICKS, ffi.new("uint64_t *", ticks))


def _since_freeze(record: TimerFd, now: ProgramTime) -> int:
    """How many of the expirations came after the freeze, before the timer was looked at.

    The program's clocks go on from the freeze, so for it these are still to come.
    """
    counted = _counted(record.clock, record.settime_flags)
    if counted not in clock.SHIFTED or not record.interval_ns or not record.deadline_ns:
        return 0
    ahead_ns = record.deadline_ns - now.frozen_at_ns[counted]
    return min(record.ticks, max(0, (ahead_ns - 1) // record.interval_ns))


def _is_absolute(record: TimerFd, now: ProgramTime) -> bool:
    """Whether the deadline stands as it is on the clock with which the timer was made."""
    counted = _counted(record.clock, record.settime_flags)
    return counted == _COUNTED[record.clock] and (counted == clock.REALTIME or now.is_shifted(counted))


def _offset_ns(record: TimerFd, now: ProgramTime) -> int:
    """The program's clock less livecr's own: an absolute time is one of the caller's time namespace."""
    counted = _counted(record.clock, record.settime_flags)
    if counted == clock.REALTIME or now.offsets is None:
        return 0
    return now.offsets[counted] - clock.offsets_ns(os.getpid())[counted]


def _left_ns(record: TimerFd, now: ProgramTime) -> int:
    counted = _counted(record.clock, record.settime_flags)
    if counted == clock.REALTIME:
        return record.deadline_ns - clock.now_ns(counted)
    if now.offsets is None:
        return record.remaining_ns - now.elapsed_ns()
    return record.deadline_ns - clock.host_now_ns(counted) - now.offsets[counted]


def _settime(fd: int, flags: int, interval: int, value: int) -> None:
    spec = ffi.new("int64_t[4]", [*divmod(interval, _NS), *divmod(value, _NS)])
    _call("timerfd_settime", NR_TIMERFD_SETTIME, fd, flags, spec)


def _call(name: str, number: int, fd: int, argument: int, structure: Any) -> None:
    result = lib.lcr_syscall(number, fd, argument, int(ffi.cast("uintptr_t", structure)), 0, 0, 0)
    if result < 0:
        raise Failed(f"{name}: {os.strerror(-result)}")
