"""Restart blocks and sleepers of a thread group, read by the BPF task iterator of native/bpf/task.bpf.c.

Relies on task iterators that can be limited to one thread group (Linux 6.1), bpf_loop (5.17), the kernel's
own BTF, and CAP_BPF with CAP_PERFMON. Where any of it is missing, ``TaskIterator.open`` says so and the
lesser deadline sources take over. Used by livecr.waits.deadlines and `livecr doctor`.

``LIVECR_WITHOUT``, a comma list in the environment, switches deadline sources off, for tests and for
diagnosing: ``bpf`` (all of this file), ``restart-block``, ``sleeper``, ``timer-list``, ``scheduler``.
"""

from __future__ import annotations

import os
import time
from struct import Struct

from livecr._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    *(
        "CPU",
        "MINIMUM",
        "SOURCES",
        "RestartBlock",
        "Sleeper",
        "TaskIterator",
        "TaskState",
        "Unavailable",
        "look",
        "shared",
        "switched_off",
    ),
]

OBJECT = os.path.join(os.path.dirname(os.path.dirname(__file__)), "native", "task.bpf.o")
CACHE = "/run/livecr"

#: What LIVECR_WITHOUT may name: sources of deadlines, and at a restore the time namespace.
SOURCES = ("bpf", "restart-block", "sleeper", "timer-list", "scheduler", "time-namespace")

#: Sleeper.kind of a timer on a CPU clock.
CPU = "cpu"
#: And of one for the minimum time that io_uring_enter(2) is to wait; when that is over, another one begins.
MINIMUM = "minimum"

# struct task_report of native/bpf/task.bpf.c.
_REPORT = Struct("=II4Q 40s 2Q2I 3Q4I 3QI 3I2Q 2I 8Q4I2Q16s3I4x")
_SLEEPER_JIFFIES = 2
_SLEEPERS = {1: "hrtimer", 3: CPU, 4: MINIMUM}
_ENOSPC = 28
_CLOCK_MONOTONIC_COARSE = 6
_shared: TaskIterator | None = None


def switched_off(source: str) -> bool:
    """Whether LIVECR_WITHOUT names ``source`` (``bpf`` switches restart-block and sleeper off too)."""
    named = os.environ.get("LIVECR_WITHOUT", "").split(",")
    return source in named or ("bpf" in named and source in ("restart-block", "sleeper"))


class Unavailable(Exception):
    """The iterator cannot be used here; the text says why."""


class RestartBlock:
    """struct restart_block of one task. ``function`` is the kernel function that goes on with the call.

    ``rmtp_type``: TT_NONE (0), TT_NATIVE or TT_COMPAT, the structure that is at rmtp. Only the fields of the
    call that ``function`` belongs to hold anything. Times are ns on the host's clock,
    not that of the task's time namespace.
    """

    __slots__ = (
        *("function", "clockid", "rmtp", "rmtp_type", "expires_ns"),
        *("uaddr", "val", "flags", "bitset", "time_ns", "uaddr2"),
        *("ufds", "nfds", "has_timeout", "end_ns"),
    )

    if TYPE_CHECKING:
        function: str
        clockid: int
        rmtp: int
        rmtp_type: int
        expires_ns: int
        uaddr: int
        val: int
        flags: int
        bitset: int
        time_ns: int
        uaddr2: int
        ufds: int
        nfds: int
        has_timeout: bool
        end_ns: int

    def __repr__(self) -> str:
        return f"RestartBlock({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


class Sleeper:
    """The timer that will wake a blocked task.

    ``kind``: "hrtimer", "jiffies" (a timer of the timer wheel), CPU or MINIMUM. ``clockid``: the clock base,
    or the id of the CPU clock. ``soft_ns`` is the time asked for and ``hard_ns`` the time with the task's
    timer slack, both on the host's clock. ``uncertainty_ns``: 0, or two ticks for jiffies.
    """

    __slots__ = ("clockid", "hard_ns", "kind", "soft_ns", "uncertainty_ns")

    def __init__(self, kind: str, clockid: int, soft_ns: int, hard_ns: int, uncertainty_ns: int) -> None:
        self.kind = kind
        self.clockid = clockid
        self.soft_ns = soft_ns
        self.hard_ns = hard_ns
        self.uncertainty_ns = uncertainty_ns

    def __repr__(self) -> str:
        return f"Sleeper({self.kind}, clockid={self.clockid}, soft_ns={self.soft_ns}, hard_ns={self.hard_ns})"


class TaskState:
    """One task as the iterator saw it.

    ``state``: task->__state (0 is running). ``now_ns``: host CLOCK_MONOTONIC at that moment. ``slack_ns``:
    the slack the kernel adds to this task's sleeps. ``exec_start_ns``: scheduler clock when it last ran.
    ``switches``: how often it went to sleep or stopped (task->nvcsw, low 32 bits). ``undoes``: whether it has
    used semaphores with SEM_UNDO. The others are what prctl(2), sigaltstack(2) (``alternate_stack``: address,
    bytes, flags) and set_tid_address(2) have set. Tasks of one process with the same ``flags`` (TIF_*, PFA_*,
    PF_*, the parent death signal) get the same answers from prctl(2), with the same ``credentials`` (struct
    cred, and PFA_*, which has no_new_privs) they have the same ids, groups and capabilities. ``name``: as it
    is in comm; ``has_segments``: whether it has descriptors in the GDT (set_thread_area(2)).
    ``session_keyring``: its serial number; ``process_keys``, ``thread_keys``: how many are in those keyrings.
    ``dispatches``: PR_SET_SYSCALL_USER_DISPATCH is on.
    """

    __slots__ = (
        *("alternate_stack", "clear_child_tid", "credentials", "flags", "securebits", "timer_slack_ns"),
        *("has_segments", "name", "robust_list", "seccomp_mode"),
        *("dispatches", "process_keys", "session_keyring", "thread_keys"),
        *("exec_start_ns", "now_ns", "restart", "slack_ns", "sleeper", "state", "switches", "tid", "undoes"),
    )

    def __init__(
        self, tid: int, state: int, now_ns: int, slack_ns: int, exec_start_ns: int, switches: int
    ) -> None:
        self.tid = tid
        self.state = state
        self.now_ns = now_ns
        self.slack_ns = slack_ns
        self.exec_start_ns = exec_start_ns
        self.switches = switches
        self.restart: RestartBlock | None = None
        self.sleeper: Sleeper | None = None
        self.undoes = False
        self.securebits = self.timer_slack_ns = self.clear_child_tid = 0
        self.alternate_stack = (0, 0, 0)
        self.flags: tuple[int, ...] = ()
        self.credentials: tuple[int, ...] = ()
        self.seccomp_mode = self.robust_list = 0
        self.has_segments = True
        self.name = b""
        self.session_keyring = self.process_keys = self.thread_keys = 0
        self.dispatches = False

    def __repr__(self) -> str:
        return f"TaskState(tid={self.tid}, state={self.state:#x}, {self.restart!r}, {self.sleeper!r})"


def look(pid: int) -> dict[int, TaskState]:
    """The tasks of a running process by TID, as TaskIterator.read; none where BPF is not to be had."""
    try:
        return shared().read(pid)
    except Unavailable:
        return {}


def shared() -> TaskIterator:
    """The iterator that is opened once and stays open. Raises Unavailable."""
    global _shared
    if _shared is None or switched_off("bpf"):
        _shared = TaskIterator.open()
    return _shared


class TaskIterator:
    """The loaded program; close it, or use it in a ``with``."""

    def __init__(self, program: int) -> None:
        self._program = program

    @classmethod
    def open(cls, cache: str | None = None) -> TaskIterator:
        """Load the program. Raises Unavailable with the reason.

        ``cache``: a directory, by default CACHE, "" for none.
        """
        if switched_off("bpf"):
            raise Unavailable("switched off by LIVECR_WITHOUT")
        try:
            built = os.stat(OBJECT)
        except OSError as error:
            raise Unavailable(f"{OBJECT}: {error.strerror}") from None
        # The program relocated for one kernel fits only that kernel: keep it by boot.
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as boot_id:
            key = f"task-{boot_id.read().strip()}-{built.st_size}-{built.st_mtime_ns}"
        program = lib.lcr_bpf_open(
            OBJECT.encode(), (CACHE if cache is None else cache).encode(), key.encode()
        )
        if program < 0:
            said = ffi.string(lib.lcr_bpf_message()).decode(errors="replace")
            raise Unavailable(f"{os.strerror(-program)}{f' ({said})' if said else ''}")
        return cls(program)

    def read(self, pid: int) -> dict[int, TaskState]:
        """Every task of the thread group ``pid``, by TID. Raises Unavailable where the kernel cannot."""
        room = 1024 * _REPORT.size
        while True:
            buffer = ffi.new("char[]", room)
            got = lib.lcr_bpf_read(self._program, pid, buffer, room)
            if got != -_ENOSPC:
                break
            room *= 4
        if got < 0:
            raise Unavailable(f"reading the iterator: {os.strerror(-got)}")
        # The coarse clock resolves one tick (TICK_NSEC): the only place that tells HZ.
        tick_ns = round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1e9)
        use_restart, use_sleeper = not switched_off("restart-block"), not switched_off("sleeper")
        tasks = {}
        for row in _REPORT.iter_unpack(ffi.buffer(buffer, got)):
            task = _task_state(row, tick_ns)
            if not use_restart:
                task.restart = None
            if not use_sleeper:
                task.sleeper = None
            tasks[task.tid] = task
        return tasks

    def close(self) -> None:
        """Unload the program."""
        if self._program >= 0:
            lib.lcr_bpf_close(self._program)
            self._program = -1

    def __enter__(self) -> TaskIterator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _task_state(row: tuple[Any, ...], tick_ns: int) -> TaskState:
    tid, state, now_ns, jiffies, slack_ns, exec_start, name = row[:7]
    kind, clockid, switches, soft, hard = row[22:27]
    task = TaskState(tid, state, now_ns, slack_ns, exec_start, switches)
    task.undoes = bool(row[27])
    task.securebits, task.timer_slack_ns, task.clear_child_tid = row[28:31]
    task.alternate_stack = row[31:34]
    task.flags = (row[34], row[35], row[37], row[38])
    task.credentials = (row[36], row[35])
    task.seccomp_mode, task.dispatches, task.has_segments = row[39], bool(row[40]), bool(row[41])
    task.robust_list, task.name = row[42], row[43].split(b"\0", 1)[0]
    task.session_keyring, task.process_keys, task.thread_keys = row[44:47]
    block = RestartBlock()
    block.function = name.split(b"\0", 1)[0].decode()
    block.rmtp, block.expires_ns, block.clockid, block.rmtp_type = row[7:11]
    block.uaddr, block.time_ns, block.uaddr2, block.val, block.flags, block.bitset, block.nfds = row[11:18]
    block.ufds, seconds, nanoseconds, has_timeout = row[18:22]
    block.has_timeout = bool(has_timeout)
    block.end_ns = seconds * 1_000_000_000 + nanoseconds
    if block.function:
        task.restart = block
    if kind:
        if kind == _SLEEPER_JIFFIES:
            task.sleeper = _jiffies_sleeper(soft, jiffies, now_ns, tick_ns)
        else:
            clockid -= (clockid >> 31) << 32  # the id of a CPU clock is negative
            task.sleeper = Sleeper(_SLEEPERS[kind], clockid, soft, hard, 0)
    return task


def _jiffies_sleeper(expires: int, jiffies: int, now_ns: int, tick_ns: int) -> Sleeper:
    """timer->expires is the low word of jiffies_64; within the current tick the phase is not known.

    A timer fires in the tick after the one that it names, so that it is never early (kernel/time/timer.c,
    calc_index), and coarser the longer it runs; that is not counted.
    """
    ticks = (expires - jiffies) & 0xFFFFFFFFFFFFFFFF
    ticks -= (1 << 64) if ticks >> 63 else 0
    deadline_ns = now_ns + (ticks + 1) * tick_ns
    return Sleeper("jiffies", 1, deadline_ns, deadline_ns, 2 * tick_ns)
