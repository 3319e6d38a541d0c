"""Timers of a process: the three interval timers and the POSIX timers, with the time that they have left.

Relies on /proc/PID/timers (proc_pid_timers(5)), on timer_gettime and getitimer from inside, and on
PR_TIMER_CREATE_RESTORE_IDS (6.15), or on timer ids being given out in ascending order before.
"""

from __future__ import annotations

from livecr.errors import Failed, Obstacle
from livecr.image.record import Record
from livecr.kernel import procfs
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.engine import Borrowed
    from livecr.target.spawn import Seed

__all__ = ["IntervalTimer", "PosixTimer", "load", "obstacles", "save_interval", "save_posix"]

_ITIMERS = 3  # ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF
_SPEC_BYTES = 32  # struct itimerspec and struct itimerval: interval, value
_ID_TRIES = 1 << 16

CLOCK_THREAD_CPUTIME_ID = 3
PR_TIMER_CREATE_RESTORE_IDS, _ON, _OFF = 77, 1, 0
SIGEV_NONE = 1
# "notify" of /proc/PID/timers, and SIGEV_* (fs/proc/base.c, show_timer).
_NOTIFY = {"signal/pid": 0, "none/pid": SIGEV_NONE, "thread/pid": 2, "signal/tid": 4}
_SIGEVENT_BYTES = 64
TIMER_ABSTIME = 1
_SIGSET_BYTES = 8


class IntervalTimer(Record):
    """setitimer(2): ``which`` ITIMER_*; times in microseconds."""

    which: int
    interval_us: int
    remaining_us: int


class PosixTimer(Record):
    """timer_create(2): ``notify`` SIGEV_*, ``target`` the PID or TID, ``value`` sigev_value; times in ns."""

    id: int
    clock: int
    notify: int
    signal: int
    value: int
    target: int
    interval_ns: int
    remaining_ns: int  # 0: disarmed
    overrun: int


def obstacles(pid: int) -> list[Obstacle]:
    """Timers that cannot be made again."""
    return [
        Obstacle(
            f"process {pid}",
            f"POSIX timer {timer['ID']} counts one thread's CPU time",
            "this version of livecr cannot tell which thread's",
        )
        for timer in procfs.posix_timers(pid)
        if int(timer["ClockID"]) == CLOCK_THREAD_CPUTIME_ID
    ]


def save_interval(borrowed: Borrowed) -> list[IntervalTimer]:
    """The interval timers that are set."""
    program = Program()
    for which in range(_ITIMERS):
        program.add("getitimer", which, borrowed.scratch + which * _SPEC_BYTES)
    borrowed.run(program)
    raw = borrowed.task.read(borrowed.scratch, _ITIMERS * _SPEC_BYTES)
    found = []
    for which in range(_ITIMERS):
        interval, remaining = _times(raw[which * _SPEC_BYTES :], 1_000_000)
        if remaining or interval:
            found.append(IntervalTimer(which=which, interval_us=interval, remaining_us=remaining))
    return found


def save_posix(pid: int, borrowed: Borrowed) -> list[PosixTimer]:
    """Every POSIX timer with what it has left."""
    found = []
    for timer in procfs.posix_timers(pid):
        number = int(timer["ID"])
        program = Program()
        program.add("timer_gettime", number, borrowed.scratch)
        program.add("timer_getoverrun", number)
        _, overrun = borrowed.run(program)
        interval, remaining = _times(borrowed.task.read(borrowed.scratch, _SPEC_BYTES), 1_000_000_000)
        signal, _, value = timer["signal"].partition("/")
        how, _, target = timer["notify"].partition(".")
        found.append(
            PosixTimer(
                id=number,
                clock=int(timer["ClockID"]),
                notify=_NOTIFY[how],
                signal=int(signal),
                value=int(value, 16),
                target=int(target),
                interval_ns=interval,
                remaining_ns=remaining,
                overrun=overrun,
            )
        )
    return found


def _times(raw: bytes, parts: int) -> tuple[int, int]:
    words = [int.from_bytes(raw[8 * i : 8 * i + 8], "little") for i in range(4)]
    return words[0] * parts + words[1], words[2] * parts + words[3]


def _spec(interval: int, value: int, parts: int) -> bytes:
    words = (*divmod(interval, parts), *divmod(value, parts))
    return b"".join(word.to_bytes(8, "little") for word in words)


# -- loading -----------------------------------------------------------------------------------------------


def load(interval: list[IntervalTimer], posix: list[PosixTimer], seed: Seed, elapsed_ns: int) -> None:
    """Make them again. ``elapsed_ns``: how much of the program's time has passed since the freeze.

    CPU-time timers do not lose that: nothing ran.
    """
    for timer in posix:
        _create(timer, seed)
        left = timer.remaining_ns
        if left and timer.clock >= 0:
            left = max(1, left - elapsed_ns)
        if timer.overrun and timer.interval_ns and timer.notify != SIGEV_NONE:
            _overrun(timer, seed)
        if left:
            program = Program()
            at = seed.put(_spec(timer.interval_ns, left, 1_000_000_000))
            program.add("timer_settime", timer.id, 0, at, 0)
            seed.run(program)
    for itimer in interval:
        program = Program()
        left = itimer.remaining_us
        if left and itimer.which == 0:
            left = max(1, left - elapsed_ns // 1000)
        at = seed.put(_spec(itimer.interval_us, left, 1_000_000))
        program.add("setitimer", itimer.which, at, 0)
        seed.run(program)


def _create(timer: PosixTimer, seed: Seed) -> None:
    event = timer.value.to_bytes(8, "little") + timer.signal.to_bytes(4, "little")
    event += timer.notify.to_bytes(4, "little") + timer.target.to_bytes(4, "little")
    asking = Program()
    asking.add("prctl", PR_TIMER_CREATE_RESTORE_IDS, _ON, 0, 0, 0, must=False)
    (chosen,) = seed.run(asking)
    for _ in range(_ID_TRIES):
        event_at = seed.put(event.ljust(_SIGEVENT_BYTES, b"\0"))
        id_at = seed.put(timer.id.to_bytes(4, "little"))
        program = Program()
        program.add("timer_create", timer.clock, event_at, id_at)
        if chosen == 0:
            program.add("prctl", PR_TIMER_CREATE_RESTORE_IDS, _OFF, 0, 0, 0)
        seed.run(program)
        got = int.from_bytes(seed.leader.read(id_at, 4), "little", signed=True)
        if got == timer.id:
            return
        deleting = Program()
        deleting.add("timer_delete", got)
        seed.run(deleting)
        if got > timer.id:
            break
    raise Failed(f"POSIX timer {timer.id} cannot have its id again", where=f"process {seed.pid}")


def _overrun(timer: PosixTimer, seed: Seed) -> None:
    """Bring timer_getoverrun() to what it was.

    A timer set to a moment in the past fires at once, and when its signal is taken off the queue the kernel
    counts the intervals that have gone by since (kernel/time/posix-timers.c, common_hrtimer_rearm).
    """
    signal_set = (1 << (timer.signal - 1)).to_bytes(8, "little")
    asking = Program()
    now_at = seed.room(16)
    asking.add("clock_gettime", timer.clock, now_at)
    seed.run(asking)
    raw = seed.leader.read(now_at, 16)
    now = int.from_bytes(raw[:8], "little") * 1_000_000_000 + int.from_bytes(raw[8:], "little")
    start = now - timer.overrun * timer.interval_ns - timer.interval_ns // 2
    if start <= 0:
        return
    spec_at = seed.put(_spec(timer.interval_ns, start, 1_000_000_000))
    set_at = seed.put(signal_set)
    wait_at = seed.put(bytes(16))
    program = Program()
    program.add("timer_settime", timer.id, TIMER_ABSTIME, spec_at, 0)
    program.add("rt_sigtimedwait", set_at, 0, wait_at, _SIGSET_BYTES, must=False)
    seed.run(program)
