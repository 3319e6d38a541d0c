"""Registers, restart block and deadline become a Wait: what a task was blocked in, and what it takes to be
so again.

Relies on the registers of a ptrace stop on the signal-delivery path (see restart) and, for a task that was
stopped and continued earlier and so sits in restart_syscall, on the restart function or on the instructions
before its `syscall`. Used by the checkpoint after the freeze; live.py is for before.
"""

from __future__ import annotations

from livecr.errors import Failed, Obstacle, Refused
from livecr.image.record import Record
from livecr.kernel import clock, procfs
from livecr.waits import abi, catalog, sockets
from livecr.waits.deadlines import deadlines, minimum_left_ns, restart_kind
from livecr.waits.restart import EINTR, how, interrupted_call
from livecr.waits.transfers import Rest, rest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from livecr.kernel.bpf import RestartBlock
    from livecr.target.tracee import Registers
    from livecr.waits.abi import Abi
    from livecr.waits.catalog import Call
    from livecr.waits.deadlines import Deadline, Evidence, ReadMemory
    from livecr.waits.sockets import Polled

__all__ = [
    *("WAIT_FOR_IT", "Wait", "belongs", "classify", "classify_all", "clock_obstacle"),
    *("disagreement_ns", "due_signals", "first_call"),
]


class Wait(Record):
    """One task's blocked system call.

    ``call``, ``name``, ``arguments`` (6, unsigned): the call as the program made it. ``restart_code``: what
    was in rax. ``how``: "redo" (the kernel makes it again by itself), "rearm" (its restart block must be
    made first) or "eintr" (it ended; it must be made again from outside). ``restarted``: the task sat in
    restart_syscall, not in the call itself. ``clock``, ``deadline_ns`` (on the program's clock, that is the
    host's plus the time namespace's offset) and ``remaining_ns`` (when it was frozen, not below 0) are None
    for a call without timeout. ``absolute``: the program gave a point in time; ``moved``: not this one, but
    one that a restore without a time namespace has put in its place. ``source`` and
    ``uncertainty_ns``: where the deadline was read and by how much it may be off; ``disagreement_ns``: by
    how much two exact sources differed, 0 normally. ``at_rmtp``: the struct timespec that was at the rmtp
    of a relative sleep before the freeze wrote to it, empty if there is none or it is not known. ``abi``:
    "x86-64" or "i386", which the number, the arguments and the structures are of. ``done``: how much the
    call had done before it was interrupted, to be added to what the rest returns. ``minimum_ns``: what is
    left of the least time that io_uring_enter is to wait. The rest
    is the restart block's, where it was read: ``kind`` ("nanosleep", "cpu", "alarm", "futex", "poll" or ""),
    ``rmtp`` of the sleeps, ``uaddr``, ``val``, ``flags``, ``bitset`` of futex, ``ufds``, ``nfds`` of poll.
    Every sleep on a CPU clock is of kind "cpu"; its times are CPU time. ``clock_owner``: of the CPU clock of
    a process that is not in the image, which one that is (kernel/cpu_clock.born).
    ``poll_events`` of a call on a socket with a timeout of its own (see sockets): what poll(2) waits for in
    its place on descriptor ``poll_fd``; 0 for any other call. ``socket_timeout_us``: that timeout, if it is
    to be lent to the call instead (see lent), else 0. ``rest``: what a transfer has yet to move.
    """

    call: int
    name: str
    arguments: list[int]
    restart_code: int
    how: str
    restarted: bool = False
    clock: int | None = None
    deadline_ns: int | None = None
    remaining_ns: int | None = None
    absolute: bool = False
    moved: bool = False
    source: str = ""
    uncertainty_ns: int = 0
    disagreement_ns: int = 0
    at_rmtp: bytes = b""
    done: int = 0
    minimum_ns: int = 0
    abi: str = "x86-64"
    kind: str = ""
    rmtp: int = 0
    uaddr: int = 0
    val: int = 0
    flags: int = 0
    bitset: int = 0
    ufds: int = 0
    nfds: int = 0
    clock_owner: str = ""
    poll_fd: int = 0
    poll_events: int = 0
    socket_timeout_us: int = 0
    rest: Rest | None = None


#: The way out where a call is not known or not supported.
WAIT_FOR_IT = "wait until the call has returned, then try again"


def classify_all(
    tasks: Iterable[tuple[int, Registers]], evidence: Evidence, read_memory: ReadMemory
) -> dict[int, Wait]:
    """The waits of many tasks by TID; those in no call are left out. Raises Refused that names every
    obstacle."""
    waits: dict[int, Wait] = {}
    obstacles = []
    for tid, registers in tasks:
        try:
            wait = classify(tid, registers, evidence, read_memory)
        except Refused as refused:
            obstacles.append(Obstacle(refused.where, refused.what, refused.way_out))
            continue
        if wait is not None:
            waits[tid] = wait
    if obstacles:
        raise Refused.because(obstacles)
    return waits


def classify(tid: int, registers: Registers, evidence: Evidence, read_memory: ReadMemory) -> Wait | None:
    """What the frozen task was blocked in, None if in nothing.

    ``read_memory(address, size)`` reads the program's memory and raises Failed where nothing is mapped.
    Raises Refused, with the task and the call named, for a call that livecr does not know how to enter
    again.
    """
    code = interrupted_call(registers)
    number = registers.call()
    table = abi.of_registers(registers)
    arguments = list(registers.arguments())
    call = table.find(number, arguments)
    if code is None:
        code = _ended_by_freeze(tid, table, registers, call, evidence, read_memory)
    if code is None:
        return None
    where = f"task {tid} of process {evidence.pid}"
    block = evidence.restart_block(tid) if how(code) == "rearm" else None
    restarted = number == table.restart_syscall
    if restarted:
        number = first_call(table, block, arguments, registers.rip, read_memory, where)
        call = table.find(number, arguments)
    _refuse_unknown(table, block, where)
    if call is None:
        name = table.call_name(number)
        raise Refused(f"it waits in {name}, which livecr does not know", where=where, way_out=WAIT_FOR_IT)
    obstacle = clock_obstacle(call, arguments, evidence.pid, where)
    obstacle = obstacle or argument_obstacle(call, arguments, where)
    if obstacle is not None:
        raise Refused(obstacle.object, where=obstacle.task, way_out=obstacle.way_out)
    if block is not None and not belongs(table, block, number):
        block = None
    polled = sockets.polled(evidence.pid, call, arguments, read_memory) if how(code) == "eintr" else None
    if polled is not None and polled.trouble:
        obstacle = sockets.obstacle(where, call, polled)
        raise Refused(obstacle.object, where=obstacle.task, way_out=obstacle.way_out)
    # An absolute sleep has a restart block of its own only if it was given one by a restore.
    given = how(code) == "rearm" and call.encoding == catalog.ABS_IF_FLAG and call.is_absolute(arguments)
    found = deadlines(tid, call, arguments, evidence, read_memory, block=block, restarted=restarted or given)
    done, left = 0, None
    if code == EINTR:
        done = max(0, registers.result())
        if done and polled is not None and not _has_time_left(found, evidence):
            return None  # its time is over, and it returns what there was
        left = rest(evidence.pid, call, arguments, done, polled is not None, read_memory)
    least_ns = minimum_left_ns(tid, call, arguments, evidence, read_memory)
    return _wait(
        tid, table, call, arguments, code, done, least_ns, restarted, found, block, polled, left, evidence
    )


def _has_time_left(found: list[Deadline], evidence: Evidence) -> bool:
    return bool(found) and found[0].host_ns > evidence.now_ns[found[0].clock]


def _ended_by_freeze(
    tid: int,
    table: Abi,
    registers: Registers,
    call: Call | None,
    evidence: Evidence,
    read_memory: ReadMemory,
) -> int | None:
    """EINTR for a call that a freeze has ended for good, be it with EINTR or with less than it was to do."""
    result, arguments = registers.result(), list(registers.arguments())
    if call is None or (result < 0 and result != EINTR):
        return None
    if result == EINTR:
        ours = _freeze_ends(call, arguments, evidence, read_memory) or evidence.slept_until_frozen(tid)
    elif registers.call() in table.done:
        ours = _cut_short(tid, registers, evidence)
    else:
        timed = sockets.polled(evidence.pid, call, arguments, read_memory) is not None
        ours = result > 0 and rest(evidence.pid, call, arguments, result, timed, read_memory) is not None
    # Else it is the program's own: its handler runs as soon as it is let go, or it is continued.
    if not ours or evidence.stopped:
        return None
    # A signal that the call's own mask lets through ends it once more as soon as it is made again.
    return EINTR if call.name in catalog.TEMPORARY_MASKS or not due_signals(evidence.pid, tid) else None


def _freeze_ends(call: Call, arguments: list[int], evidence: Evidence, read_memory: ReadMemory) -> bool:
    """Whether it is one of the calls that answer EINTR to a freeze."""
    return EINTR in call.codes or sockets.polled(evidence.pid, call, arguments, read_memory) is not None


def _cut_short(tid: int, registers: Registers, evidence: Evidence) -> bool:
    """Whether a call that tells how much it has done (catalog.DONE) was on the point of doing more.

    If it was not, and had got all that it wanted, it will find so when it is made again, and return at once.
    """
    if not evidence.slept_until_frozen(tid):
        return False
    _, second, third, flags, *_ = registers.arguments()
    if registers.call() == catalog.IO_URING_ENTER:
        return bool(flags & catalog.ENTER_GETEVENTS) and third & 0xFFFFFFFF > 0
    return registers.result() < second


def due_signals(pid: int, tid: int) -> int:
    """The signals that are pending and not blocked, bit n-1 for signal n. In a call with a temporary mask,
    those that this mask lets through."""
    told = procfs.status(pid, tid)
    pending = int(told["SigPnd"], 16) | int(told["ShdPnd"], 16)
    return pending & ~int(told["SigBlk"], 16)


def first_call(
    table: Abi,
    block: RestartBlock | None,
    arguments: list[int],
    rip: int,
    read_memory: ReadMemory,
    where: str,
) -> int:
    """Which call a task in restart_syscall was first blocked in. Raises Refused when nothing tells.

    ``rip``: the address behind its `syscall`; before that mostly stands `mov $number,%eax`.
    """
    _refuse_unknown(table, block, where)
    possible = table.restart_functions.get(block.function, ("", ()))[1] if block is not None else ()
    if len(possible) == 1:
        return possible[0]
    try:
        code = read_memory(rip - 7, 7)
    except Failed:
        code = b""
    if len(code) == 7 and code[0] == 0xB8 and code[5:] == table.instruction:
        number = int.from_bytes(code[1:5], "little")
        if number != table.restart_syscall and (not possible or number in possible):
            return number
    if block is not None and restart_kind(block) == "nanosleep":
        # They differ in where rmtp stands, which the block has too; and clock ids are small numbers. Of
        # 32-bit tasks there is a third, of another struct timespec, which matters only if there is an rmtp.
        is_clock = arguments[0] in clock.CLOCKS and arguments[3] == block.rmtp
        if is_clock and len(possible) > 2 and block.rmtp_type == _TT_NATIVE:
            return possible[2]
        return possible[0 if is_clock else 1]
    if block is not None and restart_kind(block) in ("cpu", "alarm"):
        return possible[
            block.rmtp_type == _TT_NATIVE
        ]  # of 32-bit tasks; they differ in struct timespec alone
    if block is not None and restart_kind(block) == "futex":
        return possible[0]  # both 32-bit ones have it in absolute time from now on
    raise Refused(
        "it sits in restart_syscall, and nothing tells which call that goes on with",
        where=where,
        way_out="let `livecr doctor` say why BPF cannot be used, or " + WAIT_FOR_IT,
    )


_TT_NATIVE = 1  # enum timespec_type, include/linux/restart_block.h


def belongs(table: Abi, block: RestartBlock, number: int) -> bool:
    """Whether the restart block can be that of this call."""
    return number in table.restart_functions.get(block.function, ("", ()))[1]


def _refuse_unknown(table: Abi, block: RestartBlock | None, where: str) -> None:
    if block is not None and block.function not in table.restart_functions:
        raise Refused(
            f"it waits in a call that {block.function} goes on with, which livecr does not know",
            where=where,
            way_out=WAIT_FOR_IT,
        )


_SUPPORTED_CLOCKS = (clock.REALTIME, clock.MONOTONIC, clock.BOOTTIME, clock.TAI, *clock.COUNTED)


def clock_obstacle(call: Call, arguments: list[int], pid: int, where: str) -> Obstacle | None:
    """A timeout of process ``pid`` on a clock that livecr cannot bring back.

    A sleep on the CPU clock of a thread that has ended never ends, but when a freeze interrupts it the kernel
    goes on with EINVAL; so that must not happen.
    """
    if call.timeout is None or arguments[call.timeout] == 0:
        return None
    clock_id = call.clock_of(arguments)
    if clock_id in _SUPPORTED_CLOCKS:
        return None
    from livecr.kernel import cpu_clock

    counted = cpu_clock.decode(clock_id, pid)
    trouble = "no such clock is known" if counted is None else counted.trouble()
    if not trouble:
        return None
    text = f"it waits in {call.name} on {clock.clock_name(clock_id)}, but {trouble}"
    ended = counted is not None and not counted.exists()
    return Obstacle(where, text, "it will not return unless a signal comes" if ended else WAIT_FOR_IT)


def argument_obstacle(call: Call, arguments: list[int], where: str) -> Obstacle | None:
    """An argument of io_uring_enter that cannot be given again with the time that is left."""
    if call.encoding == catalog.GETEVENTS_ARG and arguments[3] & catalog.ENTER_EXT_ARG_REG:
        return Obstacle(where, "it waits in io_uring_enter with registered arguments", WAIT_FOR_IT)
    return None


def _wait(
    tid: int,
    table: Abi,
    call: Call,
    arguments: list[int],
    code: int,
    done: int,
    minimum_ns: int,
    restarted: bool,
    found: list[Deadline],
    block: RestartBlock | None,
    polled: Polled | None,
    left: Rest | None,
    evidence: Evidence,
) -> Wait:
    kind = restart_kind(block)
    where = f"task {tid} of process {evidence.pid}"
    if not found and call.clock_at is not None and clock.is_cpu(call.clock_of(arguments)):
        raise Refused(
            f"nothing tells how much is left of its {call.name} on a CPU clock",
            where=where,
            way_out="let `livecr doctor` say why BPF cannot be used, or " + WAIT_FOR_IT,
        )
    fields: dict[str, Any] = {}
    if block is not None:
        fields = {name: getattr(block, name) for name in _FIELDS_OF_KIND.get(kind, ())}
    if found:
        best = found[0]
        offset_ns = evidence.offsets.get(clock.SHIFTED.get(best.clock, -1), 0)
        now_ns = evidence.clock_now_ns(best.clock)
        if now_ns is None:
            text = f"it waits in {call.name} on {clock.clock_name(best.clock)}, which has just ended"
            raise Refused(text, where=where, way_out=WAIT_FOR_IT)
        if clock.is_cpu(best.clock):
            kind = "cpu"
            fields["clock_owner"] = evidence.clock_owner(best.clock)
        fields |= {
            "clock": best.clock,
            "deadline_ns": best.host_ns + offset_ns,
            "remaining_ns": max(0, best.host_ns - now_ns),
            "absolute": call.is_absolute(arguments),
            "moved": call.is_absolute(arguments) and how(code) == "redo" and tid in evidence.made_again,
            "source": best.source,
            "uncertainty_ns": best.uncertainty_ns + evidence.clock_uncertainty_ns(best.clock),
            "disagreement_ns": disagreement_ns(found),
        }
    writes_rmtp = how(code) == "rearm" and "rmtp" in call.arguments and not call.is_absolute(arguments)
    if writes_rmtp and evidence.slept_until_frozen(tid) is not False:
        before = evidence.at_rmtp.get((tid, arguments[call.arguments.index("rmtp")]), b"")
        fields["at_rmtp"] = before[: call.timespec.size]
    # A stop of the program's own has the kernel make io_pgetevents again, with all of its timeout.
    again = "eintr" if found and call.key in table.reentered and not evidence.stopped else how(code)
    return Wait(
        call=call.number,
        name=call.name,
        arguments=arguments,
        restart_code=code,
        how=again,
        done=done,
        minimum_ns=minimum_ns,
        restarted=restarted,
        abi=table.name,
        kind=kind,
        poll_fd=polled.fd if polled is not None else 0,
        poll_events=polled.events if polled is not None else 0,
        socket_timeout_us=polled.timeout_ns // 1000
        if polled is not None and polled.lent and left is None
        else 0,
        rest=left,
        **fields,
    )


#: What a restart block holds, by its kind.
_FIELDS_OF_KIND = {
    "nanosleep": ("rmtp",),
    "cpu": ("rmtp",),
    "alarm": ("rmtp",),
    "futex": ("uaddr", "val", "flags", "bitset"),
    "poll": ("ufds", "nfds"),
}

#: What a sleeper may differ by from what it was asked for: the kernel adds the task's slack when it restarts
#: a sleep.
_SLACK_NS = 1_000_000


def disagreement_ns(found: list[Deadline]) -> int:
    """By how much the best source and the next measured one differ, beyond what either may be off."""
    best = found[0]
    worst = 0
    for other in found[1:]:
        if other.clock == best.clock and other.source in ("sleeper", "timer-list"):
            allowed = best.uncertainty_ns + other.uncertainty_ns + _SLACK_NS
            worst = max(worst, abs(other.host_ns - best.host_ns) - allowed)
    return max(0, worst)
