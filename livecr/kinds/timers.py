"""Timers of a process: the three interval timers and the POSIX timers, with the time that they have left.

Those of wall-clock time run on while the process is frozen, so what they have left is told as of the freeze.
One that fires meanwhile only leaves its signal pending: it is set again when that is taken. Relies on
/proc/PID/timers (proc_pid_timers(5)), on timer_gettime and getitimer from inside, and on
PR_TIMER_CREATE_RESTORE_IDS (6.15), or on timer ids being given out in ascending order before. Those of CPU
time go on with what they had left, although the CPU clocks themselves begin anew.
"""

from __future__ import annotations

from livecr.errors import Failed, Obstacle
from livecr.image.record import Record
from livecr.kernel import clock, cpu_clock, procfs
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from livecr.target.engine import Borrowed
    from livecr.target.spawn import Seed
    from livecr.waits.clocks import ProgramTime

__all__ = [
    *("IntervalTimer", "PosixTimer"),
    *("is_sender", "load", "obstacles", "save_interval", "save_posix", "source", "start_cpu_time"),
]

_ITIMERS, _REAL = 3, 0  # ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF
_SPEC_BYTES = 32  # struct itimerspec and struct itimerval: interval, value
_ID_TRIES = 1 << 16

PR_TIMER_CREATE_RESTORE_IDS, _ON, _OFF = 77, 1, 0
SIGEV_NONE = 1
# "notify" of /proc/PID/timers, and SIGEV_* (fs/proc/base.c, show_timer).
_NOTIFY = {"signal/pid": 0, "none/pid": SIGEV_NONE, "thread/pid": 2, "signal/tid": 4}
_SIGEVENT_BYTES = 64
TIMER_ABSTIME = 1
_SIGSET_BYTES = 8
SIGALRM, SI_TIMER, SI_KERNEL = 14, -2, 0x80
_ITIMER_SIGNALS = (SIGALRM, 26, 27)  # SIGVTALRM, SIGPROF
_SI_CODE, _SI_TIMERID = 8, 16  # where in siginfo
REAL_TIMER = -1  # no POSIX timer has this id
_ALARM = b"".join(word.to_bytes(4, "little") for word in (SIGALRM, 0, SI_KERNEL)).ljust(128, b"\0")
# What is left of a timer is known as well as the moment of asking: good enough, and how often to ask again.
_WINDOW_NS, _TRIES = 100_000, 4


class IntervalTimer(Record):
    """setitimer(2): ``which`` ITIMER_*; times in microseconds."""

    which: int
    interval_us: int
    remaining_us: int


class PosixTimer(Record):
    """timer_create(2): ``notify`` SIGEV_*, ``target`` the PID or TID, ``value`` sigev_value; times in ns.

    ``clock_owner``: of another process's CPU clock, which one that is (cpu_clock.born); in the image it may
    be that of a process of the same tree.
    """

    id: int
    clock: int
    notify: int
    signal: int
    value: int
    target: int
    interval_ns: int
    remaining_ns: int  # 0: disarmed
    overrun: int
    clock_owner: str = ""


def obstacles(pid: int) -> list[Obstacle]:
    """Timers that cannot be made again."""
    found = []
    for timer in procfs.posix_timers(pid):
        counted = cpu_clock.decode(int(timer["ClockID"]), pid)
        trouble = counted.trouble() if counted is not None else ""
        if trouble:
            text = f"POSIX timer {timer['ID']} is on {clock.clock_name(int(timer['ClockID']))}, but {trouble}"
            found.append(Obstacle(f"process {pid}", text, "try again when it has deleted that timer"))
    return found


def _clock_owner(clock_id: int, pid: int) -> str:
    counted = cpu_clock.decode(clock_id, pid)
    return "" if counted is None or counted.pid == pid else cpu_clock.born(counted.pid)


def source(info: bytes) -> int | None:
    """The POSIX timer that a pending signal comes from, REAL_TIMER, or None."""
    number, code, timer = (
        int.from_bytes(info[at : at + 4], "little", signed=True) for at in (0, _SI_CODE, _SI_TIMERID)
    )
    if code == SI_TIMER:
        return timer
    return REAL_TIMER if (number, code) == (SIGALRM, SI_KERNEL) else None


def is_sender(info: bytes) -> bool:
    """Whether a signal comes from any timer of the process, those that count CPU time too."""
    number, code = (int.from_bytes(info[at : at + 4], "little", signed=True) for at in (0, _SI_CODE))
    return code == SI_TIMER or (code == SI_KERNEL and number in _ITIMER_SIGNALS)


def save_interval(
    borrowed: Borrowed, fired: set[int], since_frozen_ns: Callable[[], int]
) -> list[IntervalTimer]:
    """The interval timers that are set, as at the freeze. ``fired``: the sources of signals since then."""
    found = []
    for which in range(_ITIMERS):
        program = Program()
        program.add("getitimer", which, borrowed.scratch)
        interval, remaining, asked_ns = _ask(borrowed, program, 1_000_000, since_frozen_ns)
        if which == _REAL:
            # One that has fired tells no more when. The kernel sets it again when SIGALRM is taken
            # (kernel/signal.c, dequeue_signal).
            if remaining or REAL_TIMER in fired:
                remaining += -(-asked_ns // 1000)
            elif interval:
                remaining = interval + -(-asked_ns // 1000)
        if remaining or interval:
            found.append(IntervalTimer(which=which, interval_us=interval, remaining_us=remaining))
    return found


def _ask(
    borrowed: Borrowed, program: Program, parts: int, since_frozen_ns: Callable[[], int]
) -> tuple[int, int, int]:
    """Interval and remaining time that ``program`` leaves in scratch, and when it was told that.

    The latest moment that it may have been: the timer must not fire before its time.
    """
    best: tuple[int, int, int] | None = None
    window_ns = 0
    for _ in range(_TRIES):
        before_ns = since_frozen_ns()
        borrowed.run(program)
        after_ns = since_frozen_ns()
        if best is None or after_ns - before_ns < window_ns:
            window_ns = after_ns - before_ns
            best = (*_times(borrowed.task.read(borrowed.scratch, _SPEC_BYTES), parts), after_ns)
        if window_ns <= _WINDOW_NS or not best[1]:
            break
    assert best is not None
    return best


def save_posix(
    pid: int, borrowed: Borrowed, waiting: set[int], fired: set[int], since_frozen_ns: Callable[[], int]
) -> list[PosixTimer]:
    """Every POSIX timer with what it had left at the freeze.

    ``waiting``: those whose signals are pending; ``fired``: of these those that came since the freeze.
    """
    found = []
    for timer in procfs.posix_timers(pid):
        number, clock_id = int(timer["ID"]), int(timer["ClockID"])
        asking = Program()
        asking.add("timer_gettime", number, borrowed.scratch)
        interval, remaining, asked_ns = _ask(borrowed, asking, 1_000_000_000, since_frozen_ns)
        if not clock.is_cpu(clock_id) and (remaining or number in fired):
            remaining += asked_ns
            if number in waiting and interval:
                remaining = (remaining - 1) % interval + 1  # it has gone on by whole intervals
        asking = Program()
        asking.add("timer_getoverrun", number)
        (overrun,) = borrowed.run(asking)
        signal, _, value = timer["signal"].partition("/")
        how, _, target = timer["notify"].partition(".")
        found.append(
            PosixTimer(
                id=number,
                clock=clock_id,
                notify=_NOTIFY[how],
                signal=int(signal),
                value=int(value, 16),
                target=int(target),
                interval_ns=interval,
                remaining_ns=remaining,
                overrun=overrun,
                clock_owner=_clock_owner(clock_id, pid),
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


def load(interval: list[IntervalTimer], posix: list[PosixTimer], seed: Seed, now: ProgramTime) -> None:
    """Make them again. What has passed of the program's time since the freeze they have no more.

    Those that count CPU time are not started yet.
    """
    for timer in posix:
        _create(timer, seed)
        if timer.overrun and timer.interval_ns and timer.notify != SIGEV_NONE:
            _overrun(timer, seed)
        if timer.remaining_ns and not clock.is_cpu(timer.clock):
            _arm(timer, seed, now)
    for itimer in interval:
        if itimer.which != _REAL:
            continue
        program = Program()
        left = itimer.remaining_us
        if left:
            left -= now.elapsed_ns() // 1000
            if left <= 0 and itimer.interval_us:
                # It has been due meanwhile, perhaps many times, which still is one signal.
                left = left % itimer.interval_us or itimer.interval_us
                program.add("rt_sigqueueinfo", seed.pid, SIGALRM, seed.put(_ALARM))
            left = max(1, left)
        at = seed.put(_spec(itimer.interval_us, left, 1_000_000))
        program.add("setitimer", itimer.which, at, 0)
        seed.run(program)


def start_cpu_time(interval: list[IntervalTimer], posix: list[PosixTimer], seed: Seed) -> None:
    """Start those that count CPU time, as late as can be: making the process uses some.

    What they have left is as it was: nothing ran meanwhile.
    """
    for timer in posix:
        if timer.remaining_ns and clock.is_cpu(timer.clock):
            program = Program()
            at = seed.put(_spec(timer.interval_ns, timer.remaining_ns, 1_000_000_000))
            program.add("timer_settime", timer.id, 0, at, 0)
            seed.run(program)
    for itimer in interval:
        if itimer.which != _REAL:
            program = Program()
            at = seed.put(_spec(itimer.interval_us, itimer.remaining_us, 1_000_000))
            program.add("setitimer", itimer.which, at, 0)
            seed.run(program)


def _arm(timer: PosixTimer, seed: Seed, now: ProgramTime) -> None:
    """One that has been due meanwhile is set to that moment: so the kernel counts how often it has been."""
    left, flags = timer.remaining_ns - now.elapsed_ns(), 0
    if left <= 0:
        left, flags = max(1, _clock_ns(timer.clock, seed) + left), TIMER_ABSTIME
    program = Program()
    at = seed.put(_spec(timer.interval_ns, left, 1_000_000_000))
    program.add("timer_settime", timer.id, flags, at, 0)
    seed.run(program)


def _clock_ns(clock_id: int, seed: Seed) -> int:
    """A clock of the program's."""
    asking = Program()
    now_at = seed.room(16)
    asking.add("clock_gettime", clock_id, now_at)
    seed.run(asking)
    raw = seed.leader.read(now_at, 16)
    return int.from_bytes(raw[:8], "little") * 1_000_000_000 + int.from_bytes(raw[8:], "little")


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
    now = _clock_ns(timer.clock, seed)
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
