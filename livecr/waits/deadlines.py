"""Until when a task waits: the deadline sources, best first, and the evidence that they need.

``restart-block``  exact: what the interrupted call left in task->restart_block (BPF, read after the freeze)
``sleeper``        exact: the timer on the blocked task's kernel stack (BPF, read before the freeze)
``timer-list``     exact if unambiguous: timers of /proc/timer_list that the freeze made disappear
``scheduler``      when the task fell asleep, plus the timeout that it asked for
``argument``       what the call was given: exact where that is a point in time, else an upper bound

Of a sleep on a CPU clock only the first two and the last can tell; its times are CPU time.
Used by classify and by `livecr waits`.
"""

from __future__ import annotations

import os

from livecr.errors import Failed
from livecr.kernel import clock
from livecr.kernel.bpf import CPU, MINIMUM, Unavailable, switched_off
from livecr.waits import catalog, sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from livecr.kernel.bpf import RestartBlock, TaskIterator, TaskState
    from livecr.kernel.cpu_clock import CpuClock
    from livecr.kernel.timer_list import Timer
    from livecr.waits.catalog import Call

    ReadMemory = Callable[[int, int], bytes]

__all__ = [
    *("Asked", "Deadline", "Evidence", "asked", "deadlines", "getevents_arg", "minimum_left_ns"),
    *("moment", "restart_kind"),
]

_CLOCKS = (clock.MONOTONIC, clock.REALTIME, clock.BOOTTIME, clock.TAI)
_NS = 1_000_000_000


class Deadline:
    """A point in time on a clock of the host, where it was read, and by how much it may be off (all ns)."""

    __slots__ = ("clock", "host_ns", "source", "uncertainty_ns")

    def __init__(self, clock_id: int, host_ns: int, source: str, uncertainty_ns: int = 0) -> None:
        self.clock = clock_id
        self.host_ns = host_ns
        self.source = source
        self.uncertainty_ns = uncertainty_ns

    def __repr__(self) -> str:
        return f"Deadline({self.clock}, {self.host_ns}, {self.source!r}, {self.uncertainty_ns})"


# -- evidence


def moment() -> dict[int, int]:
    """Now, by every clock of the host that a wait can be on, in ns."""
    return {clock_id: clock.host_now_ns(clock_id) for clock_id in _CLOCKS}


class Evidence:
    """What was seen of one process before and after its freeze. Each source is read only if it may be
    needed."""

    def __init__(self, pid: int, iterator: TaskIterator | None) -> None:
        self.pid = pid
        self.frozen = False
        self.stopped = False  # by a signal, before the freeze: that has ended what its tasks were in
        self.together = {pid}  # the processes that are frozen at once
        self.before: dict[int, TaskState] = {}
        self.after: dict[int, TaskState] = {}
        self.at_rmtp: dict[
            tuple[int, int], bytes
        ] = {}  # what written.remember saw; (tid, address) -> timespec
        self.made_again: dict[int, int] = {}  # tid -> host's CLOCK_MONOTONIC; of those in shims
        self.asleep: dict[int, tuple[int, int]] = {}  # tid -> (when it fell asleep, uncertainty)
        self.timers_before: list[Timer] | None = None
        self.timers_after: list[Timer] | None = None
        self.offsets = clock.offsets_ns(pid)
        self._iterator = iterator
        self.before_at_ns = clock.host_now_ns(clock.MONOTONIC)
        self.now_ns = moment()

    @classmethod
    def before_freeze(cls, pid: int, iterator: TaskIterator | None) -> Evidence:
        """Read what only a running program shows. ``iterator`` is None where BPF is not to be had."""
        evidence = cls(pid, iterator)
        evidence.before = evidence._read_tasks()
        if iterator is None or switched_off("restart-block") or switched_off("sleeper"):
            evidence._read_lesser_sources()
        return evidence

    def after_freeze(self, pid: int, now_ns: dict[int, int]) -> None:
        """Read what the freeze has brought to light. ``now_ns``, of ``moment()``: what remaining times count
        from."""
        assert pid == self.pid
        self.now_ns = now_ns
        self.frozen = True
        self.after = self._read_tasks()
        if self.timers_before is not None:
            from livecr.kernel import timer_list

            self.timers_after = timer_list.sleepers()

    @property
    def frozen_at_ns(self) -> int:
        """CLOCK_MONOTONIC of the host when the tasks were all stopped (or of the last look at a running
        one)."""
        return self.now_ns[clock.MONOTONIC]

    def since_frozen_ns(self) -> int:
        """How much time has passed since then."""
        return clock.host_now_ns(clock.MONOTONIC) - self.frozen_at_ns

    def clock_now_ns(self, clock_id: int) -> int | None:
        """What the clock said at that moment; None for a CPU clock whose owner has ended meanwhile."""
        counted = self._cpu_clock(clock_id)
        if counted is None:
            return self.now_ns.get(clock_id)
        try:
            # A frozen one stands still, and a running one can only be read as it is now.
            return counted.now_ns()
        except OSError:
            return None

    def clock_uncertainty_ns(self, clock_id: int) -> int:
        """By how much that may be off: a CPU clock is exact only while its tasks do not run."""
        counted = self._cpu_clock(clock_id)
        if counted is None or (self.frozen and counted.pid in self.together):
            return 0
        from livecr.kernel import cpu_clock

        return cpu_clock.tick_ns()

    def clock_owner(self, clock_id: int) -> str:
        """Which process's CPU clock it is (cpu_clock.born), "" for all clocks but those of running ones."""
        counted = self._cpu_clock(clock_id)
        if counted is None or counted.pid in self.together:
            return ""
        from livecr.kernel import cpu_clock

        try:
            return cpu_clock.born(counted.pid)
        except OSError:
            return "ended"

    def _cpu_clock(self, clock_id: int) -> CpuClock | None:
        if not clock.is_cpu(clock_id):
            return None
        from livecr.kernel import cpu_clock

        return cpu_clock.decode(clock_id, self.pid)

    def restart_block(self, tid: int) -> RestartBlock | None:
        """The task's restart block, as fresh as it is to be had."""
        task = self.after.get(tid) if self.frozen else self.before.get(tid)
        return task.restart if task is not None else None

    def undoes(self) -> bool | None:
        """Whether the process has used semaphores with SEM_UNDO; None where that is not known."""
        return any(task.undoes for task in self.after.values()) if self.after else None

    def slept_until_frozen(self, tid: int) -> bool | None:
        """Whether it was the freeze, and nothing before it, that woke the task; None where that is not known.

        A task's count of voluntary switches (task->nvcsw) is one higher when only the ptrace stop came
        between.
        """
        before, after = self.before.get(tid), self.after.get(tid)
        if not self.frozen or after is None:
            return None
        return before is not None and (after.switches - before.switches) & 0xFFFFFFFF == 1

    def _read_tasks(self) -> dict[int, TaskState]:
        if self._iterator is None:
            return {}
        try:
            return self._iterator.read(self.pid)
        except Unavailable:
            return {}

    def _read_lesser_sources(self) -> None:
        from livecr.kernel import scheduler, timer_list

        if not switched_off("scheduler"):
            self.asleep = scheduler.fell_asleep_ns(
                self.pid, [int(name) for name in os.listdir(f"/proc/{self.pid}/task")]
            )
        if not switched_off("timer-list"):
            self.timers_before = timer_list.sleepers()


# -- what the call asked for


class Asked:
    """A timeout argument. ``left``: the kernel has written into it what was left when the call was
    interrupted."""

    __slots__ = ("absolute", "clock", "left", "ns")

    def __init__(self, clock_id: int, ns: int, absolute: bool = False, left: bool = False) -> None:
        self.clock = clock_id
        self.ns = ns
        self.absolute = absolute
        self.left = left


def asked(call: Call, arguments: list[int], read_memory: ReadMemory, *, interrupted: bool) -> Asked | None:
    """The timeout that the call was given; None when it was given none. Raises Failed if it cannot be
    read."""
    if call.timeout is None:
        return None
    value = call.timeout_at(arguments, read_memory)
    if call.encoding == catalog.MILLISECONDS:
        milliseconds = value & 0xFFFFFFFF
        return None if milliseconds >> 31 else Asked(clock.MONOTONIC, milliseconds * 1_000_000)
    command = None
    if call.encoding == catalog.GETEVENTS_ARG:
        value = getevents_arg(arguments, read_memory)[3]
    if call.encoding == catalog.FUTEX_OP:
        command = catalog.FUTEX_COMMANDS.get(arguments[1] & ~catalog.FUTEX_FLAGS)
        if command is None:
            return None  # the argument is no timeout there, but val2
    if value == 0:
        return None
    seconds, fraction = call.timespec.unpack(read_memory(value, call.timespec.size))
    if call.encoding in (catalog.LEFT_TIMEVAL, catalog.LEFT_BY_STRUCT):
        fraction *= 1000
    ns = seconds * _NS + fraction
    absolute = call.is_absolute(arguments)
    if command is not None:
        realtime = arguments[1] & catalog.FUTEX_CLOCK_REALTIME
        either = clock.REALTIME if realtime else clock.MONOTONIC
        return Asked(either if command[1] is None else command[1], ns, absolute)
    clock_id = call.clock_of(arguments)
    if call.encoding == catalog.ABS_IF_FLAG:
        # A relative sleep on CLOCK_REALTIME must not follow the clock when it is set (hrtimer_setup); one on
        # its alarm clock does (alarm_timer_nsleep).
        if clock_id == clock.REALTIME and not absolute:
            clock_id = clock.MONOTONIC
        return Asked(clock.COUNTED.get(clock_id, clock_id), ns, absolute)
    left = interrupted and call.encoding in (catalog.LEFT, catalog.LEFT_TIMEVAL, catalog.LEFT_BY_STRUCT)
    return Asked(clock_id, ns, absolute, left)


def getevents_arg(arguments: list[int], read_memory: ReadMemory) -> tuple[int, int, int, int]:
    """What io_uring_enter(2) was given at argp: sigmask, its size, min_wait_usec, and ts.

    Zeros where it was given none. Raises Failed if it cannot be read.
    """
    if arguments[3] & (catalog.ENTER_EXT_ARG | catalog.ENTER_EXT_ARG_REG) != catalog.ENTER_EXT_ARG:
        return 0, 0, 0, 0
    raw = read_memory(arguments[4], 24)
    fields = (raw[:8], raw[8:12], raw[12:16], raw[16:])
    return (*(int.from_bytes(field, "little") for field in fields),)  # type: ignore[return-value]


def minimum_left_ns(
    tid: int, call: Call, arguments: list[int], evidence: Evidence, read_memory: ReadMemory
) -> int:
    """What is left of the minimum time that io_uring_enter(2) is to wait; 0 if it has none, or it is over.

    All of it where that is not known. It has a timer of its own, and the timeout's comes after that
    (io_uring/io_uring.c, io_cqring_min_timer_wakeup).
    """
    if call.encoding != catalog.GETEVENTS_ARG:
        return 0
    try:
        minimum_ns = getevents_arg(arguments, read_memory)[2] * 1000
    except Failed:
        return 0
    if not minimum_ns:
        return 0
    task = evidence.before.get(tid)
    if task is None or task.sleeper is None or evidence.slept_until_frozen(tid) is False:
        return minimum_ns
    if task.sleeper.kind != MINIMUM:
        return 0
    return max(0, task.sleeper.soft_ns - evidence.now_ns[task.sleeper.clockid])


def _asked_of_socket(
    call: Call, arguments: list[int], evidence: Evidence, read_memory: ReadMemory
) -> Asked | None:
    polled = sockets.polled(evidence.pid, call, arguments, read_memory)
    return Asked(clock.MONOTONIC, polled.timeout_ns) if polled is not None else None


# -- the sources


def restart_kind(block: RestartBlock | None) -> str:
    """ "nanosleep", "futex", "poll", … as the restart function tells; "" for none."""
    return catalog.RESTART_FUNCTIONS.get(block.function, ("",))[0] if block is not None else ""


def deadlines(
    tid: int,
    call: Call,
    arguments: list[int],
    evidence: Evidence,
    read_memory: ReadMemory,
    *,
    block: RestartBlock | None,
    restarted: bool,
) -> list[Deadline]:
    """Every deadline to be found, best first; empty for a call without timeout.

    ``block``: the restart block if it belongs to this very call. ``restarted``: its restart block goes on
    with it, so its timeout argument was counted from an earlier moment than its last falling asleep.
    """
    if tid in evidence.made_again:
        return [_from_shim(call, arguments, evidence, tid)]
    try:
        timeout = asked(call, arguments, read_memory, interrupted=evidence.frozen)
        if call.socket_option:
            timeout = _asked_of_socket(call, arguments, evidence, read_memory)
        readable = True
    except Failed:
        timeout, readable = None, False
    if timeout is None and call.timeout is not None and readable:
        return []
    on_cpu_clock = call.clock_at is not None and clock.is_cpu(call.clock_of(arguments))
    found = [
        _from_restart_block(call, arguments, evidence, tid, block, timeout),
        _from_sleeper(evidence, tid, call.clock_of(arguments) if on_cpu_clock else None),
    ]
    if _waits_for_a_minimum(evidence, tid):
        found = [_behind_minimum(evidence, tid, call, arguments, read_memory, timeout)]
    if on_cpu_clock and restarted and timeout is not None and timeout.absolute:
        timeout = None  # a point in time on the clock as it was before a restore, see rearm
    if timeout is not None:
        found += [
            # Sockets have timers in jiffies, which are not in that list.
            None if call.socket_option else _from_timer_list(evidence, tid, timeout, restarted),
            _from_scheduler(evidence, tid, timeout, restarted),
        ]
        # A point in time does not age: better than anything that was measured.
        found.insert(2 if timeout.absolute else len(found), _from_argument(evidence, tid, timeout))
    return [deadline for deadline in found if deadline is not None]


def _from_shim(call: Call, arguments: list[int], evidence: Evidence, tid: int) -> Deadline:
    """It says it in CLOCK_MONOTONIC; a call until a point in time has to be told that on its own clock."""
    host_ns, clock_id = evidence.made_again[tid], clock.MONOTONIC
    if call.is_absolute(arguments) and call.encoding != catalog.FUTEX_OP:
        clock_id = call.clock_of(arguments)
    if clock_id not in clock.SHIFTED or clock_id not in evidence.now_ns:
        clock_id = clock.MONOTONIC
    return Deadline(
        clock_id, host_ns + evidence.now_ns[clock_id] - evidence.now_ns[clock.MONOTONIC], "argument"
    )


def _from_restart_block(
    call: Call,
    arguments: list[int],
    evidence: Evidence,
    tid: int,
    block: RestartBlock | None,
    timeout: Asked | None,
) -> Deadline | None:
    kind = restart_kind(block)
    if block is None:
        return None
    if kind == "nanosleep":
        # hrtimer_nanosleep stores the expiry with the task's slack added; the program asked for it without.
        task = evidence.after.get(tid) or evidence.before.get(tid)
        slack_ns = task.slack_ns if task is not None else 0
        return Deadline(block.clockid, block.expires_ns - slack_ns, "restart-block")
    if kind == "cpu":
        return Deadline(call.clock_of(arguments), block.expires_ns, "restart-block")
    if kind == "alarm":  # its clockid is an alarmtimer_type
        alarm_clock = call.clock_of(arguments)
        return Deadline(clock.COUNTED.get(alarm_clock, alarm_clock), block.expires_ns, "restart-block")
    if kind == "poll" and block.has_timeout:
        return Deadline(clock.MONOTONIC, block.end_ns, "restart-block")
    if kind == "futex":
        return Deadline(timeout.clock if timeout else clock.MONOTONIC, block.time_ns, "restart-block")
    return None


def _from_sleeper(evidence: Evidence, tid: int, cpu_clock_id: int | None) -> Deadline | None:
    """``cpu_clock_id``: of a sleep on a CPU clock."""
    task = evidence.before.get(tid)
    if task is None or task.sleeper is None or evidence.slept_until_frozen(tid) is False:
        return None
    sleeper = task.sleeper
    if (sleeper.kind == CPU) != (cpu_clock_id is not None):
        return None  # what an earlier sleep has left on the stack
    clock_id = sleeper.clockid if cpu_clock_id is None else cpu_clock_id
    return Deadline(clock_id, sleeper.soft_ns, "sleeper", sleeper.uncertainty_ns)


def _waits_for_a_minimum(evidence: Evidence, tid: int) -> bool:
    task = evidence.before.get(tid)
    return task is not None and task.sleeper is not None and task.sleeper.kind == MINIMUM


def _behind_minimum(
    evidence: Evidence,
    tid: int,
    call: Call,
    arguments: list[int],
    read_memory: ReadMemory,
    timeout: Asked | None,
) -> Deadline | None:
    """The sleeper is of the minimum time to wait; the timeout began with it."""
    minimum = _from_sleeper(evidence, tid, None)
    if minimum is None or timeout is None or timeout.absolute or call.encoding != catalog.GETEVENTS_ARG:
        return None
    asked_ns = getevents_arg(arguments, read_memory)[2] * 1000
    return Deadline(minimum.clock, minimum.host_ns - asked_ns + timeout.ns, "sleeper")


def _from_scheduler(evidence: Evidence, tid: int, timeout: Asked, restarted: bool) -> Deadline | None:
    if tid not in evidence.asleep or timeout.absolute or timeout.left or restarted:
        return None
    if clock.is_cpu(timeout.clock):
        return None
    asleep_ns, uncertainty_ns = evidence.asleep[tid]
    since = evidence.now_ns[timeout.clock] - evidence.frozen_at_ns
    return Deadline(timeout.clock, asleep_ns + since + timeout.ns, "scheduler", uncertainty_ns)


def _from_timer_list(evidence: Evidence, tid: int, timeout: Asked, restarted: bool) -> Deadline | None:
    if evidence.timers_before is None or timeout.clock not in evidence.now_ns:
        return None
    if evidence.frozen and evidence.timers_after is None:
        return None
    now_ns = evidence.now_ns[timeout.clock]
    since = now_ns - evidence.frozen_at_ns
    latest_ns = timeout.ns - evidence.offsets.get(timeout.clock, 0) if timeout.absolute else None
    if latest_ns is None:
        latest_ns = (evidence.frozen_at_ns if evidence.frozen else evidence.before_at_ns) + since + timeout.ns
    still = {timer.identity() for timer in evidence.timers_after or ()} if evidence.frozen else set()
    candidates = [
        timer.soft_ns
        for timer in evidence.timers_before
        if timer.clockid == timeout.clock
        and now_ns < timer.hard_ns
        and timer.soft_ns <= latest_ns
        and timer.identity() not in still
    ]
    if not candidates:
        return None
    estimate = _from_scheduler(evidence, tid, timeout, restarted)
    if estimate is None:
        # Before a freeze nothing has vanished, and nothing tells which of all timers is this task's.
        near = candidates if evidence.frozen else []
    else:
        candidates.sort(key=lambda soft_ns: abs(soft_ns - estimate.host_ns))
        near = [c for c in candidates if abs(c - estimate.host_ns) <= estimate.uncertainty_ns]
        if not near and evidence.frozen:
            # The task was kept from falling asleep for longer than expected: the nearest, but with a doubt.
            doubt_ns = abs(candidates[0] - estimate.host_ns) + estimate.uncertainty_ns
            return Deadline(timeout.clock, candidates[0], "timer-list", doubt_ns)
    if not near:
        return None
    return Deadline(timeout.clock, near[0], "timer-list", max(abs(c - near[0]) for c in near))


def _from_argument(evidence: Evidence, tid: int, timeout: Asked) -> Deadline:
    if timeout.absolute:
        host_ns = timeout.ns - evidence.offsets.get(timeout.clock, 0)
        return Deadline(timeout.clock, host_ns, "argument")
    full_ns = (evidence.clock_now_ns(timeout.clock) or 0) + timeout.ns
    looked_for_ns = evidence.frozen_at_ns - evidence.before_at_ns
    if timeout.left or evidence.slept_until_frozen(tid) is False:
        # Counted from some moment between the look before the freeze and the freeze.
        return Deadline(timeout.clock, full_ns, "argument", looked_for_ns)
    return Deadline(timeout.clock, full_ns, "argument", timeout.ns)
