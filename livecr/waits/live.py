"""What a running program waits in, seen without stopping it.

Relies on /proc/PID/task/TID/syscall (the call that a blocked task is in, with its arguments), /proc/PID/mem
and the deadline sources. Used before a freeze, to refuse what a freeze would harm, and by `livecr waits`.
"""

from __future__ import annotations

import os
import time

from livecr.errors import Failed, NoSuchProcess, Obstacle, Refused
from livecr.kernel import clock, leader, machine, procfs
from livecr.kernel.bpf import TaskIterator, Unavailable
from livecr.target.shim import Shims
from livecr.target.tracee import Tracee
from livecr.waits import abi, catalog, mixed, sockets
from livecr.waits.classify import argument_obstacle, belongs, clock_obstacle, first_call
from livecr.waits.deadlines import Evidence, asked, deadlines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.waits.abi import Abi
    from livecr.waits.catalog import Call
    from livecr.waits.deadlines import Deadline, ReadMemory

__all__ = [
    *(
        "Blocked",
        "LiveWait",
        "abi_of_process",
        "blocked",
        "live_waits",
        "obstacles_before_freeze",
        "read_memory",
        "waiting_calls",
    ),
]

_EINTR_WAY_OUT = "a freeze would end this call with EINTR: try again while no task is in it"


#: Calls that wait for a child only with CLONE_VFORK: by then it has been born (kernel/fork.c).
_BIRTHS = ("clone", "clone3", "vfork")
_FOR_CHILD = "for its child to execute something or to end, and cannot be stopped so long"
_VFORK_WAY_OUT = "try again when it has: what such a task is like, the kernel tells nobody"
_VFORK_S, _PAUSE_S = 1.0, 0.002


class Blocked:
    """A line of /proc/PID/task/TID/syscall. ``number`` is -1 for a task blocked outside of any call."""

    __slots__ = ("arguments", "number", "rip")

    def __init__(self, number: int, arguments: list[int], rip: int) -> None:
        self.number = number
        self.arguments = arguments
        self.rip = rip


def blocked(pid: int) -> dict[int, Blocked | None]:
    """Every task by TID; None for one that runs. Raises Refused when the process is gone."""
    tasks: dict[int, Blocked | None] = {}
    try:
        tids = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))
    except OSError:
        raise NoSuchProcess(f"process {pid}") from None
    for tid in tids:
        if tid == pid and leader.has_exited(pid):
            continue
        try:
            with open(f"/proc/{pid}/task/{tid}/syscall", encoding="ascii") as file:
                words = file.read().split()
        except PermissionError:
            raise Refused(
                "the kernel does not tell what it waits in",
                where=f"process {pid}",
                way_out="run livecr as root",
            ) from None
        except OSError:
            continue  # it has just ended
        if len(words) == 9:
            tasks[tid] = Blocked(int(words[0]), [int(word, 16) for word in words[1:7]], int(words[8], 16))
        else:
            tasks[tid] = Blocked(-1, [0] * 6, 0) if words[:1] == ["-1"] else None
    return tasks


def abi_of_process(pid: int) -> Abi:
    """By which convention a program makes its calls. Raises Refused when there is no such process."""
    try:
        return abi.of(machine.of_process(pid))
    except OSError:
        raise NoSuchProcess(f"process {pid}") from None


def waiting_calls(pid: int) -> dict[int, int]:
    """TID -> number of the system call that it is blocked in now (219 in restart_syscall)."""
    return {tid: task.number for tid, task in blocked(pid).items() if task is not None and task.number >= 0}


# -- what a freeze would harm -------------------------------------------------------------------------------


def obstacles_before_freeze(pid: int) -> list[Obstacle]:
    """Every task in a call that a mere freeze would end with EINTR, or that cannot be entered again."""
    table = abi_of_process(pid)
    tasks = blocked(pid)
    if table.name == machine.I386 and procfs.task_state(pid, leader.number(pid)) == "T":
        # The stop has ended their calls already. And of a stopped task that an earlier checkpoint has made
        # 64-bit calls in, /proc tells the arguments by the convention of these (TS_COMPAT), until it goes on.
        return []
    obstacles = mixed.obstacles(pid, tasks, table)
    if obstacles:
        return obstacles

    def read(address: int, size: int) -> bytes:
        return read_memory(pid, address, size)

    for tid, task in tasks.items():
        # A call that is not in the catalog is seldom blocked in: whether it is, the freeze will tell.
        call = table.find(task.number, task.arguments) if task is not None else None
        where = f"task {tid} of process {pid}"
        if task is None or call is None:
            continue
        if call.name in _BIRTHS and _stays_in_birth(pid, tid):
            obstacles.append(Obstacle(where, f"it waits in {call.name} {_FOR_CHILD}", _VFORK_WAY_OUT))
        elif call.how == "eintr" or call.key in table.reentered:
            timed = _has_timeout(call, task.arguments, read)
            if call.key not in (table.reentered if timed else table.reentered_untimed):
                obstacles.append(Obstacle(where, f"it waits in {call.name}", _EINTR_WAY_OUT))
            if (obstacle := argument_obstacle(call, task.arguments, where)) is not None:
                obstacles.append(obstacle)
        elif call.socket_option:
            found = sockets.polled(pid, call, task.arguments, read)
            if found is not None and found.trouble:
                obstacles.append(sockets.obstacle(where, call, found))
        elif (obstacle := clock_obstacle(call, task.arguments, pid, where)) is not None:
            obstacles.append(obstacle)
        elif call.encoding in _WRITTEN and not _writable(pid, call, task.arguments, read):
            text = f"it waits in {call.name} with its timeout in read-only memory"
            obstacles.append(Obstacle(where, text, _EINTR_WAY_OUT))
    return obstacles


def _stays_in_birth(pid: int, tid: int) -> bool:
    """Whether a task sleeps uninterruptibly in its call: mostly that is over soon."""
    give_up = time.monotonic() + _VFORK_S
    while True:
        try:
            state = procfs.task_state(pid, tid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state != "D":
            return False
        if time.monotonic() > give_up:
            return True
        time.sleep(_PAUSE_S)


def _has_timeout(call: Call, arguments: list[int], read: ReadMemory) -> bool:
    try:
        return asked(call, arguments, read, interrupted=False) is not None
    except Failed:
        return True  # a timeout that cannot be read now could be, when the call began


#: Timeouts in which the kernel leaves what is left; where it cannot, the call ends with EINTR (fs/select.c).
_WRITTEN = (catalog.LEFT, catalog.LEFT_TIMEVAL, catalog.LEFT_BY_STRUCT)


def _writable(pid: int, call: Call, arguments: list[int], read: ReadMemory) -> bool:
    try:
        address = call.timeout_at(arguments, read)
    except Failed:
        return False
    if address == 0:
        return True  # no timeout
    return any(m.start <= address < m.end and "w" in m.perms for m in procfs.mappings(pid, with_flags=False))


# -- what is shown ------------------------------------------------------------------------------------------


class LiveWait:
    """What one task does now.

    ``call``: the call's name, "running", or "blocked" outside of any call. ``on``: what it waits for, in
    words. ``clock``, ``deadline_ns`` (on the program's clock), ``remaining_ns``: None without timeout.
    ``source``, ``uncertainty_ns``: where the deadline was read and by how much it may be off.
    """

    __slots__ = (
        *("call", "clock", "comm", "deadline_ns", "on", "remaining_ns", "source", "tid", "uncertainty_ns"),
    )

    def __init__(self, tid: int, comm: str, call: str, on: str = "") -> None:
        self.tid = tid
        self.comm = comm
        self.call = call
        self.on = on
        self.clock: int | None = None
        self.deadline_ns: int | None = None
        self.remaining_ns: int | None = None
        self.source = ""
        self.uncertainty_ns = 0

    def __repr__(self) -> str:
        return f"LiveWait({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


def live_waits(pid: int, iterator: TaskIterator | None = None) -> list[LiveWait]:
    """Every task of a running program, which is not stopped and does not notice.

    ``iterator``: one that is already open; else one is opened, if BPF is to be had. Raises Refused when there
    is no such process or the kernel does not let us look.
    """
    if iterator is None:
        try:
            with TaskIterator.open() as opened:
                return _look(pid, opened)
        except Unavailable:
            pass
    return _look(pid, iterator)


def _look(pid: int, iterator: TaskIterator | None) -> list[LiveWait]:
    leader.look(pid)
    tasks = blocked(pid)
    table = abi_of_process(pid)
    try:
        evidence = Evidence.before_freeze(pid, iterator)
    except (FileNotFoundError, ProcessLookupError):
        raise Refused("the process ended", where=f"process {pid}") from None
    shims = Shims(Tracee(pid, leader.number(pid)), compat=table.name == machine.I386)
    for tid, task in tasks.items():
        own = shims.own_call(task.rip, task.arguments) if task is not None else None
        if task is not None and own is not None:
            task.number, task.arguments, deadline_ns = own
            if deadline_ns:
                evidence.made_again[tid] = deadline_ns
    return [_live_wait(pid, tid, task, table, evidence) for tid, task in tasks.items()]


def _live_wait(pid: int, tid: int, task: Blocked | None, table: Abi, evidence: Evidence) -> LiveWait:
    comm = _comm(pid, tid)
    if task is None or task.number < 0:
        return LiveWait(tid, comm, "running" if task is None else "blocked")

    def read(address: int, size: int) -> bytes:
        return read_memory(pid, address, size)

    table = mixed.table_of(task, read, table)
    number, block = task.number, evidence.restart_block(tid)
    restarted = number == table.restart_syscall
    if restarted:
        try:
            number = first_call(table, block, task.arguments, task.rip, read, f"task {tid}")
        except Refused:
            return LiveWait(tid, comm, "restart_syscall")
    call = table.find(number, task.arguments)
    if call is None:
        return LiveWait(tid, comm, table.call_name(number))
    wait = LiveWait(tid, comm, call.name, _on(pid, call, task.arguments))
    # Outside of restart_syscall the block is a remainder of some earlier call.
    own = block if restarted and block is not None and belongs(table, block, number) else None
    found = deadlines(tid, call, task.arguments, evidence, read, block=own, restarted=restarted)
    if found:
        _fill_in(wait, found[0], evidence)
    return wait


def _fill_in(wait: LiveWait, deadline: Deadline, evidence: Evidence) -> None:
    wait.clock = deadline.clock
    wait.deadline_ns = deadline.host_ns + evidence.offsets.get(clock.SHIFTED.get(deadline.clock, -1), 0)
    wait.source = deadline.source
    wait.uncertainty_ns = deadline.uncertainty_ns + evidence.clock_uncertainty_ns(deadline.clock)
    now_ns = evidence.clock_now_ns(deadline.clock)
    if now_ns is not None:
        wait.remaining_ns = max(0, deadline.host_ns - now_ns)


#: Names in the catalog of arguments that are the descriptor waited for.
_DESCRIPTORS = ("fd", "epfd", "fd_in", "fdin", "in_fd", "mqdes")


def _on(pid: int, call: Call, arguments: list[int]) -> str:
    for name, value in zip(call.arguments, arguments, strict=False):
        if name in _DESCRIPTORS:
            fd = value & 0xFFFFFFFF
            try:
                return f"fd {fd} -> {procfs.link(pid, f'fd/{fd}')}"
            except OSError:
                return f"fd {fd}"
        if name == "uaddr":
            return f"futex {value:#x}"
        if name in ("nfds", "nr_futexes"):
            return f"{value} {'descriptors' if name == 'nfds' else 'futexes'}"
        if name == "upid":
            pid_or_any = value & 0xFFFFFFFF
            return "any child" if pid_or_any == 0xFFFFFFFF else f"child {pid_or_any}"
    if call.timeout is not None and arguments[call.timeout]:
        return clock.clock_name(call.clock_of(arguments))
    return ""


def _comm(pid: int, tid: int) -> str:
    try:
        with open(f"/proc/{pid}/task/{tid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return "?"


def read_memory(pid: int, address: int, size: int) -> bytes:
    """Of a running program. Raises Failed where nothing can be read."""
    try:
        fd = os.open(procfs.path(pid, "mem"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = os.pread(fd, size, address)
        finally:
            os.close(fd)
    except (OSError, OverflowError) as error:
        raise Failed(f"memory at {address:#x}: {error}", where=f"process {pid}") from None
    if len(content) != size:
        raise Failed(f"memory at {address:#x} cannot be read", where=f"process {pid}")
    return content
