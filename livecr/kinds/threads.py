"""Threads: what each task has for itself besides its registers and its wait.

Registers and FPU state are in the core's notes. Relies on PTRACE_GET_RSEQ_CONFIGURATION, get_robust_list(2)
from outside; what sigaltstack(2) and PR_GET_TID_ADDRESS tell only the task itself, BPF reads.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.errors import Failed
from livecr.image.record import Record
from livecr.kernel import procfs
from livecr.kernel.seccomp import Strict
from livecr.kinds import dispatch, scheduling, settings, signals, tls
from livecr.target.compat import CompatProgram
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel.bpf import TaskState
    from livecr.target.engine import Borrowed
    from livecr.target.process import Process
    from livecr.target.spawn import Seed
    from livecr.target.tracee import Tracee

__all__ = [
    *("AlternateStack", "Rseq", "Thread"),
    *("leave_critical_sections", "load", "load_pending", "save"),
]

PTRACE_GET_RSEQ_CONFIGURATION = 0x420F
NR_GET_ROBUST_LIST = 274
_ROBUST_LIST_BYTES = 24  # sizeof(struct robust_list_head)
_COMPAT_ROBUST_LIST_BYTES = 12  # and of struct compat_robust_list_head
PR_GET_TID_ADDRESS, PR_SET_NAME = 40, 15
PR_GET_TIMERSLACK, PR_SET_TIMERSLACK = 30, 29
_RSEQ_CS = 8  # offset of rseq_cs in struct rseq; struct rseq_cs: version and flags, start, length, abort
SS_ONSTACK = 1  # only tells that the stack is in use
SS_DISABLE, SS_AUTODISARM = 2, 1 << 31


class AlternateStack(Record):
    """sigaltstack(2)."""

    address: int
    flags: int
    size_bytes: int


class Rseq(Record):
    """rseq(2) registration."""

    address: int
    size_bytes: int
    signature: int


class Thread(Record):
    """One task. ``signal_mask``: the one that is in force when no call has a temporary one in place.

    ``compat_robust_list``: that of 32-bit pointers; ``tls``: struct user_desc of its entries in the GDT.
    """

    tid: int
    name: str
    signal_mask: int
    pending: list[bytes]  # siginfo, 128 bytes each
    alternate_stack: AlternateStack
    clear_child_tid: int
    robust_list: int
    rseq: Rseq | None
    timer_slack_ns: int
    scheduling: scheduling.Scheduling
    credentials: int  # index into the process's
    filters: list[int]  # of seccomp, the oldest first: indices into the process's
    strict: bool  # whether it is in seccomp's strict mode
    dispatch: dispatch.Dispatch | None
    settings: dict[str, int]
    compat_robust_list: int
    tls: list[bytes]


def save(
    task: Tracee,
    mask: int,
    credentials: int,
    filters: list[int],
    pending: list[bytes],
    own_settings: dict[str, int],
    seen: TaskState | None,
    borrowed: Borrowed | None,
) -> Thread:
    """Of one frozen task, in which the signals ``pending`` wait.

    ``seen``: what BPF has read of it; if None, it is asked for that too. A 32-bit one is always ``borrowed``.
    """
    if seen is not None:
        address, size, flags = seen.alternate_stack
        alternate = AlternateStack(
            address=address, flags=flags & SS_AUTODISARM | (0 if size else SS_DISABLE), size_bytes=size
        )
        slack, clear_child_tid = seen.timer_slack_ns, seen.clear_child_tid
    else:
        assert borrowed is not None
        alternate, slack, clear_child_tid = _ask(borrowed)
    name = seen.name if seen is not None else procfs.read(task.pid, f"task/{task.tid}/comm")[:-1]
    return Thread(
        tid=task.tid,
        name=name.decode("latin-1"),
        signal_mask=mask,
        pending=pending,
        alternate_stack=alternate,
        clear_child_tid=clear_child_tid,
        robust_list=seen.robust_list if seen is not None else _robust_list(task.tid),
        compat_robust_list=_compat_robust_list(borrowed) if borrowed and borrowed.registers.is_compat else 0,
        tls=tls.save(task) if seen is None or seen.has_segments else [],
        rseq=_rseq(task),
        timer_slack_ns=slack,
        scheduling=scheduling.save(task.tid),
        credentials=credentials,
        settings=own_settings,
        filters=filters,
        strict=isinstance(task.filters, Strict),
        dispatch=dispatch.save(task, seen),
    )


def _ask(borrowed: Borrowed) -> tuple[AlternateStack, int, int]:
    """What only the task itself can ask for, but for BPF: also its timer slack and clear_child_tid."""
    scratch = borrowed.scratch
    program = Program()
    program.add("sigaltstack", 0, scratch)
    program.add("prctl", PR_GET_TID_ADDRESS, scratch + 24, 0, 0, 0)
    program.add("prctl", PR_GET_TIMERSLACK, 0, 0, 0, 0)
    slack = borrowed.run(program)[-1]
    raw = borrowed.task.read(scratch, 32)
    words = [int.from_bytes(raw[8 * i : 8 * i + 8], "little") for i in range(4)]
    alternate = AlternateStack(address=words[0], flags=words[1] & 0xFFFFFFFF, size_bytes=words[2])
    return alternate, slack, words[3]


def _compat_robust_list(borrowed: Borrowed) -> int:
    program = CompatProgram()
    program.add("get_robust_list", 0, borrowed.scratch, borrowed.scratch + 8)
    borrowed.run(program)
    return int.from_bytes(borrowed.task.read(borrowed.scratch, 4), "little")


def _robust_list(tid: int) -> int:
    head, size = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    result = lib.lcr_syscall(
        NR_GET_ROBUST_LIST,
        tid,
        int(ffi.cast("uintptr_t", head)),
        int(ffi.cast("uintptr_t", size)),
        *(0, 0, 0),
    )
    if result < 0:
        raise Failed(f"get_robust_list: {os.strerror(-result)}", where=f"task {tid}")
    return int(head[0])


def _rseq(task: Tracee) -> Rseq | None:
    buffer = ffi.new("char[24]")
    result = lib.lcr_ptrace(PTRACE_GET_RSEQ_CONFIGURATION, task.tid, 24, int(ffi.cast("uintptr_t", buffer)))
    if result < 0:  # before 5.13
        raise Failed(f"reading its rseq registration: {os.strerror(-result)}", where=f"task {task.tid}")
    raw = bytes(ffi.buffer(buffer))
    address = int.from_bytes(raw[:8], "little")
    if not address:
        return None
    return Rseq(
        address=address,
        size_bytes=int.from_bytes(raw[8:12], "little"),
        signature=int.from_bytes(raw[12:16], "little"),
    )


def leave_critical_sections(frozen: Process) -> None:
    """Move every task that stands inside an rseq critical section to its abort address.

    The kernel does just that when a stopped task resumes (kernel/rseq.c, rseq_ip_fixup), but it looks at
    where the task then is; so it has to be done before registers are borrowed.
    """
    for task in frozen.tasks:
        registers = task.registers()
        if registers.call() >= 0:
            continue  # in a system call, which no critical section may make
        rseq = _rseq(task)
        if rseq is None:
            continue
        section = int.from_bytes(task.read(rseq.address + _RSEQ_CS, 8), "little")
        if not section:
            continue
        start, length, abort = (int.from_bytes(task.read(section + 8 + 8 * i, 8), "little") for i in range(3))
        if start <= registers.rip < start + length:
            task.set_registers(registers.copy(rip=abort))


# -- loading -----------------------------------------------------------------------------------------------


def load(thread: Thread, seed: Seed, task: Tracee) -> None:
    """What the task itself has to say to the kernel; signals, credentials and scheduling come later."""
    program = Program()
    name_at = seed.put(thread.name.encode("latin-1")[:15] + b"\0")
    program.add("prctl", PR_SET_NAME, name_at, 0, 0, 0)
    program.add("prctl", PR_SET_TIMERSLACK, thread.timer_slack_ns, 0, 0, 0)
    program.add("set_tid_address", thread.clear_child_tid)
    if thread.robust_list:
        program.add("set_robust_list", thread.robust_list, _ROBUST_LIST_BYTES)
    if thread.rseq:
        program.add("rseq", thread.rseq.address, thread.rseq.size_bytes, 0, thread.rseq.signature)
    stack = thread.alternate_stack
    if stack.address:
        words = (stack.address, stack.flags & ~SS_ONSTACK, stack.size_bytes)
        program.add("sigaltstack", seed.put(b"".join(word.to_bytes(8, "little") for word in words)), 0)
    seed.run(program, task)
    settings.load(settings.TASK, thread.settings, seed, task, late=False)
    if thread.compat_robust_list:
        compat = CompatProgram()
        compat.add("set_robust_list", thread.compat_robust_list, _COMPAT_ROBUST_LIST_BYTES)
        seed.run(compat, task)
    tls.load(thread.tls, task)


def load_pending(thread: Thread, seed: Seed, task: Tracee) -> None:
    """Signals that wait for this task alone."""
    signals.load_pending(thread.pending, seed, task, shared=False)
